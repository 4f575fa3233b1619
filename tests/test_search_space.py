"""The space against brute force: every genome of tiny spaces decoded, and what is the same subnet counted once."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.networks import ofa
from dynnas_jax.search_space import Gene, SearchSpace, first_equal, make_divisible

# With a divisor of 8 the widths 0.5 and 0.55 of 16 channels both are 8, and of 8 channels so are expansions 1.3 and 2
# (16 hidden ones) where of 16 channels they differ: choices merge, and which of them merge depends on another gene.
TINY = {
    "no merging": {"stage_widths": (8,), "stage_strides": (1,), "widths": (0.5, 1.0), "divisor": 4},
    "merged widths": {"stage_widths": (16,), "stage_strides": (1,), "stem": 4, "head": 16},
    "merged widths but for the head": {"stage_widths": (16,), "stage_strides": (1,), "head": 128},
    "two stages": {"stage_widths": (16, 16), "stage_strides": (1, 2), "stem": 8, "head": 16, "kernels": (3,)},
    "three depths": {"stage_widths": (16,), "stage_strides": (2,), "depths": (1, 2, 3), "widths": (1.0,)},
}


@pytest.fixture(params=TINY, scope="module")
def enumerated(request):
    """(supernet, every genome int32[n, genes], the arch of each)."""
    common = {"widths": (0.5, 0.55, 1.0), "depths": (1, 2), "kernels": (3, 5), "expands": (1, 1.3, 2), "image_size": 8}
    supernet = ofa.small_images(**{**common, **TINY[request.param]})
    genomes = np.asarray(list(itertools.product(*map(range, supernet.space.sizes))), np.int32)
    return supernet, genomes, [supernet.arch(genome) for genome in genomes]


def test_the_tiny_spaces_merge_and_skip(enumerated):
    _, genomes, archs = enumerated
    assert 1 < len(set(archs)) < len(genomes)


def test_size_is_the_number_of_distinct_archs(enumerated):
    supernet, _, archs = enumerated
    assert supernet.space.size() == len(set(archs))


def test_canonical_is_one_genome_for_each_arch(enumerated):
    supernet, genomes, archs = enumerated
    canonical = np.asarray(jax.jit(jax.vmap(supernet.space.canonical))(genomes))
    assert canonical.dtype == np.int32
    by_arch = {}
    for arch, form in zip(archs, map(tuple, canonical.tolist()), strict=True):
        by_arch.setdefault(arch, set()).add(form)
    assert all(len(forms) == 1 for forms in by_arch.values())
    assert len(set.union(*by_arch.values())) == len(by_arch)
    arch_of = dict(zip(map(tuple, genomes.tolist()), archs, strict=True))
    assert all(arch_of[form] == arch for arch, forms in by_arch.items() for form in forms)


def test_codes_are_equal_where_archs_are(enumerated):
    supernet, genomes, archs = enumerated
    codes = np.asarray(jax.jit(jax.vmap(supernet.space.encode))(genomes))
    assert codes.shape == (len(genomes), sum(supernet.space.sizes))
    assert codes.dtype == np.float32
    assert set(np.unique(codes)) == {0.0, 1.0}
    pairs = {(arch, code.tobytes()) for arch, code in zip(archs, codes, strict=True)}
    assert len(pairs) == len(set(archs)) == len({code for _, code in pairs})


def test_code_marks_one_choice_of_every_gene_that_counts():
    genes = (Gene("depth", (1, 2)), Gene("a", (3, 5, 7)), Gene("b", (3, 5, 7), needs=("depth", 1)))
    space = SearchSpace(genes)
    np.testing.assert_array_equal(space.encode(jnp.asarray([1, 2, 0])), [0, 1, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(space.encode(jnp.asarray([0, 2, 0])), [1, 0, 0, 0, 1, 0, 0, 0])
    assert space.size() == 3 + 9


def test_size_of_once_for_all(published):
    published = published["ofa_mobilenet_v3"]
    assert ofa.ofa_mobilenet_v3(resolutions=(224,)).space.size() == published["subnets_per_resolution"]
    resolutions = published["choices"]["resolution"]
    all_of_them = ofa.ofa_mobilenet_v3().space
    assert all_of_them.genes[0] == Gene("resolution", tuple(resolutions))
    assert all_of_them.size() == published["subnets_per_resolution"] * len(resolutions)


# Random genomes.


@pytest.fixture(scope="module")
def space():
    return SearchSpace((Gene("a", (1, 2)), Gene("b", (1, 2, 3, 4, 5)), Gene("c", (7,)), Gene("d", (0.5, 1.0, 2.0))))


def test_samples_are_uniform_and_follow_the_key(space):
    sample = jax.jit(space.sample, static_argnums=1)
    genomes = np.asarray(sample(jax.random.key(0), 20_000))
    assert genomes.shape == (20_000, 4)
    assert genomes.dtype == np.int32
    for column, size in zip(genomes.T, space.sizes, strict=True):
        counts = np.bincount(column, minlength=size)
        assert len(counts) == size
        deviation = np.sqrt(20_000 / size * (1 - 1 / size))
        assert np.abs(counts - 20_000 / size).max() <= 5 * deviation
    np.testing.assert_array_equal(sample(jax.random.key(0), 20_000), genomes)
    assert (np.asarray(sample(jax.random.key(1), 20_000)) != genomes).any()
    assert space.sample(jax.random.key(0)).shape == (4,)


def test_mutation_draws_each_gene_with_the_probability(space):
    keys = jax.random.split(jax.random.key(0), 4000)
    mutate = jax.jit(jax.vmap(space.mutate, in_axes=(0, None, None)))
    genome = jnp.asarray([1, 4, 0, 2], jnp.int32)
    np.testing.assert_array_equal(mutate(keys, genome, 0.0), np.tile(genome, (4000, 1)))
    changed = (np.asarray(mutate(keys, genome, 0.3)) != np.asarray(genome)).mean(0)
    # A gene drawn anew keeps its choice once in `size` times.
    np.testing.assert_allclose(changed, [0.3 * (1 - 1 / size) for size in space.sizes], atol=0.04)
    anew = np.asarray(mutate(keys, genome, 1.0))
    assert [len(np.unique(column)) for column in anew.T] == list(space.sizes)


def test_crossover_takes_every_gene_from_one_parent(space):
    keys = jax.random.split(jax.random.key(0), 1000)
    first, second = jnp.asarray([0, 1, 0, 0], jnp.int32), jnp.asarray([1, 4, 0, 2], jnp.int32)
    children = np.asarray(jax.jit(jax.vmap(space.crossover, in_axes=(0, None, None)))(keys, first, second))
    from_first = children == np.asarray(first)
    assert (from_first | (children == np.asarray(second))).all()
    np.testing.assert_allclose(from_first.mean(0)[[0, 1, 3]], 0.5, atol=0.08)
    assert len(np.unique(children, axis=0)) == 8  # genes are crossed independently of one another


# Values and files.


def test_json_round_trip(space):
    for genome in np.asarray(space.sample(jax.random.key(3), 20)):
        data = json.loads(json.dumps(space.to_json(genome)))
        assert data["space"] == space.fingerprint
        found = space.from_json(data)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, genome)
    assert space.to_json(space.largest)["genes"] == {"a": 2, "b": 5, "c": 7, "d": 2.0}
    assert space.to_json(space.smallest)["genes"] == {"a": 1, "b": 1, "c": 7, "d": 0.5}


def test_fingerprint_tells_spaces_apart(space):
    same = SearchSpace(tuple(space.genes))
    assert same == space
    assert same.fingerprint == space.fingerprint
    others = [
        SearchSpace(space.genes, divisor=4),
        SearchSpace(space.genes[:-1]),
        SearchSpace((space.genes[1], space.genes[0], *space.genes[2:])),
        SearchSpace((*space.genes[:-1], Gene("d", (0.5, 1.0, 3.0)))),
    ]
    assert len({s.fingerprint for s in [space, *others]}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: {**data, "space": "0123"}, "space '0123', but this space is"),
        (lambda data: {**data, "genes": {**data["genes"], "b": 6}}, r"b is 6, choose from \[1, 2, 3, 4, 5\]"),
        (lambda data: {**data, "genes": {**data["genes"], "b": [1]}}, r"b is \[1\]"),
        (lambda data: {**data, "genes": {"a": 1}}, "b is None"),
        (lambda data: {"space": data["space"]}, "not a genome file"),
        (lambda data: {**data, "genes": [1, 2]}, "not a genome file"),
        (lambda data: [data], "not a genome file"),
    ],
)
def test_foreign_genome_files(space, change, message):
    with pytest.raises(ValueError, match=message):
        space.from_json(change(space.to_json(space.smallest)))


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ([0, 0, 0], "4 integers"),
        ([0, 0, 0, 0, 0], "4 integers"),
        ([0.0, 0.0, 0.0, 0.0], "float64"),
        ([[0, 0, 0, 0]], r"shape \(1, 4\)"),
        ([0, 5, 0, 0], "b is 5, out of range 0 to 4"),
        ([-1, 0, 0, 0], "a is -1"),
    ],
)
def test_wrong_genomes(space, genome, message):
    with pytest.raises(ValueError, match=message):
        space.check(genome)
    with pytest.raises(ValueError, match=message):
        space.to_json(genome)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ((Gene("a", (1, 2)), Gene("a", (1, 2))), "'a' is declared twice"),
        ((Gene("a", ()),), "must ascend"),
        ((Gene("a", (2, 1)),), "must ascend"),
        ((Gene("a", (1, 1)),), "must ascend"),
        ((Gene("b", (1, 2), needs=("a", 1)), Gene("a", (1, 2))), "'b' depends on 'a'"),
        ((Gene("b", (1, 2), parent="a"), Gene("a", (1, 2))), "'b' depends on 'a'"),
        ((Gene("a", (1, 2)), Gene("b", (1, 2), needs=("a", 1)), Gene("c", (1, 2), needs=("b", 1))), "'c' depends on"),
    ],
)
def test_wrong_declarations(genes, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(genes)


def test_unknown_gene(space):
    assert "b" in space
    assert space.index("b") == 1
    assert "z" not in space
    with pytest.raises(ValueError, match="no gene 'z'"):
        space.index("z")


def test_widths_are_rounded_as_mobilenets():
    # Values of the function in tensorflow/models, research/slim/nets/mobilenet.
    assert [make_divisible(w) for w in (3, 8, 11, 12, 17.6, 33, 40, 90)] == [8, 8, 16, 16, 16, 32, 40, 88]
    assert SearchSpace((Gene("a", (1,)),), divisor=4).round_width(13) == 12
    assert first_equal([8, 8, 16, 8, 16]) == (0, 0, 2, 0, 2)
