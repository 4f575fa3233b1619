"""The search by a predictor, on the space of known genomes of random search."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.search import once_for_all, pareto, predictor, random_search
from dynnas_jax.search_space import Gene, SearchSpace

SPACE = SearchSpace(
    (
        Gene("depth", (1, 2)),
        *(Gene(f"block0.gene{i}", (3, 5, 7)) for i in range(3)),
        *(Gene(f"block1.gene{i}", (3, 5, 7), ("depth", 1)) for i in range(3)),
    )
)
EVERY = np.asarray(list(itertools.product(*map(range, SPACE.sizes))), np.int32)
WEIGHTS = np.random.default_rng(4).integers(1, 1000, (2, sum(SPACE.sizes))).astype(np.float32)  # exact sums
KEY = jax.random.key(1)
EFFORT = {"evaluations": 100, "records": 0.6}
OPTIONS = {"epochs": 60, "population": 24, "generations": 30}


def fitness(genome):
    return jnp.sum(SPACE.encode(genome) * WEIGHTS[0])


def cost(genome):
    return jnp.sum(SPACE.encode(genome) * WEIGHTS[1])


VALUES, COSTS = (np.asarray(jax.vmap(function)(EVERY)) for function in (fitness, cost))
BUDGET = float(np.quantile(COSTS, 0.8))


class Asked(list):
    """A fitness that notes what it is asked."""

    def __call__(self, genome):
        jax.debug.callback(lambda genome: self.append(tuple(genome.tolist())), genome)
        return fitness(genome)


@pytest.fixture(scope="module")
def searched(quick_programs):
    """(what it found of 40 evaluations, the genomes that were evaluated, its predictor)."""
    asked, told = Asked(), []
    with quick_programs():
        found = once_for_all.run(
            KEY, SPACE, asked, cost, BUDGET, devices.data_mesh(1), "mapped", told.append, **EFFORT, **OPTIONS
        )
        jax.effects_barrier()
    return found, list(asked), told


def test_the_best_of_all_genomes_from_the_records_of_a_few(searched):
    found, _, _ = searched
    assert found.feasible
    assert found.fitness == VALUES[BUDGET >= COSTS].max() == fitness(found.genome)
    assert found.cost == cost(found.genome) <= BUDGET
    assert found.history[59] < found.fitness  # the predictor led there, not the draws


def test_no_more_genomes_are_evaluated_than_the_effort_allows_and_none_twice(searched):
    found, asked, told = searched
    assert len(asked) == len(found.history) == 100
    assert len(set(asked)) == 100
    assert all(float(cost(np.asarray(genome))) <= BUDGET for genome in asked)
    (fitted,) = told
    assert fitted.fitted + fitted.held_out == 60
    values = [float(fitness(np.asarray(genome))) for genome in asked[:60]]
    assert max(values) == found.history[59]


def test_a_key_decides_what_is_found(searched):
    again = once_for_all.run(KEY, SPACE, fitness, cost, BUDGET, **EFFORT, **OPTIONS)
    np.testing.assert_array_equal(again.history[:60], searched[0].history[:60])
    np.testing.assert_array_equal(again.genome, searched[0].genome)


def test_what_is_promising_is_of_the_front_and_then_the_next_best(searched):
    """By the predictions of all genomes: little of the best is missed, and the first is the very best within the budget."""
    (fitted,) = searched[2]
    seen = random_search.draw(KEY, SPACE, cost, BUDGET, 24)
    found = once_for_all.promising(KEY, fitted, cost, BUDGET, seen, 12, population=24, generations=30)
    assert found.shape == (12, 7)
    canonical = np.unique(np.asarray(jax.vmap(SPACE.canonical)(EVERY)), axis=0)
    assert len({tuple(genome) for genome in found} - {tuple(genome) for genome in seen}) == 12
    predict = jax.jit(jax.vmap(lambda genome: fitted(genome)))
    fresh = np.asarray([tuple(genome) not in set(map(tuple, seen)) for genome in canonical])
    unseen = canonical[fresh & (np.asarray(jax.vmap(cost)(canonical)) <= BUDGET)]
    best = np.sort(np.asarray(predict(unseen)))[::-1]
    predicted, price = np.asarray(predict(found)), np.asarray(jax.vmap(cost)(found))
    assert (price <= BUDGET).all()
    assert predicted[0] == pytest.approx(best[0], rel=1e-6)
    np.testing.assert_allclose(np.sort(predicted[3:])[::-1], predicted[3:])
    assert (predicted >= best[12] - 1e-5).sum() >= 8  # a quarter is of the front, whatever is predicted there
    front = unseen[pareto.front(np.asarray(jax.vmap(cost)(unseen)), np.asarray(predict(unseen)))]
    assert {tuple(genome) for genome in found[:2]} <= {tuple(genome) for genome in front}


def test_few_genomes_are_all_evaluated():
    budget, told = float(np.sort(np.unique(COSTS))[8]), []
    found = once_for_all.run(KEY, SPACE, fitness, cost, budget, None, "vmapped", told.append, evaluations=40)
    assert found.fitness == VALUES[budget >= COSTS].max()
    assert told == []
    assert len(found.history) == len(np.unique(np.asarray(jax.vmap(SPACE.canonical)(EVERY[budget >= COSTS])), axis=0))


def test_what_is_refused():
    for options in ({"evaluations": once_for_all.FEWEST - 1}, {"evaluations": 50, "records": 1.0}):
        with pytest.raises(ValueError, match=r"must be at least 11, and between 0 and 1"):
            once_for_all.run(KEY, SPACE, fitness, cost, BUDGET, **options)
    with pytest.raises(ValueError, match="population is 1"):
        once_for_all.run(KEY, SPACE, fitness, cost, BUDGET, evaluations=40, epochs=1, population=1)
    assert once_for_all.FEWEST == predictor.FEWEST_SUBNETS + 1
