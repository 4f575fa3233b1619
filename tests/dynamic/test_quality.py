"""The figures of answers and of routing, against scikit-learn, and by trying everything."""

import itertools

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from dynnas_jax import decisions
from dynnas_jax.dynamic import quality


@pytest.fixture
def answers():
    """(probability float64[m], correct bool[m]) with every edge of the bins among the probabilities."""
    generator = np.random.default_rng(0)
    probability = np.concatenate([generator.beta(3, 1, 500), np.linspace(0, 1, quality.BINS + 1)])
    return probability, generator.random(len(probability)) < probability**2


def test_bins_are_those_of_scikit_learn(answers):
    probability, correct = answers
    found = quality.reliability(probability, correct)
    right, sure = calibration_curve(correct, probability, n_bins=quality.BINS, strategy="uniform")
    filled = found.images > 0
    assert len(right) == filled.sum()
    np.testing.assert_allclose(found.accuracy[filled], right)
    np.testing.assert_allclose(found.probability[filled], sure)
    assert found.images.sum() == len(correct)


def test_empty_bins_have_no_figures_and_no_weight():
    found = quality.reliability(np.array([0.2, 0.3, 0.9]), np.array([True, False, True]), bins=4)
    np.testing.assert_array_equal(found.images, [1, 1, 0, 1])
    np.testing.assert_array_equal(found.accuracy, [1, 0, np.nan, 1])
    assert quality.listed(found.accuracy) == [1.0, 0.0, None, 1.0]
    assert found.error == pytest.approx((0.8 + 0.3 + 0.1) / 3)


def test_the_calibration_error_equals_its_definition(answers):
    probability, correct = answers
    error = 0.0
    for b in range(quality.BINS):
        low, high = b / quality.BINS, (b + 1) / quality.BINS
        rows = [i for i, p in enumerate(probability) if low < p <= high or (b == 0 and p == 0)]
        if rows:
            apart = sum(correct[i] for i in rows) / len(rows) - sum(probability[i] for i in rows) / len(rows)
            error += len(rows) / len(probability) * abs(apart)
    assert quality.reliability(probability, correct).error == pytest.approx(error)
    assert 0.05 < error < 0.5


@pytest.mark.parametrize(
    ("probability", "correct", "said"),
    [
        ([], [], "of at least one image"),
        ([0.5, 0.5], [True], r"probability \(2,\), correct \(1,\)"),
        ([[0.5]], [[True]], "give \\[m\\] both"),
        ([1.5], [True], "from 1.5 to 1.5: they must lie in"),
        ([np.nan], [True], "they must lie in"),
    ],
)
def test_what_is_no_probability(probability, correct, said):
    with pytest.raises(ValueError, match=said):
        quality.reliability(np.array(probability), np.array(correct))


def test_five_likeliest_of_five_classes_tell_nothing(answers):
    probability, correct = answers
    found = quality.measured(correct, probability, correct | (probability > 0.5), 6)
    assert found["accuracy"] == correct.mean()
    assert found["top5_accuracy"] == (correct | (probability > 0.5)).mean()
    assert found["expected_calibration_error"] == quality.reliability(probability, correct).error
    assert set(quality.measured(correct, probability, correct, 5)) == {"accuracy", "expected_calibration_error"}


def test_groups_are_counted_and_averaged():
    group, right = np.array([2, 0, 2, 2]), np.array([True, False, False, True])
    found = quality.by_group(group, 4, right=right, cost=np.array([1.0, 2.0, 3.0, 5.0]))
    assert found == {"images": [1, 0, 3, 0], "right": [0.0, None, 2 / 3, None], "cost": [2.0, None, 3.0, None]}


@pytest.mark.parametrize("images", [1, 2, 300, 301])
def test_difficulty_is_thirds_by_the_label_s_cross_entropy(images):
    logits = np.random.default_rng(1).normal(0, 3, (images, 7))
    label = np.random.default_rng(2).integers(0, 7, images)
    own = np.take_along_axis(logits, label[:, None], 1)[:, 0]
    loss = np.log(np.exp(logits).sum(1)) - own
    others = np.log(np.exp(logits).sum(1) - np.exp(own))
    found = quality.difficulty(own - others)
    sizes = np.bincount(found, minlength=3)
    assert sizes.max() - sizes.min() <= 1
    for easier, harder in itertools.pairwise(loss[found == group] for group in range(3)):
        if len(easier) and len(harder):
            assert easier.max() < harder.min()


def test_difficulty_orders_what_float32_probabilities_cannot():
    odds = np.float32([20, 60, 40])
    probability = np.float32(1) / (1 + np.exp(-odds))
    assert np.ptp(probability) == 0
    np.testing.assert_array_equal(quality.difficulty(odds), [2, 0, 1])


@pytest.mark.parametrize("seed", range(5))
def test_no_routing_is_better_than_the_oracle(seed):
    """Of all 2^9 ways to route nine images none is more accurate, and of the most accurate none is cheaper."""
    correct = np.random.default_rng(seed).random((9, 2)) < [0.5, 0.7]
    cost, points = np.array([2.0, 7.0]), []
    for routing in itertools.product((0, 1), repeat=9):
        choice = np.array(routing)
        points.append((correct[np.arange(9), choice].mean(), cost[choice].mean(), np.mean(choice == 0)))
    accuracy = max(point[0] for point in points)
    cheapest = min(point[1] for point in points if point[0] == accuracy)
    best = quality.oracle(correct, cost, "little_right_or_both_wrong")
    assert (best.accuracy, best.average_cost) == pytest.approx((accuracy, cheapest))
    plain = quality.oracle(correct, cost, "little_right")
    assert plain.accuracy == best.accuracy
    assert plain.exit_rate == correct[:, 0].mean()
    both_wrong = (~correct).all(axis=1).mean()
    assert best.exit_rate == pytest.approx(plain.exit_rate + both_wrong)
    assert plain.average_cost - best.average_cost == pytest.approx(5 * both_wrong)


@pytest.mark.parametrize("optimal", decisions.OPTIMAL)
def test_the_four_cases(optimal):
    every = np.array(list(itertools.product((0, 1), (False, True), (False, True))))
    choice, correct = every[:, 0], every[:, 1:].astype(bool)
    case = quality.cases(choice, decisions.best(*correct.T, optimal))
    for index, (answered, little, big) in enumerate(every):
        should = little or (optimal == "little_right_or_both_wrong" and not big)
        wanted = ("kept_" if answered == 0 else "passed_") + (
            "rightly" if (answered == 0) == bool(should) else "wrongly"
        )
        assert quality.CASES[case[index]] == wanted
