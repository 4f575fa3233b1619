"""Random search and what it draws, on a space whose every genome is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.search import measure, random_search
from dynnas_jax.search_space import Gene, SearchSpace

SPACE = SearchSpace(
    (
        Gene("depth", (1, 2)),
        *(Gene(f"block0.gene{i}", (3, 5, 7)) for i in range(2)),
        *(Gene(f"block1.gene{i}", (3, 5, 7), ("depth", 1)) for i in range(2)),
    )
)
EVERY = np.asarray(list(itertools.product(*map(range, SPACE.sizes))), np.int32)
DISTINCT = np.unique(np.asarray(jax.vmap(SPACE.canonical)(EVERY)), axis=0)  # 90
WEIGHTS = np.random.default_rng(0).integers(1, 1000, (2, sum(SPACE.sizes))).astype(np.float32)  # exact sums
KEY = jax.random.key(1)


def fitness(genome):
    return jnp.sum(SPACE.encode(genome) * WEIGHTS[0])


def cost(genome):
    return jnp.sum(SPACE.encode(genome) * WEIGHTS[1])


VALUES, COSTS = (np.asarray(jax.vmap(function)(DISTINCT)) for function in (fitness, cost))
BUDGET = float(np.median(COSTS))


def equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_draws_are_distinct_and_within_the_budget():
    few, all_of_them = (random_search.draw(KEY, SPACE, cost, BUDGET, count) for count in (20, 200))
    assert few.shape == (20, 5)
    assert {genome.tobytes() for genome in few} < {genome.tobytes() for genome in all_of_them}
    allowed = DISTINCT[BUDGET >= COSTS]
    np.testing.assert_array_equal(np.unique(all_of_them, axis=0), allowed)
    assert len(all_of_them) == len(allowed)  # no two alike


def test_a_narrow_budget_is_drawn_for_until_there_are_enough():
    """One genome of ninety: a round of draws for one has hardly any of them."""
    budget = float(np.sort(COSTS)[0])
    keys = [jax.random.key(seed) for seed in range(6)]
    first = [np.asarray(jax.vmap(SPACE.canonical)(SPACE.sample(key, random_search.DRAWS))) for key in keys]
    absent = [not (np.asarray(jax.vmap(cost)(rows)) <= budget).any() for rows in first]
    assert any(absent)
    for key in keys:
        (drawn,) = random_search.draw(key, SPACE, cost, budget, 1)
        assert cost(drawn) == budget


def test_draws_come_in_the_order_in_which_they_are_sampled():
    """One by one in Python: none is preferred."""
    wanted = []
    for genome in np.asarray(jax.vmap(SPACE.canonical)(SPACE.sample(KEY, random_search.DRAWS * 20))).tolist():
        if genome not in wanted and cost(np.asarray(genome, np.int32)) <= BUDGET and len(wanted) < 20:
            wanted.append(genome)
    assert random_search.draw(KEY, SPACE, cost, BUDGET, 20).tolist() == wanted


def test_with_enough_effort_it_finds_the_best():
    found = random_search.run(KEY, SPACE, fitness, cost, BUDGET, evaluations=200)
    assert found.feasible
    assert found.fitness == VALUES[BUDGET >= COSTS].max() == fitness(found.genome)
    assert found.cost == cost(found.genome) <= BUDGET
    assert len(found.history) == (BUDGET >= COSTS).sum()


def test_its_history_is_the_best_so_far_and_a_key_decides_it():
    found = random_search.run(KEY, SPACE, fitness, cost, BUDGET, evaluations=20)
    genomes = random_search.draw(KEY, SPACE, cost, BUDGET, 20)
    values = [float(fitness(genome)) for genome in genomes]
    assert found.history.tolist() == [max(values[: i + 1]) for i in range(20)]
    assert found.fitness == max(values) < VALUES[BUDGET >= COSTS].max()
    equal(random_search.run(KEY, SPACE, fitness, cost, BUDGET, evaluations=20), found)
    other = random_search.run(jax.random.key(2), SPACE, fitness, cost, BUDGET, evaluations=20)
    assert other.history.tolist() != found.history.tolist()


def test_a_budget_that_admits_nothing():
    found = random_search.run(KEY, SPACE, fitness, cost, float(COSTS.min()) - 1, evaluations=20)
    assert not found.feasible
    np.testing.assert_array_equal(found.genome, SPACE.smallest)
    assert np.isneginf(found.history).all()


def test_any_number_of_genomes_is_evaluated_once_each_by_one_program():
    asked, traced = [], []

    def watched(genome):
        traced.append(genome)
        jax.debug.callback(lambda genome: asked.append(tuple(genome.tolist())), genome)
        return fitness(genome)

    evaluate = measure.Measure(watched, cost, form="mapped")
    for some in (DISTINCT[:5], DISTINCT[5:42]):
        asked.clear()
        found = evaluate(some)
        jax.effects_barrier()
        assert sorted(asked) == sorted(map(tuple, some.tolist()))
        np.testing.assert_array_equal(found.genome, some)
        np.testing.assert_array_equal(found.fitness, [fitness(genome) for genome in some])
        np.testing.assert_array_equal(found.cost, [cost(genome) for genome in some])
        first = len(traced)
        evaluate(some)
        assert len(traced) == first


def test_what_is_refused():
    with pytest.raises(ValueError, match="evaluations is 0"):
        random_search.run(KEY, SPACE, fitness, cost, BUDGET, evaluations=0)
    with pytest.raises(ValueError, match=r"form is 'looped', choose from \['vmapped', 'mapped'\]"):
        random_search.run(KEY, SPACE, fitness, cost, BUDGET, None, "looped", evaluations=1)
