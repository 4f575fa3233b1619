"""The criteria against their definitions, computed another way."""

import tracemalloc

import numpy as np
import pytest

from dynnas_jax.search import stage_importance
from dynnas_jax.search.stage_importance import CRITERIA, bounds, il_fs, inf_fs, needed_bytes, of_stage, paths, pls, plsa


def samples(features=12, count=90, classes=3, seed=0):
    """Features of which the first tell the class, and the last is constant."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    x = generator.normal(size=(count, features))
    x[:, :3] += 2 * labels[:, None]
    x[:, -1] = 1.5
    return x, labels


def vip(x, labels, components):
    """VIP by deflation with singular vectors, and what a component explains from least squares on the scores so far."""
    y = (labels[:, None] == np.unique(labels)).astype(float)
    deviation = x.std(axis=0, ddof=1)
    x = (x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    y = (y - y.mean(axis=0)) / y.std(axis=0, ddof=1)
    weights, scores, explained, rest, left = [], [], [], x, y
    for _ in range(components):
        w = np.linalg.svd(rest.T @ left)[0][:, 0]
        t = rest @ w
        rest = rest - np.outer(t, t @ rest) / (t @ t)
        left = left - np.outer(t, t @ left) / (t @ t)
        weights.append(w)
        scores.append(t)
        fit = np.stack(scores, axis=1)
        residual = y - fit @ np.linalg.lstsq(fit, y, rcond=None)[0]
        explained.append((y**2).sum() - (residual**2).sum())
    explained = np.diff([0, *explained])
    return np.sqrt(x.shape[1] * (np.stack(weights, axis=1) ** 2 @ explained) / explained.sum())


@pytest.mark.parametrize("components", [1, 2, 4])
def test_vip_is_what_deflation_and_least_squares_give(components):
    x, labels = samples()
    found = pls(x, labels, components=components)
    np.testing.assert_allclose(found, vip(x, labels, components), rtol=1e-4, atol=1e-6)
    assert (found**2).mean() == pytest.approx(1)
    assert found[-1] == 0, "a constant feature tells nothing"
    assert found[:3].min() > found[3:].max()


def test_pls_has_no_more_components_than_there_are_features():
    x, labels = samples(features=4)
    np.testing.assert_allclose(pls(x, labels, components=50), pls(x, labels, components=3))
    assert (pls(x[:, 3:], labels) == 1).all(), "nothing is told by a constant"


@pytest.mark.parametrize("size", [1, 7, 80])
def test_the_closed_form_is_the_sum_of_the_powers(size):
    graph = np.random.default_rng(1).uniform(0, 1, (size, size))
    graph = graph + graph.T
    step = stage_importance.REACH / np.abs(np.linalg.eigvals(graph)).max() * graph
    power, total = np.eye(size), np.zeros((size, size))
    for _ in range(400):  # 0.9^400 = 5e-19
        power = power @ step
        total += power
    np.testing.assert_allclose(paths(graph), total.sum(axis=1), rtol=1e-9)


def test_a_graph_of_equal_edges_is_worth_the_same_whatever_its_size():
    """r rho = 0.9, so that every row sums to 0.9 / (1 - 0.9)."""
    for size in (3, 50, 200):
        np.testing.assert_allclose(paths(np.full((size, size), 0.2)), 9)


@pytest.mark.parametrize("size", [5, 80])
def test_a_graph_without_edges_is_worth_nothing(size):
    assert (paths(np.zeros((size, size))) == 0).all()
    assert (paths(np.full((size, size), 1e-320)) == 0).all()
    x = np.random.default_rng(0).normal(size=(50, 1)).repeat(size, axis=1)
    assert (inf_fs(x, np.zeros(50), mix=0) == 0).all(), "features alike, but for rounding"
    assert (inf_fs(1e-9 * x, np.zeros(50), mix=0.5) > 0).all()


def test_the_graph_of_inf_fs_edge_by_edge():
    x, labels = samples(features=6)
    x[:, 1] = np.round(x[:, 1])  # equal values share their rank
    alive, mix = x[:, :-1], 0.3
    deviation = [float(np.sqrt(np.mean((column - column.mean()) ** 2))) for column in alive.T]
    graph = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            ranks = [[(column < v).sum() + ((column == v).sum() + 1) / 2 for v in column] for column in alive.T[[i, j]]]
            unlike = 1 - abs(np.corrcoef(ranks)[0, 1])
            graph[i, j] = mix * max(deviation[i], deviation[j]) / max(deviation) + (1 - mix) * unlike
    found = inf_fs(x, labels, mix=mix)
    np.testing.assert_allclose(found[:-1], paths(graph), rtol=1e-9)
    assert found[-1] == 0


def test_tokens_by_the_distance_to_the_own_class_one_by_one():
    x, labels = samples(features=4, count=40)
    x, tokens = x[:, :3], 5
    expected = np.zeros((tokens, 3))
    for feature in range(3):
        means = [x[labels == c, feature].mean() for c in np.unique(labels)]
        for value, label in zip(x[:, feature], labels, strict=True):
            distances = [(value - mean) ** 2 for mean in means]
            share = distances[label] / sum(distances)
            expected[min(int(share * tokens), tokens - 1), feature] += 1
    np.testing.assert_array_equal(stage_importance.token_counts(x, labels, tokens), expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_likelihood_never_falls_and_is_that_of_the_model(seed):
    counts = np.random.default_rng(seed).poisson(3, (6, 30)).astype(float)
    counts[0] += 1
    counts[-1] = 0  # a token that nothing has
    found = plsa(counts, iterations=60, tolerance=-1)
    assert len(found.likelihood) == 60
    assert (np.diff(found.likelihood) >= -1e-12).all()
    np.testing.assert_allclose(found.tokens.sum(axis=0), 1)
    both = np.stack([found.relevance, 1 - found.relevance])
    modelled = np.log(np.maximum(found.tokens @ both, 1e-300))
    assert found.likelihood[-1] == pytest.approx((counts * modelled).sum() / counts.sum())


def test_latent_relevance_finds_the_features_that_tell_the_class():
    x, labels = samples(features=20, count=300)
    found = il_fs(x, labels)
    assert found[:3].min() > found[3:].max()
    assert found[-1] == 0


def test_scores_do_not_depend_on_the_scale_or_the_number_of_equal_features():
    x, labels = samples()
    x = x[:, :-1]
    for criterion in CRITERIA:
        one = of_stage(x, labels, criterion=criterion)
        assert of_stage(100 * x, labels, criterion=criterion).score == pytest.approx(one.score, rel=1e-6)
    for criterion in ("pls", "il_fs"):
        twice = of_stage(np.concatenate([x, x], axis=1), labels, criterion=criterion)
        assert twice.score == pytest.approx(of_stage(x, labels, criterion=criterion).score, rel=1e-3)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_memory_stays_below_what_is_reckoned(criterion):
    x, labels = samples(features=512, count=400, classes=10)
    x = x.astype(np.float32)
    of_stage(x[:50, :70], labels[:50], criterion=criterion)  # what is imported first
    tracemalloc.start()
    of_stage(x, labels, criterion=criterion)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < needed_bytes(*x.shape)


def test_bounds_hold_at_any_image_size():
    for channels, height in ((16, 32), (256, 56), (2048, 7), (64, 512), (3000, 14)):
        found = bounds(channels, height, samples=2000, side=8)
        assert needed_bytes(found.samples, channels * found.side**2) <= stage_importance.MOST_BYTES
        assert found.side == min(8, height) or needed_bytes(2000, channels * (found.side + 1) ** 2) > 10**9
        assert found.samples == 2000 or found.side == 1
    with pytest.raises(ValueError, match="features of 20000 channels need"):
        bounds(20_000, 4, samples=2000, side=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "lda"}, r"grow.criterion is 'lda', choose from \['pls', 'inf_fs', 'il_fs'\]"),
        ({"criterion": "pls", "mix": 0.5}, "'pls' has no option 'mix'; it has components"),
        ({"criterion": "pls", "components": 0}, "components is 0, must be a whole number of at least 1"),
        ({"criterion": "inf_fs", "mix": 1.5}, "mix is 1.5, must be a number of at least 0.0 and at most 1.0"),
        ({"criterion": "il_fs", "tokens": 2.5}, "tokens is 2.5, must be a whole number of at least 2"),
    ],
)
def test_options_that_no_criterion_takes(options, message):
    with pytest.raises(ValueError, match=message):
        of_stage(*samples(), **options)


def test_features_that_tell_nothing():
    x, labels = samples()
    with pytest.raises(ValueError, match="its 12 features have zero variance over 90 samples"):
        of_stage(np.ones_like(x), labels, criterion="pls")
    with pytest.raises(ValueError, match="not finite"):
        of_stage(x + np.nan, labels, criterion="pls")
    assert of_stage(x, labels, criterion="pls").constant == 1
