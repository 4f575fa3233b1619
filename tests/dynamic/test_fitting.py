"""What a router learns, against scikit-learn; and that no image is scored by a router that saw it."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dynnas_jax.dynamic import fitting
from dynnas_jax.networks import coupled


@pytest.fixture(scope="module")
def drawn():
    """(inputs float64[200, 7] of very different scales, best bool[200], mostly True)."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 7)) * np.geomspace(0.01, 30, 7) + np.arange(7)
    lean = (x - np.arange(7)) / np.geomspace(0.01, 30, 7) @ generator.normal(size=7)
    return x, lean + generator.logistic(size=200) > -1.5


def of_sklearn(x, best, rows, l2, balanced):
    """(weights [d], bias, probability of every image) of the regression on standardised inputs of some rows."""
    mean, deviation = x[rows].mean(axis=0), x[rows].std(axis=0)
    model = LogisticRegression(C=1 / l2, class_weight="balanced" if balanced else None, tol=1e-10, max_iter=10_000)
    model.fit((x[rows] - mean) / deviation, best[rows])
    weights = model.coef_[0] / deviation
    return weights, model.intercept_[0] - weights @ mean, model.predict_proba((x - mean) / deviation)[:, 1]


@pytest.mark.parametrize(("l2", "balanced"), [(1.0, True), (1.0, False), (0.05, True), (40.0, False)])
def test_logistic_regression_of_scikit_learn(drawn, l2, balanced):
    x, best = drawn
    fitted = fitting.fit({"a": x[:, :3], "b": x[:, 3:]}, best, l2=l2, balanced=balanced)
    weights, bias, _ = of_sklearn(x, best, np.arange(200), l2, balanced)
    found = np.concatenate([fitted.params["kernels"][name] for name in "ab"])[:, 0]
    np.testing.assert_allclose(found, weights, rtol=1e-4, atol=1e-5 * np.abs(weights).max())
    np.testing.assert_allclose(fitted.params["bias"], bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("folds", [2, 5])
def test_every_image_is_scored_by_a_fit_without_it(drawn, folds):
    x, best = drawn
    fitted, fold = fitting.fit({"x": x}, best, folds=folds, seed=3), fitting.folds_of(best, folds, 3)
    for own in range(folds):
        _, _, wanted = of_sklearn(x, best, fold != own, 1.0, True)
        np.testing.assert_allclose(fitted.score[fold == own], wanted[fold == own], atol=1e-5)
    assert set(np.bincount(fold, minlength=folds)) <= {200 // folds, 200 // folds + 1}
    wrong = np.bincount(fold[~best], minlength=folds)
    assert wrong.max() - wrong.min() <= 1


@pytest.mark.parametrize("units", [0, 6])
def test_what_an_image_is_like_does_not_move_its_own_score_s_router(drawn, units):
    """An image far from all others moves the fits of the other folds, and not that of its own."""
    x, best = drawn
    fold = fitting.folds_of(best, 4, 0)
    moved = x.copy()
    moved[17] += 100 * x.std(axis=0)
    before, after = (fitting.fit({"x": values}, best, folds=4, units=units).score for values in (x, moved))
    mine = (fold == fold[17]) & (np.arange(200) != 17)
    np.testing.assert_allclose(after[mine], before[mine], atol=1e-6)
    assert np.abs(after - before)[fold != fold[17]].max() > 0.01


def test_a_hidden_layer_learns_what_no_line_tells_apart():
    generator = np.random.default_rng(1)
    x = generator.uniform(-3, 5, (400, 2))
    best = (x[:, 0] > 1) == (x[:, 1] > 1)
    line, layers = (fitting.fit({"mean": x}, best, units=units) for units in (0, 16))
    assert fitting.auroc(line.score, best) < 0.65
    assert fitting.auroc(layers.score, best) > 0.95
    whole = jax.nn.sigmoid(coupled.decide(layers.params, x.astype(np.float32)))  # of inputs as they are
    assert fitting.auroc(np.asarray(whole), best) > 0.97


def test_a_trained_router_is_rescaled_and_keeps_its_order():
    generator = np.random.default_rng(2)
    router = {
        "hidden": {"kernel": generator.normal(size=(7, 4)), "bias": generator.normal(size=4)},
        "out": {"kernel": generator.normal(size=(4, 1)), "bias": np.asarray([3.0])},
    }
    router = jax.tree.map(np.float32, router)
    features = generator.normal(size=(200, 7)).astype(np.float32)
    logits = np.asarray(coupled.decide(router, features))
    best = logits + generator.logistic(size=200) > np.median(logits) - 1
    fitted = fitting.rescaled(router, logits, best)
    weight, bias, _ = of_sklearn(logits[:, None].astype(np.float64), best, np.arange(200), 1.0, True)
    np.testing.assert_allclose(coupled.decide(fitted.params, features), weight[0] * logits + bias, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(fitted.params["hidden"]["kernel"], router["hidden"]["kernel"])
    np.testing.assert_array_equal(np.argsort(coupled.decide(fitted.params, features)), np.argsort(logits))
    opposite = fitting.rescaled(router, logits, ~best)
    assert not np.asarray(coupled.decide(opposite.params, features)).any()
    assert (opposite.score == 0.5).all()


def test_images_of_one_kind_alone_teach_nothing():
    x = np.random.default_rng(0).normal(size=(20, 3))
    for best in (np.ones(20, bool), np.zeros(20, bool)):
        score = fitting.fit({"x": x}, best).score
        assert np.isfinite(score).all()
        assert ((score > 0.5) == best).all()
        assert fitting.auroc(score, best) is None
    with pytest.raises(ValueError, match=r"fitted on 4 images in 5 folds: give dynamic.router_folds fewer"):
        fitting.fit({"x": x[:4]}, best[:4])


def test_area_under_the_curve_of_scikit_learn():
    generator = np.random.default_rng(0)
    for ties in (3, 50, 10**6):
        score, best = generator.integers(0, ties, 300) / ties, generator.random(300) < 0.8
        assert fitting.auroc(score, best) == pytest.approx(roc_auc_score(best, score), abs=1e-12)
