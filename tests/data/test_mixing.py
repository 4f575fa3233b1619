"""Mixing against NumPy: what each pixel shows, and that the targets weight it so."""

import jax
import numpy as np
import pytest
from scipy import stats

from dynnas_jax.data import mixing

BATCH, CLASSES = 64, 64  # every image a class of its own, so that a target names the partner


def mixed(height=12, width=9, seed=0, **options):
    """(partner int[b], own weight float[b], images, mixed images); image i has the constant value 3 i + 1."""
    values = np.arange(BATCH) * 3 + 1
    images = np.broadcast_to(values[:, None, None, None], (BATCH, height, width, 2)).astype(np.uint8)
    mix = jax.jit(mixing.rule(**options))
    out, targets = mix(jax.random.key(seed), images, np.eye(CLASSES, dtype=np.float32))
    out, targets = np.asarray(out), np.asarray(targets, np.float64)
    assert out.dtype == np.uint8
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    own = np.diagonal(targets).copy()
    others = targets - np.diag(own)
    partner = np.where(others.max(axis=1) > 0, others.argmax(axis=1), np.arange(BATCH))
    assert np.all((others > 0).sum(axis=1) <= 1)
    return partner, own, values, out


def test_mixup_averages_two_images_as_their_labels():
    partner, own, values, out = mixed(mixup=0.8)
    np.testing.assert_allclose(out[:, 0, 0, 0], own * values + (1 - own) * values[partner], atol=0.502)
    assert np.all(out == out[:, :1, :1, :1])
    whole = np.flatnonzero(partner == np.arange(BATCH))  # whose share rounded to 1
    assert len(whole) < 14
    np.testing.assert_array_equal(np.delete(partner, whole), np.delete(np.arange(BATCH)[::-1], whole))
    assert len(set(np.round(own, 4))) > 40


@pytest.mark.parametrize("shape", [(12, 9), (7, 7), (16, 3)])
def test_cutmix_pastes_one_box_and_counts_its_pixels(shape):
    partner, own, values, out = mixed(*shape, cutmix=1.0)
    pasted = 0
    for place in range(BATCH):
        image = out[place, :, :, 0]
        foreign = image != values[place]
        assert set(image[foreign]) <= {values[partner[place]]}
        np.testing.assert_allclose(own[place], 1 - foreign.mean(), rtol=1e-6, atol=1e-7)
        rows, columns = np.flatnonzero(foreign.any(axis=1)), np.flatnonzero(foreign.any(axis=0))
        if len(rows):
            assert foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            pasted += 1
    assert pasted > 40


def test_boxes_have_the_paper_sizes():
    """Uncut boxes have the sides floor(length sqrt(1 - share)), all shares as likely (alpha 1); by their centres."""
    share = np.linspace(0.0, 1.0, 400, dtype=np.float32)
    kept = np.asarray(jax.jit(lambda k, s: mixing._outside_boxes(k, s, 20, 30))(jax.random.key(0), share))
    rows, columns = (1 - kept).max(axis=2).sum(axis=1), (1 - kept).max(axis=1).sum(axis=1)
    most_rows, most_columns = np.floor(20 * np.sqrt(1 - share)), np.floor(30 * np.sqrt(1 - share))
    assert np.all(rows <= most_rows)
    assert np.all(columns <= most_columns)
    small = (share > 0.9) & (share < 1)
    assert np.mean((rows == most_rows)[small]) > 0.6
    assert np.all(rows >= np.floor(most_rows / 2))  # the centre lies in the image
    assert rows[0] < 20 or columns[0] < 30 or kept[0].sum() == 0


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha):
    """The inverse of SciPy's cumulative distribution, and one batch's shares by a test of Kolmogorov and Smirnov."""
    quantile = np.random.default_rng(0).uniform(0, 1, 2000).astype(np.float32)
    found = np.asarray(mixing._beta(alpha)(quantile), np.float64)
    lower = (found > 1e-30) & (found < 0.5)  # float32 is coarse near 1
    np.testing.assert_allclose(stats.beta.cdf(found[lower], alpha, alpha), quantile[lower], atol=1e-3)
    assert abs(np.mean(found < 0.5) - 0.5) < 0.03
    assert stats.kstest(mixed(2, 2, mixup=alpha)[1], stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_both_kinds_share_the_batch():
    boxed = 0
    for seed in range(4):
        _, own, values, out = mixed(seed=seed, mixup=1.0, cutmix=1.0)
        whole = np.all(out == out[:, :1, :1, :1], axis=(1, 2, 3))
        boxed += np.sum(~whole)
        averaged = whole & (own < 0.99) & (own > 0.01)
        assert np.mean(out[averaged, 0, 0, 0] != values[averaged]) > 0.9
    assert 80 < boxed < 150


def test_probability_leaves_images_alone():
    _, own, values, out = mixed(mixup=1.0, probability=0.25)
    alone = own == 1
    assert 36 < alone.sum() < 58
    np.testing.assert_array_equal(out[alone, 0, 0, 0], values[alone])
    assert np.all(mixed(cutmix=1.0, probability=0)[1] == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "mixup=0 and cutmix=0 in data.mixing.rule: give one of them"),
        ({"mixup": -0.2}, "mixup=-0.2 in data.mixing.rule: give a number of at least 0"),
        ({"cutmix": float("nan")}, "cutmix=nan"),
        ({"mixup": 0.2, "probability": 1.5}, "probability=1.5 in data.mixing.rule: must lie in 0 to 1"),
    ],
)
def test_impossible_values(options, message):
    with pytest.raises(ValueError, match=message):
        mixing.rule(**options)
