"""The space of several exits against brute force: every genome in order of a tiny space, decoded."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.networks import multi_supernet, ofa
from dynnas_jax.networks.multi_space import ExitSpace
from dynnas_jax.search import evolution

KEY = jax.random.key(0)
SMALL = {
    **{"image_size": 8, "stem": 4, "stage_widths": (8,), "stage_strides": (1,), "head": 8, "classes": 3},
    **{"widths": (1.0,), "depths": (1, 2), "kernels": (3, 5), "expands": (2,), "divisor": 4},
}
TINY = {
    "two exits": ({}, {"exits": 2}),
    "ratios that merge, one kernel, resolutions": (
        {"kernels": (3,), "resolutions": (6,)},
        {"exits": 2, "ratios": (0.5, 0.55, 0.75, 1)},
    ),
    "three exits, one depth": ({"depths": (1,)}, {"exits": 3}),
    "one exit": ({}, {"exits": 1}),
    "no choice of ratios": ({}, {"exits": 3, "ratios": (1,)}),
}


@pytest.fixture(params=TINY, scope="module")
def supernet(request):
    options, of_exits = TINY[request.param]
    return multi_supernet.build(ofa.small_images(**{**SMALL, **options}), **of_exits)


@pytest.fixture(scope="module")
def two():
    return multi_supernet.build(ofa.small_images(**SMALL), exits=2)


@pytest.fixture(scope="module")
def enumerated(supernet):
    """Every genome that is in order, and its arch."""
    genomes = [np.asarray(choice, np.int32) for choice in itertools.product(*map(range, supernet.space.sizes))]
    genomes = [genome for genome in genomes if in_order(supernet.space, genome)]
    return genomes, [supernet.arch(genome) for genome in genomes]


def in_order(space, genome):
    """By the names of the genes: what is a depth or a ratio does not decrease from exit to exit."""
    seen = {}
    for gene, choice in zip(space.genes, np.asarray(genome).tolist(), strict=True):
        exit, _, rest = gene.name.partition(".")
        if rest.endswith(("depth", "ratio")):
            seen.setdefault(rest, []).append((exit, choice))
    return all([c for _, c in sorted(own)] == sorted(c for _, c in own) for own in seen.values())


def test_size_is_the_number_of_distinct_archs(supernet, enumerated):
    _, archs = enumerated
    assert supernet.space.size() == len(set(archs))


def test_canonical_is_one_genome_for_each_arch(supernet, enumerated):
    genomes, archs = enumerated
    canonical = np.asarray(jax.jit(jax.vmap(supernet.space.canonical))(np.stack(genomes)))
    codes = np.asarray(jax.jit(jax.vmap(supernet.space.encode))(np.stack(genomes)))
    assert all(in_order(supernet.space, genome) for genome in canonical)
    pairs = {(arch, form.tobytes()) for arch, form in zip(archs, canonical, strict=True)}
    assert len(pairs) == len(set(archs)) == len({form for _, form in pairs})
    assert len({(arch, code.tobytes()) for arch, code in zip(archs, codes, strict=True)}) == len(set(archs))
    by_form = dict(zip(map(tuple, (g.tolist() for g in genomes)), archs, strict=True))
    assert all(by_form[tuple(form.tolist())] == arch for form, arch in zip(canonical, archs, strict=True))


def test_only_genomes_in_order_are_of_the_space(two):
    space = two.space
    every = [np.asarray(choice, np.int32) for choice in itertools.product(*map(range, space.sizes))]
    wrong = [genome for genome in every if not in_order(space, genome)]
    assert 0 < len(wrong) < len(every)
    for genome in wrong[::37]:
        with pytest.raises(ValueError, match=r"genome: exit2\.\S+ is \S+, must not be below the \S+ of exit 1"):
            space.check(genome)
        lowered = space.lowered(genome)
        assert in_order(space, space.check(lowered))
        assert (lowered <= genome).all()
        last = [i for i, gene in enumerate(space.genes) if gene.name.startswith("exit2")]
        np.testing.assert_array_equal(lowered[last], genome[last])


def test_random_genomes_reach_every_net_in_order(two):
    space = two.space
    drawn = np.asarray(jax.jit(lambda key: space.sample(key, 30_000))(KEY))
    assert drawn.dtype == np.int32
    assert in_order(space, drawn[0])
    assert all(in_order(space, genome) for genome in drawn[::53])
    forms = np.unique(np.asarray(jax.jit(jax.vmap(space.canonical))(drawn)), axis=0)
    assert len(forms) == space.size()
    least = drawn[0]
    above = np.asarray(jax.jit(lambda key: space.sample(key, 200, jnp.asarray(least)))(KEY))
    assert (above >= least).all()
    assert space.sample(KEY).shape == (len(space.genes),)


def test_children_are_in_order(two):
    space = two.space
    parents, keys = jax.jit(lambda key: space.sample(key, 200))(KEY), jax.random.split(jax.random.key(1), 200)
    mutate = jax.jit(jax.vmap(space.mutate, in_axes=(0, 0, None)))
    mutants = np.asarray(mutate(keys, parents, 0.5))
    crossed = np.asarray(jax.jit(jax.vmap(space.crossover))(keys, parents, parents[::-1]))
    assert (mutants != np.asarray(parents)).any(axis=1).mean() > 0.5
    assert all(in_order(space, genome) for genome in [*mutants, *crossed])
    assert ((crossed == np.asarray(parents)) | (crossed == np.asarray(parents[::-1]))).all()
    np.testing.assert_array_equal(mutate(keys, parents, 0.0), parents)


def test_files(two):
    space = two.space
    genome = np.asarray(space.sample(KEY))
    np.testing.assert_array_equal(space.from_json(space.to_json(genome)), genome)
    file = space.to_json(space.largest)
    file["genes"]["exit2.stage1.depth"] = 1
    with pytest.raises(ValueError, match=r"genome: exit2\.stage1\.depth is 1, must not be below the 2 of exit 1"):
        space.from_json(file)
    with pytest.raises(ValueError, match="tuples of 2 nets"):
        space.count(2, lambda gene, equals: True)
    assert isinstance(space, ExitSpace)
    other = multi_supernet.build(ofa.small_images(**SMALL), exits=2, ratios=(0.5, 1)).space
    assert other.fingerprint != space.fingerprint


def test_evolution_finds_the_best_of_a_tiny_space(two):
    """Against every net: a fitness that wants exits to differ, under a budget of sums of genes."""
    space = two.space
    weights = np.random.default_rng(0).uniform(-1, 1, len(space.genes)).astype(np.float32)

    def fitness(genome):
        return (space.canonical(genome).astype(jnp.float32) * weights).sum()

    cost = lambda genome: space.canonical(genome).astype(jnp.float32).sum()  # noqa: E731
    every = [np.asarray(choice, np.int32) for choice in itertools.product(*map(range, space.sizes))]
    every = np.stack([genome for genome in every if in_order(space, genome)])
    values, prices = (np.asarray(jax.jit(jax.vmap(f))(every)) for f in (fitness, cost))
    budget = float(np.median(prices))
    found = jax.jit(lambda key: evolution.run(key, space, fitness, cost, budget, population=60, generations=40))(KEY)
    assert bool(found.feasible)
    np.testing.assert_allclose(found.fitness, values[prices <= budget].max(), rtol=1e-5)


def test_size_of_once_for_all():
    """By hand: 90, 36 and 9 ways for a block that three, two exits or one share; depths of five stages; resolutions."""
    ways = [1, 9, 36, 90]
    later = sum(ways[third] * ways[fourth] for third in range(4) for fourth in range(third + 1))
    assert multi_supernet.once_for_all().space.size() == 7 * (ways[3] ** 2 * later) ** 5
