"""The best thresholds, exact and on quantiles, against every pair of thresholds tried one by one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.dynamic import exit_thresholds, metric, quantile_thresholds, thresholds

COST = (60.0, 75.0, 148.0, 240.0, 300.0)


def records(seed, images, exits, levels=None):
    """Answers of exits that get better, with scores that tell something; `levels` make many equal, 0 and 1 too."""
    generator = np.random.default_rng(seed)
    hard, skill = generator.random((images, 1)), np.linspace(0.6, 0.9, exits)
    sure = 1 / (1 + np.exp(-8 * (skill - hard)))
    score = np.clip(sure + generator.normal(0, 0.15, (images, exits)), 0, 1)
    if levels:
        score = np.round(score * levels) / levels
    return score.astype(np.float32), generator.random((images, exits)) < sure


def reward_of(point, target, omega):
    return metric.reward(point.accuracy, point.average_cost, target, omega)


def brute_force(score, correct, cost, target, omega):
    """The largest reward over all distinct thresholds."""
    tried = [sorted({0.0, 1.0, *score[:, exit].tolist()}) for exit in range(len(cost) - 1)]
    points = (thresholds.evaluate(score, correct, cost, given) for given in itertools.product(*tried))
    return max(reward_of(point, target, omega) for point in points)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("exits", [1, 2, 3])
@pytest.mark.parametrize(("images", "levels"), [(1, None), (24, None), (40, 5)])
def test_the_best_equals_brute_force(seed, exits, images, levels):
    given = *records(seed, images, exits, levels), COST[:exits]
    for target, omega in ((70, 0.09), (110, 0.5), (140, 1.5), (1000, 0.09)):
        found = exit_thresholds.best(*given, target=target, omega=omega)
        assert reward_of(found, target, omega) == pytest.approx(brute_force(*given, target, omega), abs=1e-12)
        again = thresholds.evaluate(*given, found.thresholds)
        assert again == found


def alike(seed, images, exits):
    """Answers of exits that are all as good, with scores that tell nothing: nearly every pair of thresholds is worth the same."""
    generator = np.random.default_rng(seed)
    return generator.random((images, exits)).astype(np.float32), generator.random((images, exits)) < 0.6


@pytest.mark.parametrize("images", [900, 4000])
@pytest.mark.parametrize(
    ("drawn", "levels", "target"),
    [(records, None, 90.0), (records, 40, 90.0), (alike, None, 120.0), (alike, None, 300.0)],
)
def test_no_coarse_grid_hides_a_better_point(drawn, levels, target, images):
    """Of more images than the grid has nodes, every pair of thresholds at once, by two cumulated histograms."""
    score, correct = drawn(3, images, 3, *([levels] if levels else []))
    cost = np.asarray(COST[:3])
    one, two = (np.unique(score[:, exit], return_inverse=True)[1] for exit in (0, 1))
    tables = []
    for values in (correct.astype(float), np.broadcast_to(cost, correct.shape)):
        table = np.zeros((one.max() + 2, two.max() + 2))
        np.add.at(table, (one + 1, two + 1), values[:, 2] - values[:, 1])  # it reaches the third exit beyond both
        first = np.bincount(one + 1, values[:, 1] - values[:, 0], len(table)).cumsum()
        tables.append(values[:, 0].sum() + first[:, None] + table.cumsum(axis=0).cumsum(axis=1))
    reward = metric.reward(*(table / len(score) for table in tables), target)
    reward = reward[int((score[:, 0] == 0).any()) :, int((score[:, 1] == 0).any()) :]
    found = exit_thresholds.best(score, correct, cost, target=target)
    assert reward_of(found, target, metric.OMEGA) == pytest.approx(reward.max(), abs=1e-12)


@pytest.mark.parametrize("exits", [4, 5])
def test_coordinate_descent_comes_near_and_no_single_threshold_improves_on_it(exits):
    score, correct = records(1, 12, exits, 4)
    cost, target = COST[:exits], 120
    found = exit_thresholds.best(score, correct, cost, target=target)
    reward = reward_of(found, target, metric.OMEGA)
    for exit, value in itertools.product(range(exits - 1), (0.0, *score.ravel().tolist(), 1.0)):
        other = (*found.thresholds[:exit], value, *found.thresholds[exit + 1 :])
        point = thresholds.evaluate(score, correct, cost, other)
        assert reward_of(point, target, metric.OMEGA) <= reward + 1e-12
    assert reward >= brute_force(score, correct, cost, target, metric.OMEGA) - 0.02


def test_more_exits_than_are_searched_for():
    """Those of MSDNet for CIFAR: as good as any one threshold for all exits, and as any one exit alone."""
    score, correct = records(2, 300, 7)
    cost, target = np.linspace(30, 300, 7), 150
    reward = reward_of(exit_thresholds.best(score, correct, cost, target=target), target, metric.OMEGA)
    alone = [(1.0,) * exit + (0.0,) * (6 - exit) for exit in range(7)]
    for given in (*((value,) * 6 for value in np.linspace(0, 1, 51)), *alone):
        point = thresholds.evaluate(score, correct, cost, given)
        assert reward >= reward_of(point, target, metric.OMEGA)


@pytest.mark.parametrize("exits", [2, 3])
def test_quantiles_come_close_for_many_subnets_at_once(exits):
    found = [records(seed, 500, exits) for seed in range(6)]
    score, correct = (np.stack(part) for part in zip(*found, strict=True))
    cost = jnp.asarray(COST[:exits], jnp.float32)
    run = jax.jit(jax.vmap(functools.partial(quantile_thresholds.best, target=100.0), in_axes=(0, 0, None)))
    best = jax.device_get(run(score, correct, cost))
    for index in range(len(found)):
        exact = exit_thresholds.best(score[index], correct[index], COST[:exits], target=100)
        point = thresholds.evaluate(score[index], correct[index], COST[:exits], best.thresholds[index])
        assert best.accuracy[index] == pytest.approx(point.accuracy, rel=1e-5)
        assert best.average_cost[index] == pytest.approx(point.average_cost, rel=1e-5)
        assert best.reward[index] == pytest.approx(reward_of(point, 100, metric.OMEGA), rel=1e-5)
        gap = reward_of(exact, 100, metric.OMEGA) - best.reward[index]
        assert -1e-6 <= gap < 0.01


def test_what_cannot_be_asked():
    score, correct = records(0, 10, 3)
    with pytest.raises(ValueError, match="must not fall"):
        exit_thresholds.best(score, correct, (3, 2, 4), target=1)
    for wrong in ({"target": 0}, {"target": 1, "omega": -0.1}):
        with pytest.raises(ValueError, match="the one must be above 0"):
            exit_thresholds.best(score, correct, COST[:3], **wrong)
    with pytest.raises(ValueError, match="4 exits: the grid of quantiles is for 2 or 3"):
        quantile_thresholds.best(*map(jnp.asarray, records(0, 10, 4)), jnp.ones(4), target=1.0)
