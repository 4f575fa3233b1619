"""The search against brute force on small spaces, whose fitness and cost need no network."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import relaxed
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.relaxed import Fitness
from dynnas_jax.search import differentiable
from dynnas_jax.search_space import Gene, SearchSpace

SPACE = SearchSpace((Gene("a", (1, 2, 3)), Gene("b", (1, 2, 3, 4)), Gene("c", (1, 2))))
PAIRS = PairSpace(SPACE)
CHOICES = relaxed.allowed(PAIRS)
KEY = jax.random.key(0)


def every_pair():
    rows = np.array(list(itertools.product(*map(range, PAIRS.sizes))), np.int32)
    little, big = PAIRS.halves(rows)
    return rows[(little <= big).all(axis=1)]


EVERY = every_pair()


def planted(seed):
    """(fitness, the pair that it is greatest at): the chances weigh the squared distances of the choices, genes in couples."""
    target = EVERY[np.random.default_rng(seed).integers(len(EVERY))]
    distance = np.square(np.arange(CHOICES.shape[1]) - target[:, None]).astype(np.float32)
    weight = np.random.default_rng(seed + 1).uniform(0.5, 2, len(target)).astype(np.float32)

    def value(given, state, genome, key):
        each = (genome * distance).sum(axis=1)
        return -(weight * each).sum() - each[0] * each[4], ()

    return Fitness(value), target


def linear_cost(genome, _):
    """Each choice costs more than the one before; big more than little."""
    price = np.outer([3, 2, 1, 9, 6, 3], [1, 2, 4, 7]).astype(np.float32)
    return (genome * price).sum()


def costs_of(genomes):
    return np.asarray(jax.vmap(lambda one: linear_cost(relaxed.one_hot(PAIRS, one), ()))(genomes))


def best_of(fitness, budget):
    """The best pair within the budget, by trying all."""
    value = jax.vmap(lambda one: fitness.value((), (), relaxed.one_hot(PAIRS, one), KEY)[0])
    values = np.where(costs_of(EVERY) <= budget, np.asarray(value(EVERY)), -np.inf)
    return EVERY[values.argmax()], values.max()


@pytest.mark.parametrize("gumbel", [False, True])
def test_the_search_finds_the_planted_pair(gumbel):
    for seed in range(4):
        fitness, target = planted(seed)
        best, value = best_of(fitness, np.inf)
        np.testing.assert_array_equal(best, target)
        search = functools.partial(differentiable.run, steps=100, gumbel=gumbel)
        found = jax.jit(lambda key, fitness=fitness, search=search: search(key, PAIRS, fitness, linear_cost, 1e6))(KEY)
        np.testing.assert_array_equal(found.genome, target)
        assert found.fitness == value
        assert found.feasible
        assert found.history[-1] > found.history[0]


@pytest.mark.parametrize("seed", range(4))
def test_under_a_budget_it_comes_near_the_best(seed):
    """A budget that the planted pair breaks: what is found keeps it, and few pairs within it are better."""
    fitness, target = planted(seed)
    costs = costs_of(EVERY)
    budget = (costs.min() + costs_of(target[None])[0]) / 2
    _, value = best_of(fitness, budget)
    search = functools.partial(differentiable.run, steps=100, over_weight=10.0)
    found = jax.jit(lambda key: search(key, PAIRS, fitness, linear_cost, budget))(KEY)
    PAIRS.check(np.asarray(found.genome))
    assert found.feasible
    assert found.cost == costs_of(np.asarray(found.genome)[None])[0] <= budget
    values = np.asarray(jax.vmap(lambda one: fitness.value((), (), relaxed.one_hot(PAIRS, one), KEY)[0])(EVERY))
    assert (values[costs <= budget] > found.fitness).mean() < 0.05
    assert found.fitness <= value


def test_an_impossible_budget_yields_the_smallest_pair_as_infeasible():
    fitness, _ = planted(0)
    found = differentiable.run(KEY, PAIRS, fitness, linear_cost, 1.0, steps=3)
    assert not found.feasible
    np.testing.assert_array_equal(found.genome, PAIRS.smallest)


def test_repair_lowers_what_gives_up_least():
    """Against a search by hand: of each round's lowered pairs the one with the least loss of likelihood for its saving."""
    generator = np.random.default_rng(4)
    for _ in range(20):
        genome = EVERY[generator.integers(len(EVERY))]
        logits = np.where(CHOICES, generator.normal(size=CHOICES.shape), -np.inf)
        chances = np.asarray(jax.nn.log_softmax(logits), np.float32)
        budget = generator.uniform(costs_of(EVERY).min(), costs_of(genome[None])[0])
        price = lambda one: linear_cost(relaxed.one_hot(PAIRS, one), ())  # noqa: E731
        found = np.asarray(differentiable.repaired(PAIRS, genome, chances, price, budget))
        wanted = genome.copy()
        while costs_of(wanted[None])[0] > budget:
            tried = []
            for gene in np.flatnonzero(wanted):
                other = wanted.copy()
                other[gene] -= 1
                other[:3] = np.minimum(other[:3], other[3:])
                lost = sum(chances[g, wanted[g]] - chances[g, other[g]] for g in range(6))
                tried.append((max(lost, 0) / (costs_of(wanted[None]) - costs_of(other[None]))[0], gene, other))
            wanted = min(tried, key=lambda one: one[:2])[2]
        np.testing.assert_array_equal(found, wanted)


def test_held_genes_stay_where_they_are():
    fitness, target = planted(1)
    held = {"b": int(target[4]) - 1 if target[4] else 1}
    found = differentiable.run(KEY, PAIRS, fitness, linear_cost, 1e6, steps=60, learning_rate=0.3, held=held)
    assert found.genome[1] == found.genome[4] == held["b"]


def noisy():
    """A fitness whose state counts updates, and which depends on the key."""
    fitness, _ = planted(2)

    def value(given, state, genome, key):
        return fitness.value((), (), genome, key)[0] + given * state * jax.random.normal(key), state

    return Fitness(value, lambda given, state, genome, key: state + 1.0, jnp.float32(0.01), jnp.float32(0), (5, 3))


def test_same_key_same_search_however_many_steps_a_call_does():
    search = functools.partial(differentiable.run, gumbel=True, steps=10)
    runs = [search(KEY, PAIRS, noisy(), linear_cost, 40.0, steps_per_call=n) for n in (None, 1, 4)]
    for found in runs[1:]:
        np.testing.assert_array_equal(found.genome, runs[0].genome)
        np.testing.assert_allclose(found.history, runs[0].history, rtol=1e-5)
    again = search(KEY, PAIRS, noisy(), linear_cost, 40.0, steps_per_call=1)
    for one, other in zip(runs[1], again, strict=True):
        np.testing.assert_array_equal(one, other)
    other = search(jax.random.key(1), PAIRS, noisy(), linear_cost, 40.0)
    assert (other.history != runs[0].history).any()


def test_weights_learn_once_before_each_step_of_the_logits():
    seen = []

    def value(given, state, genome, key):
        jax.debug.callback(lambda updates: seen.append(int(updates)), state)
        return state * 0.0, ()

    fitness = noisy()._replace(value=value)
    jax.block_until_ready(differentiable.run(KEY, PAIRS, fitness, linear_cost, 40.0, steps=4, steps_per_call=1))
    jax.effects_barrier()
    assert sorted(seen) == [1, 2, 3, 4, 4, 4]


def test_effort_is_counted_in_images():
    each = noisy().images
    assert differentiable.images_of(each, 4) == 4 * (5 + 3) + 2 * 5
    assert differentiable.steps_for(each, 42) == 4
    assert differentiable.steps_for(each, 49) == 4
    with pytest.raises(ValueError, match="17 images are too few; one step takes 18"):
        differentiable.steps_for(each, 17)


def test_weights_that_diverge_leave_a_genome():
    fitness, _ = planted(0)

    def value(given, state, genome, key):
        return fitness.value((), (), genome, key)[0] * jnp.where(state > 2, jnp.nan, 1), ()

    broken = Fitness(value, lambda given, state, genome, key: state + 1.0, start=jnp.float32(0))
    found = differentiable.run(KEY, PAIRS, broken, linear_cost, 1e6, steps=5)
    PAIRS.check(np.asarray(found.genome))
    assert np.isneginf(found.fitness)
    np.testing.assert_array_equal(np.isnan(found.history), [False, False, True, True, True])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"steps_per_call": 0}, "steps_per_call is 0; it must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"final_temperature": -1.0}, "final_temperature is -1.0"),
        ({"over_weight": -1.0}, "over_weight is -1.0; it must not be negative"),
        ({"budget": 0.0}, "budget is 0.0; it must be above 0"),
    ],
)
def test_settings_out_of_range(options, said):
    options = {"budget": 1.0, **options}
    with pytest.raises(ValueError, match=said):
        differentiable.run(KEY, PAIRS, noisy(), linear_cost, **options)
