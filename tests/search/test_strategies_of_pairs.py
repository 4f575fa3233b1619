"""Every strategy on nets that run, against all 81 pairs evaluated one by one."""

import jax
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.search import evolution, once_for_all, random_search

KEY = jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


def by_evolution(key, table, fitness, budget, mesh):
    shape = evolution.schedule(400, population=20)

    def search(fitness, key):
        key = jax.random.wrap_key_data(key)
        return evolution.run(key, table.space, fitness, table.least, budget, mesh, "mapped", **shape)

    data = devices.replicated(mesh, np.asarray(jax.random.key_data(key)))
    return evolution.together(search, mesh)(fitness, data)


def at_random(key, table, fitness, budget, mesh):
    return random_search.run(key, table.space, fitness, table.least, budget, mesh, "mapped", evaluations=81)


def by_predictor(key, table, fitness, budget, mesh):
    options = {"evaluations": 81, "records": 0.5, "generations": 20, "population": 20, "epochs": 20}
    return once_for_all.run(key, table.space, fitness, table.least, budget, mesh, "mapped", **options)


@pytest.mark.parametrize("strategy", [by_evolution, at_random, by_predictor])
def test_with_enough_effort_the_best_pair_is_found(pair_problem, strategy):
    budget = float(np.quantile(pair_problem.cost, 0.3))
    points = pair_problem.points(budget)
    values = np.asarray([point.accuracy if point.feasible else -np.inf for point in points])
    fitness = pair_problem.fitness(budget)
    found = strategy(KEY, pair_problem.table, fitness, budget, pair_problem.evaluate.mesh)
    best = values.max()
    assert found.fitness == pytest.approx(best, rel=1e-6)
    assert (values == best).sum() <= 8  # of 81: no strategy stumbles on it
    (row,) = np.flatnonzero((pair_problem.every == found.genome).all(axis=1))
    assert values[row] == best
    assert found.cost == pair_problem.cost[row, 0] <= budget
    assert found.feasible


def test_a_start_takes_the_place_of_draws(pair_problem):
    """With two genomes alive and no mutation, all that is ever seen is the smallest and the start."""
    table, budget = pair_problem.table, float(pair_problem.cost.max())
    fitness = lambda genome: table.nets(table.space.halves(genome).big)  # noqa: E731
    settings = {"population": 2, "generations": 1, "mutation_share": 1.0, "mutation_probability": 0.0}
    start = pair_problem.every[-1:]
    for given, wanted in ((start, pair_problem.cost[-1, 0]), (pair_problem.every[:1], pair_problem.cost[0, 0])):
        found = evolution.run(KEY, table.space, fitness, table.least, budget, start=given, **settings)
        assert float(found.fitness) == wanted


@pytest.mark.parametrize(
    ("evaluations", "population", "wanted"),
    [(400, None, (20, 19)), (401, 20, (20, 19)), (4, None, (2, 1)), (200, None, (14, 13)), (7, 3, (3, 1))],
)
def test_a_schedule_spends_what_it_may(evaluations, population, wanted):
    found = evolution.schedule(evaluations, population)
    assert (found["population"], found["generations"]) == wanted
    spent = found["population"] * (1 + found["generations"])
    assert evaluations - found["population"] < spent <= evaluations


def test_a_schedule_that_does_not_fit():
    for evaluations, population in ((3, None), (10, 6), (10, 1)):
        with pytest.raises(ValueError, match=f"{evaluations} evaluations are no population"):
            evolution.schedule(evaluations, population)
