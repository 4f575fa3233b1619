import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.search import evolution
from dynnas_jax.search_space import Gene, SearchSpace

SPACE = SearchSpace(
    (
        Gene("resolution", (24, 32)),
        Gene("depth", (1, 2)),
        Gene("block0.kernel", (3, 5, 7)),
        Gene("block0.expand", (3, 4, 6)),
        Gene("block1.kernel", (3, 5, 7), ("depth", 1)),
        Gene("block1.expand", (3, 4, 6), ("depth", 1)),
    )
)
EVERY = np.array(list(itertools.product(*map(range, SPACE.sizes))), np.int32)  # all 324 genomes
GENERATIONS = 60


def linear(seed):
    """Sums of integers: exact in float32, in whatever order a compiled program takes them."""
    vector = jnp.asarray(np.random.default_rng(seed).integers(1, 1000, sum(SPACE.sizes)), jnp.float32)
    return lambda genome: jnp.sum(SPACE.encode(genome) * vector)


def rugged(genome):
    """A fitness without structure: the genomes' numbers, shuffled by a multiplication modulo the prime 331."""
    number = jnp.sum(SPACE.canonical(genome) * jnp.array([162, 81, 27, 9, 3, 1]))
    return (number * 137 % 331).astype(jnp.float32)


def price(genome):
    """Every choice of every gene costs more than the one before, some far more."""
    return jnp.sum(
        SPACE.encode(genome) * jnp.array([40, 90, 10, 30, 5, 9, 70, 8, 16, 32, 3, 6, 12, 7, 8, 50], jnp.float32)
    )


FITNESS = {"linear": linear(2), "rugged": rugged}
COSTS = np.asarray(jax.vmap(price)(EVERY))
BUDGETS = np.quantile(COSTS, [0.0, 0.1, 0.4, 0.7, 1.0]).astype(np.float32)
KEYS = jax.random.split(jax.random.key(3), len(BUDGETS))


@functools.cache
def compiled(fitness, aging, spread_over=None):
    settings = {"population": 24, "children": 12, "generations": GENERATIONS, "aging": aging}
    mesh = None if spread_over is None else devices.data_mesh(*spread_over)
    return jax.jit(lambda key, budget: evolution.run(key, SPACE, FITNESS[fitness], price, budget, mesh, **settings))


@pytest.mark.parametrize(("fitness", "aging"), [("linear", False), ("linear", True), ("rugged", False)])
def test_search_equals_brute_force_for_every_budget(fitness, aging):
    values = np.asarray(jax.vmap(FITNESS[fitness])(EVERY))
    for key, budget in zip(KEYS, BUDGETS, strict=True):
        found = compiled(fitness, aging)(key, budget)
        assert found.feasible
        assert found.cost <= budget
        assert found.fitness == values[budget >= COSTS].max()
        np.testing.assert_array_equal(found.genome, SPACE.canonical(found.genome))
        assert FITNESS[fitness](found.genome) == found.fitness
        assert price(found.genome) == found.cost


@pytest.mark.parametrize("aging", [False, True])
def test_an_impossible_budget_returns_the_cheapest_genome(aging):
    found = compiled("linear", aging)(KEYS[0], COSTS.min() - 1)
    assert not found.feasible
    assert found.cost == COSTS.min() == price(found.genome)
    assert np.isneginf(found.history).all()


def test_the_smallest_genome_makes_an_achievable_budget_feasible_at_once():
    found = compiled("linear", False)(KEYS[0], COSTS.min())
    assert found.feasible
    assert np.isfinite(found.history).all()
    np.testing.assert_array_equal(found.genome, SPACE.smallest)


def test_vmapped_over_budgets_and_keys_equals_one_at_a_time():
    search = compiled("linear", False)
    together = jax.jit(jax.vmap(search))(KEYS, BUDGETS)
    for i, (key, budget) in enumerate(zip(KEYS, BUDGETS, strict=True)):
        for one, many in zip(search(key, budget), together, strict=True):
            np.testing.assert_array_equal(one, many[i])


def equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mesh", [(8,), (2, 2)])
def test_a_population_spread_over_devices_finds_the_same(mesh):
    # 24 genomes at first, then 12 children: neither one each nor always as many on every device.
    for key, budget in zip(KEYS[:3], BUDGETS[:3], strict=True):
        equal(compiled("rugged", False, mesh)(key, budget), compiled("rugged", False)(key, budget))


def test_each_device_evaluates_its_part_of_a_population():
    seen = []

    def watched(genome):
        jax.debug.callback(lambda device, _: seen.append(int(device)), jax.lax.axis_index("data"), genome)
        return rugged(genome)

    settings = {"population": 16, "generations": 2, "children": 8}
    search = jax.jit(lambda key: evolution.run(key, SPACE, watched, price, 100.0, devices.data_mesh(), **settings))
    jax.block_until_ready(search(KEYS[0]))
    jax.effects_barrier()
    np.testing.assert_array_equal(np.bincount(seen, minlength=8), [2 + 2 * 1] * 8)


def test_budgets_spread_over_devices_find_the_same():
    search = compiled("linear", False)
    found = evolution.for_budgets(search, KEYS, BUDGETS, devices.data_mesh())  # 5 of them for 8 devices
    assert all(isinstance(leaf, np.ndarray) for leaf in found)
    for i, (key, budget) in enumerate(zip(KEYS, BUDGETS, strict=True)):
        equal((leaf[i] for leaf in found), search(key, budget))


@pytest.mark.parametrize("aging", [False, True])
def test_history_never_falls_and_ends_at_the_result(aging):
    found = compiled("linear", aging)(KEYS[0], BUDGETS[3])
    assert found.history.shape == (GENERATIONS,)
    assert (np.diff(found.history) >= 0).all()
    assert found.history[0] < found.history[-1] == found.fitness


def test_a_fitness_that_is_not_a_number_is_the_worst():
    evaluate = evolution.evaluator(lambda genome: jnp.where(genome[0] == 1, jnp.nan, rugged(genome)), price)
    evaluated = evaluate(jnp.asarray(EVERY))
    np.testing.assert_array_equal(np.isneginf(evaluated.fitness), EVERY[:, 0] == 1)
    np.testing.assert_array_equal(evaluated.cost, COSTS)


def population(fitness, cost):
    genome = np.arange(len(cost), dtype=np.int32)[:, None]
    return evolution.Population(genome, jnp.asarray(fitness, jnp.float32), jnp.asarray(cost, jnp.float32))


def test_ranking_puts_feasible_first_then_cheap_then_copies():
    candidates = population([5, 9, 7, 7, 1, 2], [3, 30, 2, 4, 20, 20])
    assert evolution.ranking(candidates, 10).tolist() == [2, 0, 5, 4, 1, 3]


def test_the_worst_or_the_oldest_die():
    alive, born = population([4, 3, 2], [1, 1, 1]), population([1, 5], [1, 1])
    best, _ = evolution.survivors(born, alive, 10, False)
    youngest, order = evolution.survivors(born, alive, 10, True)
    assert best.fitness.tolist() == [5, 4, 3]
    assert youngest.fitness.tolist() == [1, 5, 4]
    assert order.tolist() == [1, 2, 0]


def test_tournaments_follow_their_law():
    ranks = np.asarray(evolution.tournaments(jax.random.key(0), 4, 2, 20_000))
    expected = [((4 - r) ** 2 - (3 - r) ** 2) / 16 for r in range(4)]  # P(min of two uniform draws = r)
    np.testing.assert_allclose(np.bincount(ranks, minlength=4) / len(ranks), expected, atol=0.015)


def test_offspring_are_mutants_of_the_first_and_crossings_of_pairs():
    smallest, largest = SPACE.smallest, SPACE.largest
    parents = jnp.asarray(np.stack([smallest] * 8 + [largest] * 8))
    children = np.asarray(evolution.offspring(jax.random.key(0), SPACE, parents, 0.5, 0.0))
    np.testing.assert_array_equal(children[:4], [smallest] * 4)
    assert ((children[4:] == smallest) | (children[4:] == largest)).all()
    assert 0 < (children[4:] == largest).mean() < 1


@pytest.mark.parametrize(
    "settings",
    [
        {"population": 1},
        {"generations": 0},
        {"children": 0},
        {"tournament": 0},
        {"mutation_share": 1.1},
        {"mutation_probability": -0.1},
        {"aging": True, "children": 200},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="evolution.run"):
        evolution.run(jax.random.key(0), SPACE, rugged, price, 1.0, **settings)
    with pytest.raises(ValueError, match="evolution.run"):
        evolution.check(**settings)


def test_settings_of_the_defaults_are_accepted():
    evolution.check()
    evolution.check(aging=True)
    evolution.check(aging=True, population=8, children=8, generations=3)
