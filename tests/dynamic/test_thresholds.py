import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.dynamic import routers, thresholds

COST = (3_000_000, 11_000_001)


def records(seed, images=24, levels=7):
    """Random outcomes with many ties; scores of exactly 0 and 1 among them."""
    generator = np.random.default_rng(seed)
    score = (generator.integers(0, levels + 1, (images, 2)) / levels).astype(np.float32)
    return score, generator.random((images, 2)) < [[0.6, 0.8]]


def brute_force(score, correct, cost):
    """{exits: (accuracy, average cost)} over every threshold in [0, 1] that can matter, image by image."""
    points = {}
    for threshold in {0.0, 1.0, *score[:, 0].tolist()}:
        exits = [s > threshold for s in score[:, 0].tolist()]
        right = sum(bool(hit[0] if out else hit[1]) for out, hit in zip(exits, correct, strict=True))
        spent = sum(cost[0] if out else cost[1] for out in exits)
        points[sum(exits)] = (right / len(exits), spent / len(exits))
    return points


def check_point(point, score, correct, points):
    """The point is one of brute force's, and its threshold reproduces it in float32, after JSON, in NumPy and JAX."""
    assert all(0 <= t <= 1 and t == float(np.float32(t)) for t in point.thresholds)
    given = json.loads(json.dumps(point.thresholds))
    exits = int((score[:, 0] > np.float32(given[0])).sum())
    assert (point.accuracy, point.average_cost) == points[exits]
    assert point.exit_rate == (exits / len(score), (len(score) - exits) / len(score))
    assert int((routers.policy(jnp.asarray(score.T), jnp.float32(given)) == 0).sum()) == exits
    again = thresholds.evaluate(score, correct, COST, given)
    assert again == point._replace(feasible=True)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("images", "levels"), [(1, 3), (5, 2), (24, 7), (40, 1_000_000)])
def test_curve_is_every_distinct_point(seed, images, levels):
    score, correct = records(seed, images, levels)
    points = brute_force(score, correct, COST)
    curve = thresholds.curve(score, correct, COST)
    exits = np.round(curve.exit_rate[:, 0] * images).astype(int).tolist()
    assert exits == sorted(points, reverse=True)
    assert [points[n] for n in exits] == list(zip(curve.accuracy.tolist(), curve.average_cost.tolist(), strict=True))
    assert curve.thresholds.dtype == np.float32
    assert np.all(np.diff(curve.thresholds) > 0)
    assert [int((score[:, 0] > t).sum()) for t in curve.thresholds] == exits
    np.testing.assert_allclose(curve.exit_rate.sum(axis=1), 1)


@pytest.mark.parametrize("seed", range(12))
def test_choose_under_a_cost_equals_brute_force(seed):
    score, correct = records(seed)
    points = brute_force(score, correct, COST)
    for bound in sorted({cost for _, cost in points.values()} | {0.0, 5e6, 7.5e6, 2e7}):
        point = thresholds.choose(score, correct, COST, max_cost=bound)
        allowed = [(accuracy, cost) for accuracy, cost in points.values() if cost <= bound]
        assert point.feasible == bool(allowed)
        nearest = min((cost, -accuracy) for accuracy, cost in points.values())
        best = max(allowed) if allowed else (-nearest[1], nearest[0])
        assert (point.accuracy, point.average_cost) == best
        check_point(point, score, correct, points)


@pytest.mark.parametrize("seed", range(12))
def test_choose_for_an_accuracy_equals_brute_force(seed):
    score, correct = records(seed)
    points = brute_force(score, correct, COST)
    for bound in sorted({accuracy for accuracy, _ in points.values()} | {0.0, 0.7, 1.0}):
        point = thresholds.choose(score, correct, COST, min_accuracy=bound)
        allowed = [(cost, -accuracy) for accuracy, cost in points.values() if accuracy >= bound]
        assert point.feasible == bool(allowed)
        nearest = max((accuracy, -cost) for accuracy, cost in points.values())
        best = min(allowed) if allowed else (-nearest[1], -nearest[0])
        assert (point.average_cost, -point.accuracy) == best
        check_point(point, score, correct, points)


def test_neighbouring_floats_are_told_apart():
    """No float32 lies between these scores, nor between the last and 1: the threshold must be the lower one."""
    below = np.nextafter(np.float32(1), np.float32(0))
    score = np.float32([[np.nextafter(below, np.float32(0)), 0], [below, 0], [1, 0]])
    curve = thresholds.curve(score, np.ones((3, 2), bool), COST)
    assert [int((score[:, 0] > t).sum()) for t in curve.thresholds] == [3, 2, 1, 0]


def test_float64_scores_that_float32_cannot_tell_apart_exit_together():
    score = np.array([[0.5, 0], [0.5 + 1e-12, 0], [0.75, 0]])
    curve = thresholds.curve(score, np.ones((3, 2), bool), COST)
    np.testing.assert_allclose(curve.exit_rate[:, 0], [1, 1 / 3, 0])
    assert curve.thresholds.tolist() == [0, 0.625, 1]


def test_midway_generalises():
    curve = thresholds.curve(np.float32([[0.2, 0], [0.6, 0]]), np.ones((2, 2), bool), COST)
    np.testing.assert_allclose(curve.thresholds, [0, 0.4, 1], rtol=1e-6)


def test_evaluate_three_choices_equals_brute_force():
    generator = np.random.default_rng(0)
    score = (generator.integers(0, 5, (30, 3)) / 4).astype(np.float32)
    correct = generator.random((30, 3)) < 0.7
    cost = (1, 5, 20)
    for pair in itertools.product((0.0, 0.25, 0.6, 1.0), repeat=2):
        choice = [0 if s[0] > pair[0] else 1 if s[1] > pair[1] else 2 for s in score]
        point = thresholds.evaluate(score, correct, cost, pair)
        assert point.accuracy == pytest.approx(sum(correct[i, c] for i, c in enumerate(choice)) / 30)
        assert point.average_cost == pytest.approx(sum(cost[c] for c in choice) / 30)
        assert point.exit_rate == pytest.approx([choice.count(s) / 30 for s in range(3)])


@pytest.mark.parametrize("bounds", [{}, {"max_cost": 1.0, "min_accuracy": 0.5}])
def test_exactly_one_bound(bounds):
    with pytest.raises(ValueError, match="exactly one"):
        thresholds.choose(*records(0), COST, **bounds)


def test_what_does_not_fit():
    score, correct = records(0)
    with pytest.raises(ValueError, match="not a percentage"):
        thresholds.choose(score, correct, COST, min_accuracy=92)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        thresholds.curve(score * 2, correct, COST)
    with pytest.raises(ValueError, match="at least one image"):
        thresholds.curve(score[:0], correct[:0], COST)
    with pytest.raises(ValueError, match="3 choices"):
        thresholds.curve(np.zeros((4, 3)), np.zeros((4, 3), bool), (1, 2, 3))
    with pytest.raises(ValueError, match="give score"):
        thresholds.evaluate(score, correct, (1, 2, 3), [0.5])
