"""Pairs against brute force: every two genomes of tiny spaces, decoded, and what is the same pair counted once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.networks import ofa
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import evolution

KEY = jax.random.key(0)
SMALL = {"image_size": 8, "stage_widths": (16,), "stage_strides": (1,), "stem": 4, "head": 16, "kernels": (3, 5)}
TINY = {
    "merged": {"widths": (0.5, 0.55, 1.0), "depths": (1, 2), "expands": (1, 1.3, 2), "kernels": (3,)},
    "plain": {"widths": (0.5, 1.0), "depths": (1, 2), "expands": (2,)},
    "resolutions": {"widths": (0.5, 1.0), "depths": (1,), "expands": (1, 2), "image_size": 12, "resolutions": (8,)},
}


@pytest.fixture(params=TINY, scope="module")
def supernet(request):
    return ofa.small_images(**{**SMALL, **TINY[request.param]})


@pytest.fixture(scope="module")
def tiny():
    return ofa.small_images(**{**SMALL, **TINY["plain"]})


def in_order(space, little, big):
    same = "resolution" not in space or little[space.index("resolution")] == big[space.index("resolution")]
    return bool((little <= big).all()) and same


def test_size_is_the_number_of_distinct_pairs_in_order(supernet):
    space = supernet.space
    genomes = [np.asarray(choice, np.int32) for choice in itertools.product(*map(range, space.sizes))]
    archs = [supernet.arch(genome) for genome in genomes]
    pairs = {
        (archs[i], archs[j])
        for i, little in enumerate(genomes)
        for j, big in enumerate(genomes)
        if in_order(space, little, big)
    }
    assert PairSpace(space).size() == len(pairs)


def test_what_fits_below_what(supernet):
    space = supernet.space
    first, second = (np.asarray(space.sample(key, 30)) for key in jax.random.split(KEY))
    second = np.concatenate([second, [space.largest]])
    found = PairSpace(space).fits(first, second)
    assert found.tolist() == [[in_order(space, little, big) for big in second] for little in first]
    assert found.any()
    big = np.asarray(space.sample(jax.random.key(5)))
    below = PairSpace(space).below(first, big)
    assert all(in_order(space, little, big) for little in below)
    allowed = PairSpace(space).fits(first, big[None])[:, 0]
    np.testing.assert_array_equal((below == first).all(axis=1), allowed)


def test_size_of_a_large_space():
    """Without depths and merging a gene of n choices has n (n + 1) / 2 pairs."""
    space = ofa.small_images(depths=(2,), widths=(0.5, 1.0), stage_widths=(16, 32), stage_strides=(1, 2)).space
    free = {gene.name: len(gene.choices) for gene in space.genes}
    assert space.size() == np.prod(list(free.values()))
    assert PairSpace(space).size() == np.prod([n * (n + 1) // 2 for n in free.values()])


def test_random_pairs_are_in_order_and_reach_every_pair(tiny):
    space, pairs = tiny.space, PairSpace(tiny.space)
    drawn = np.asarray(jax.jit(lambda key: pairs.sample(key, 4000))(KEY))
    assert drawn.dtype == np.int32
    assert all(in_order(space, *pairs.halves(genome)) for genome in drawn)
    assert len(np.unique(np.asarray(jax.vmap(pairs.canonical)(drawn)), axis=0)) == pairs.size()
    np.testing.assert_array_equal(pairs.sample(KEY), pairs.ordered(pairs.sample(KEY)))


def test_children_are_in_order(supernet):
    space, pairs = supernet.space, PairSpace(supernet.space)
    parents = pairs.sample(KEY, 200)
    keys = jax.random.split(jax.random.key(1), 200)
    mutants = np.asarray(jax.vmap(pairs.mutate, in_axes=(0, 0, None))(keys, parents, 0.5))
    crossed = np.asarray(jax.vmap(pairs.crossover)(keys, parents, parents[::-1]))
    assert (mutants != np.asarray(parents)).any(axis=1).mean() > 0.5
    assert all(in_order(space, *pairs.halves(genome)) for genome in [*mutants, *crossed])
    np.testing.assert_array_equal(jax.vmap(pairs.mutate, in_axes=(0, 0, None))(keys, parents, 0.0), parents)
    either = (crossed == np.asarray(parents)) | (crossed == np.asarray(parents[::-1]))
    assert either.all()


def test_canonical_and_code_tell_pairs_apart(tiny):
    pairs = PairSpace(tiny.space)
    drawn = pairs.sample(KEY, 500)
    decoded = [tuple(tiny.arch(half) for half in pairs.halves(genome)) for genome in np.asarray(drawn)]
    canonical = np.asarray(jax.vmap(pairs.canonical)(drawn))
    assert len({genome.tobytes() for genome in canonical}) == len(set(decoded))
    codes = np.asarray(jax.vmap(pairs.encode)(drawn))
    assert codes.shape == (500, sum(pairs.sizes))
    assert len({code.tobytes() for code in codes}) == len(set(decoded))


def test_files_and_what_is_refused(supernet):
    space = supernet.space
    pairs = PairSpace(space)
    genome = np.asarray(pairs.sample(KEY))
    np.testing.assert_array_equal(pairs.from_json(pairs.to_json(genome)), genome)
    larger = np.concatenate([space.largest, space.smallest])
    with pytest.raises(ValueError, match=r"pair: little's \S+ is \S+, must (not exceed|be) big's"):
        pairs.check(larger)
    with pytest.raises(ValueError, match="a pair of this space is"):
        pairs.check(space.largest)
    with pytest.raises(ValueError, match="not a pair file"):
        pairs.from_json(space.to_json(space.largest))
    with pytest.raises(ValueError, match="genome file of space"):
        pairs.from_json({net: {"space": "0", "genes": {}} for net in ("little", "big")})
    assert pairs.fingerprint != space.fingerprint


def test_evolution_of_pairs_finds_the_best_of_a_tiny_space(tiny):
    """Against all pairs: a fitness that wants a small little and a large big, under a budget of genes' sums."""
    pairs = PairSpace(tiny.space)
    weights = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, len(pairs.sizes)), jnp.float32)

    def fitness(genome):
        little, big = pairs.halves(pairs.canonical(genome).astype(jnp.float32) * weights)
        return big.sum() - 1.3 * little.sum()

    cost = lambda genome: (pairs.canonical(genome).astype(jnp.float32) * weights).sum()  # noqa: E731
    genomes = [np.asarray(choice, np.int32) for choice in itertools.product(*map(range, tiny.space.sizes))]
    every = np.asarray([np.concatenate(p) for p in itertools.product(genomes, genomes) if in_order(tiny.space, *p)])
    values, prices = (np.asarray(jax.vmap(f)(every)) for f in (fitness, cost))
    budget = float(np.median(prices))
    found = jax.jit(lambda key: evolution.run(key, pairs, fitness, cost, budget, population=50, generations=40))(KEY)
    assert bool(found.feasible)
    np.testing.assert_allclose(found.fitness, values[prices <= budget].max(), rtol=1e-6)
