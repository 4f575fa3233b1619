"""The traceable fitness of a pair against thresholds chosen by NumPy, from answers of the two nets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.costs import macs
from dynnas_jax.data.splits import Split
from dynnas_jax.dynamic import thresholds
from dynnas_jax.networks import big_little
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import collect, pair_fitness

IMAGES, SETS = 16, 1500  # a power of two, and costs are whole numbers: every mean is exact


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


def record_sets():
    """Scores with ties, 0 and 1 among them, hits, costs, and budgets; many of these are the cost of some threshold."""
    generator = np.random.default_rng(0)
    steps = generator.choice([2, 4, 8, 64], (SETS, 1, 1))
    score = (generator.integers(0, steps + 1, (SETS, IMAGES, 2)) / steps).astype(np.float32)
    correct = generator.random((SETS, IMAGES, 2)) < generator.uniform(0.2, 0.9, (SETS, 1, 2))
    little, after = generator.integers(1, 40, (2, SETS))
    cost = np.stack([little, little + after], axis=-1).astype(np.float32)
    share = generator.integers(-3, IMAGES + 3, SETS) / IMAGES
    return score, correct, cost, (little + share * after).astype(np.float32)


def test_the_best_point_is_the_one_that_thresholds_choose():
    score, correct, cost, budget = record_sets()
    found = jax.jit(jax.vmap(pair_fitness.best_point))(score[..., 0], correct, cost, budget)
    outcomes = []
    for i in range(SETS):
        wanted = thresholds.choose(score[i], correct[i], cost[i], max_cost=float(budget[i]))
        point = (float(found.accuracy[i]), float(found.average_cost[i]), bool(found.feasible[i]))
        assert point == (wanted.accuracy, wanted.average_cost, wanted.feasible), i
        outcomes.append(wanted.feasible)
    assert 100 < sum(outcomes) < SETS - 100


def test_one_image_and_scores_of_zero():
    correct, cost = jnp.asarray([[True, False]]), jnp.asarray([1.0, 3.0])
    for score, budget, wanted in ((0.5, 2.0, (1, 1, True)), (0.0, 2.0, (0, 3, False)), (0.0, 3.0, (0, 3, True))):
        assert tuple(pair_fitness.best_point(jnp.asarray([score]), correct, cost, budget)) == wanted


def test_costs_are_those_of_the_pair_counted_whole(pair_problem):
    spent = jax.jit(jax.vmap(pair_problem.table.spent))(pair_problem.every)
    np.testing.assert_array_equal(spent, pair_problem.cost)
    np.testing.assert_array_equal(jax.vmap(pair_problem.table.least)(pair_problem.every), pair_problem.cost[:, 0])


def test_fitness_of_every_pair(pair_problem):
    """Little answers with little's head, where it has one."""
    budget = float(np.quantile(pair_problem.cost, 0.3))
    points = pair_problem.points(budget)
    fitness = pair_problem.fitness(budget)
    found = jax.jit(lambda fitness, genomes: jax.lax.map(fitness, genomes))(fitness, pair_problem.every)
    wanted = np.asarray([point.accuracy if point.feasible else -np.inf for point in points])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert 5 < np.isinf(wanted).sum() < 60
    assert len(np.unique(wanted)) > 5


def test_a_weight_on_the_average_cost(pair_problem):
    budget, most = float(np.median(pair_problem.cost)), pair_problem.cost[-1, 0]
    genomes, points = pair_problem.every[:20], pair_problem.points(budget)[:20]
    fitness = pair_fitness.of(
        pair_problem.evaluate, pair_problem.variables, pair_problem.table, budget, cost_weight=0.7
    )
    found = jax.jit(lambda fitness, genomes: jax.lax.map(fitness, genomes))(fitness, genomes)
    wanted = [point.accuracy - 0.7 * point.average_cost / most if point.feasible else -np.inf for point in points]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="search.cost_weight is -1, must be a number of at least 0"):
        pair_fitness.of(pair_problem.evaluate, {}, pair_problem.table, budget, cost_weight=-1)


def test_pairs_of_two_resolutions(small_space, noisy_variables):
    sizes = {"stem": 8, "stage_widths": (8,), "stage_strides": (2,), "head": 16, "divisor": 4}
    supernet = small_space(**sizes, resolutions=(6,), widths=(1.0,), depths=(1,), kernels=(3,), expands=(1, 2))
    variables, generator = noisy_variables(supernet.largest_net(), (8, 8, 1)), np.random.default_rng(0)
    images = generator.integers(0, 256, (48, 8, 8, 1), dtype=np.uint8)
    split = Split(images[8:], generator.integers(0, 3, 40).astype(np.int32), np.arange(40))
    evaluate = collect.Evaluator(supernet, images[:8], split, calibration_batch=4, mesh=devices.data_mesh(1))
    space, nets = PairSpace(supernet.space), macs.table(supernet)
    stem = nets.only(big_little.build(supernet, supernet.space.largest, supernet.space.largest).stem)
    table, genomes = pair_fitness.PairTable(space, nets, stem), np.asarray(space.sample(jax.random.key(0), 12))
    budget = float(np.median(jax.vmap(table.spent)(genomes)))
    fitness = pair_fitness.of(evaluate, variables, table, budget)
    found = np.asarray(jax.jit(lambda fitness, genomes: jax.lax.map(fitness, genomes))(fitness, genomes))
    little, big = (evaluate(variables, half) for half in space.halves(genomes))
    for i, genome in enumerate(genomes):
        score, correct = np.stack([little.score[i], big.score[i]], 1), np.stack([little.correct[i], big.correct[i]], 1)
        point = thresholds.choose(score, correct, np.asarray(table.spent(genome)), max_cost=budget)
        assert found[i] == pytest.approx(point.accuracy if point.feasible else -np.inf, rel=1e-6)
    resolutions = {supernet.arch(genome).resolution for genome in space.halves(genomes).big}
    assert resolutions == {6, 8}
    assert np.isfinite(found).any()
