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


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs):
    with quick_programs():
        yield


def planted(target, weight):
    """A fitness that is greatest at a pair: the chances weigh the squared distances of its choices, some genes in couples."""
    distance = jnp.square(jnp.arange(CHOICES.shape[1])[None] - target[:, None]).astype(jnp.float32)

    def value(given, state, genome, key):
        each = (genome * distance).sum(axis=1)
        return -(weight * each).sum() - each[0] * each[4], ()

    return Fitness(value)


def of_seed(seed):
    """(the pair, the weights) of a planted fitness."""
    generator = np.random.default_rng(seed)
    return EVERY[generator.integers(len(EVERY))], generator.uniform(0.5, 2, len(CHOICES)).astype(np.float32)


def values_of(target, weight):
    """The fitness of every pair."""
    fitness = planted(target, weight)
    return jax.vmap(lambda one: fitness.value((), (), relaxed.one_hot(PAIRS, one), KEY)[0])(EVERY)


def linear_cost(genome, _):
    """Each choice costs more than the one before; big more than little."""
    price = np.outer([3, 2, 1, 9, 6, 3], [1, 2, 4, 7]).astype(np.float32)
    return (genome * price).sum()


def costs_of(genomes):
    return np.asarray(jax.vmap(lambda one: linear_cost(relaxed.one_hot(PAIRS, one), ()))(genomes))


MANY = [np.stack(rows) for rows in zip(*map(of_seed, range(64)), strict=True)]
VALUES = np.asarray(jax.vmap(values_of)(*MANY))
COSTS = costs_of(EVERY)


def searched(budgets, **options):
    """What is found for each of `MANY`, by one program."""

    def one(target, weight, key, budget):
        return differentiable.run(key, PAIRS, planted(target, weight), linear_cost, budget, steps=100, **options)

    return jax.jit(jax.vmap(one))(*MANY, jax.random.split(KEY, len(budgets)), np.asarray(budgets, np.float32))


@pytest.mark.parametrize("gumbel", [False, True])
def test_the_search_finds_the_best_pair(gumbel):
    found = searched([1e6] * 64, gumbel=gumbel)
    best = EVERY[VALUES.argmax(axis=1)]
    np.testing.assert_array_equal(best, MANY[0])
    # A gradient may end in a pair whose neighbours are worse; it does where two genes pull at each other.
    assert (found.genome == best).all(axis=1).mean() >= 0.95
    assert found.feasible.all()
    which = (found.genome == best).all(axis=1)
    np.testing.assert_allclose(found.fitness[which], VALUES.max(axis=1)[which], atol=1e-5)
    assert (found.history[:, -1] > found.history[:, 0]).all()


def test_under_a_budget_it_comes_near_the_best():
    """Budgets that the planted pairs break: what is found keeps them, and of the pairs within them few are better."""
    of_targets = costs_of(MANY[0])
    budgets = COSTS.min() + 0.5 * (of_targets - COSTS.min()) + 0.5
    found = searched(budgets, over_weight=10.0)
    np.testing.assert_array_equal(found.cost, costs_of(found.genome))
    assert found.feasible.all()
    assert (found.cost <= budgets).all()
    for genome in np.asarray(found.genome):
        PAIRS.check(genome)
    within = budgets[:, None] >= COSTS
    better = (np.asarray(found.fitness)[:, None] + 1e-4 < VALUES) & within
    assert (~better.any(axis=1)).mean() > 0.6
    assert (better.sum(axis=1) / within.sum(axis=1)).mean() < 0.1


def test_an_impossible_budget_yields_the_smallest_pair_as_infeasible():
    fitness = planted(*of_seed(0))
    found = differentiable.run(KEY, PAIRS, fitness, linear_cost, 1.0, steps=3)
    assert not found.feasible
    np.testing.assert_array_equal(found.genome, PAIRS.smallest)


def test_repair_lowers_what_gives_up_least():
    """Against a search by hand: of each round's lowered pairs the one with the least loss of likelihood for its saving."""
    generator, prices = np.random.default_rng(4), {tuple(one): cost for one, cost in zip(EVERY, COSTS, strict=True)}
    price = lambda one: linear_cost(relaxed.one_hot(PAIRS, one), ())  # noqa: E731
    repaired = jax.jit(lambda *given: differentiable.repaired(PAIRS, *given[:2], price, given[2]))
    for _ in range(20):
        genome = EVERY[generator.integers(len(EVERY))]
        logits = np.where(CHOICES, generator.normal(size=CHOICES.shape), -np.inf)
        chances = np.asarray(jax.nn.log_softmax(logits), np.float32)
        budget = generator.uniform(COSTS.min(), prices[tuple(genome)])
        found = np.asarray(repaired(genome, chances, budget))
        wanted = genome.copy()
        while prices[tuple(wanted)] > budget:
            tried = []
            for gene in np.flatnonzero(wanted):
                other = wanted.copy()
                other[gene] -= 1
                other[:3] = np.minimum(other[:3], other[3:])
                lost = sum(chances[g, wanted[g]] - chances[g, other[g]] for g in range(6))
                saved = prices[tuple(wanted)] - prices[tuple(other)]
                tried.append((max(lost, 0) / saved, gene, other))
            wanted = min(tried, key=lambda one: one[:2])[2]
        np.testing.assert_array_equal(found, wanted)


def test_held_genes_stay_where_they_are():
    target, weight = of_seed(1)
    fitness = planted(target, weight)
    held = {"b": int(target[4]) - 1 if target[4] else 1}
    found = differentiable.run(KEY, PAIRS, fitness, linear_cost, 1e6, steps=60, learning_rate=0.3, held=held)
    assert found.genome[1] == found.genome[4] == held["b"]


def noisy():
    """A fitness whose state counts updates, and which depends on the key."""
    fitness = planted(*of_seed(2))

    def value(given, state, genome, key):
        return fitness.value((), (), genome, key)[0] + given * state * jax.random.normal(key), state

    return Fitness(value, lambda given, state, genome, key: state + 1.0, jnp.float32(0.01), jnp.float32(0), (5, 3))


def test_same_key_same_search_however_many_steps_a_call_does():
    search = functools.partial(differentiable.run, gumbel=True, steps=6)
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
    fitness = planted(*of_seed(0))

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
