"""Relaxed genomes against what is known of genomes: masks, costs, and means over all genomes by brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dynnas_jax import elastic, kernel_transforms, masking, relaxed
from dynnas_jax.costs import macs
from dynnas_jax.networks.mbconv import Arch
from dynnas_jax.networks.template import Stage, Template, build
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search_space import Gene, SearchSpace

KEY = jax.random.key(7)
NET = {"stem": 8, "head": 16, "widths": (0.5, 1.0), "depths": (1, 2), "divisor": 4}


def with_shortcuts():
    """Elastic stem and head, blocks of a stage alike, the first without expansion, shortcut convolutions that may be left out."""
    base = Arch(8, 8, "swish", (), 2, "swish", 3, 16, channels=1, mean=(0.4,), std=(0.3,))
    stages = (
        Stage(1, 1, "swish", False, (1, 2), (4, 8), (3, 5), (1,)),
        Stage(1, 2, "swish", True, (1,), (8, 12), (3, 5), (1, 2)),
    )
    options = {"stem_widths": (4, 8), "head_widths": (8, 16), "alike": True, "shortcuts": True}
    return build(Template(base, stages, (8,), (), (), (), divisor=4, elastic_head=True, **options))


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def supernets(small_space):
    plain = {"stage_widths": (8, 16), "stage_strides": (1, 2), "kernels": (3, 5), "expands": (1, 2)}
    one = {"stage_widths": (8,), "stage_strides": (2,), "kernels": (3, 5, 7), "expands": (4, 12)}
    return {
        "plain": small_space(**NET, **plain, act="swish"),
        "squeeze-excite and kernel transforms": small_space(
            **NET, **one, act="hswish", squeeze_excite=True, kernel_transforms=True, depthwise="shifts"
        ),
        "shortcuts": with_shortcuts(),
    }


@pytest.fixture(scope="module")
def make_variables(noisy_variables):
    def make(supernet):
        variables = noisy_variables(supernet.largest_net(), (8, 8, 1))
        if supernet.transforms:
            generator = np.random.default_rng(5)
            matrices = kernel_transforms.identity(elastic.elastic_kernels(supernet))
            variables["params"][kernel_transforms.PLACE] = jax.tree.map(
                lambda leaf: leaf + generator.normal(0, 0.3, leaf.shape).astype(np.float32), matrices
            )
        return variables

    return make


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (6, 8, 8, 1), np.uint8)


def flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")


def is_masked_later(path):
    return any(module in path.split("/") for module in relaxed.MASKED_LATER)


def some_genomes(space):
    return [space.smallest, space.largest, *np.asarray(space.sample(KEY, 2))]


def drawn(space, seed=0, dtype=np.float64):
    """A relaxed genome whose chances are all between 0 and 1."""
    logits = np.random.default_rng(seed).normal(size=(len(space.sizes), max(space.sizes)))
    weights = np.exp(logits) * relaxed.allowed(space)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(dtype)


CASES = ("plain", "squeeze-excite and kernel transforms", "shortcuts")


@pytest.mark.parametrize("name", CASES)
def test_of_one_genome_the_masks_are_its_own(supernets, make_variables, images, name):
    """Leaves, logits in evaluation and in training, and gradients in the latter."""
    supernet = supernets[name]
    space, variables, net = supernet.space, make_variables(supernet), supernet.largest_net()

    def run(masked):
        def loss(params):
            own = masked({**variables, "params": params})
            evaluated = net.apply(own, images)[0]
            trained = net.apply(own, images, True, mutable=["batch_stats"])[0][0]
            return jnp.sin(trained).sum(), (evaluated, trained)

        (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return masked(variables), logits, gradient

    def both(genome):
        whole = relaxed.one_hot(space, genome)
        wanted = run(lambda own: masking.mask_variables(supernet, own, genome))
        return wanted, run(lambda own: relaxed.mask_variables(supernet, own, whole))

    both = jax.jit(both)
    for genome in some_genomes(space):
        (wanted, *wanted_run), (found, *found_run) = both(jnp.asarray(genome))
        absent = [p.name for p in elastic.positions(supernet) if p.depth and genome[p.depth[0]] < p.depth[1]]
        found = flat(found)
        for path, leaf in flat(wanted).items():
            # Of a skipped block the last norm alone is masked.
            if not is_masked_later(path) and (path.split("/")[1] not in absent or relaxed.LAST_NORM in path):
                np.testing.assert_array_equal(found[path], leaf, err_msg=path)
        assert all(1e-3 < np.abs(logits).max() < 1e3 for logits in wanted_run[0])
        own = dict(jax.tree_util.tree_leaves_with_path(found_run))
        for path, leaf in jax.tree_util.tree_leaves_with_path(wanted_run):
            atol = 1e-4 * max(0.01, np.abs(leaf).max())
            np.testing.assert_allclose(own[path], leaf, rtol=0, atol=atol, err_msg=str(path))


@pytest.mark.parametrize("name", CASES)
def test_masks_are_the_mean_over_all_genomes(supernets, make_variables, name):
    """Of every leaf that a genome's choices mask by themselves: not the hidden channels of blocks that may be skipped."""
    supernet = supernets[name]
    space, variables = supernet.space, make_variables(supernet)
    genome = drawn(space, dtype=np.float32)
    # Some genes settled, so that the others' genomes can be enumerated.
    free = np.random.default_rng(3).permutation(len(space.sizes))[:7]
    for gene in set(range(len(space.sizes))) - set(free.tolist()):
        genome[gene] = np.eye(genome.shape[1])[space.sizes[gene] - 1]
    every, chances = space.largest[None], np.ones(1)
    for gene in free:
        every = np.repeat(every, space.sizes[gene], axis=0)
        every[:, gene] = np.tile(np.arange(space.sizes[gene]), len(chances))
        chances = np.outer(chances, genome[gene, : space.sizes[gene]]).ravel()
    np.testing.assert_allclose(chances.sum(), 1, rtol=1e-5)

    @jax.jit
    def mean(genomes, chances):
        def add(total, pair):
            own = masking.mask_variables(supernet, variables, pair[0])
            return jax.tree.map(lambda a, b: a + pair[1] * b, total, own), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, variables), (genomes, chances))[0]

    wanted = flat(mean(every, chances.astype(np.float32)))
    skippable = {p.name for p in elastic.positions(supernet) if p.depth}
    compared = 0
    found = jax.jit(lambda genome: relaxed.mask_variables(supernet, variables, genome))(genome)
    for path, leaf in flat(found).items():
        _, block, module, *rest = path.split("/")
        hidden = module == "depthwise_norm" or "reduce_conv" in rest
        if not is_masked_later(path) and not (hidden and block in skippable):
            np.testing.assert_allclose(leaf, wanted[path], rtol=1e-4, atol=1e-5, err_msg=path)
            compared += bool(np.abs(np.asarray(leaf) - flat(variables)[path]).max() > 1e-3)
    assert compared > 5


def test_of_a_block_that_may_be_skipped_the_chance_counts_once(supernets, make_variables, images):
    """What a half-present block adds is half of what it adds where it is there."""
    supernet = supernets["plain"]
    space, variables, net = supernet.space, make_variables(supernet), supernet.largest_net()
    run = jax.jit(lambda genome: net.apply(relaxed.mask_variables(supernet, variables, genome), images)[1])
    added = {}
    for chance in (1.0, 0.25):
        genome = np.asarray(relaxed.one_hot(space, space.largest)).copy()
        genome[space.index("stage1.depth")] = [1 - chance, chance]
        ends = run(jnp.asarray(genome))
        added[chance] = ends["stage1_block1"] - ends["stage1_block0"]
    assert np.abs(added[1.0]).max() > 0.1
    np.testing.assert_allclose(added[0.25], 0.25 * added[1.0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "shortcuts"])
def test_gradients_reach_every_gene_and_equal_finite_differences(supernets, make_variables, images, name):
    """In float64, through masks and net, with the statistics of the batch."""
    supernet = supernets[name]
    space, choices = supernet.space, relaxed.allowed(supernet.space)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), make_variables(supernet))
        net = supernet.largest_net().clone(dtype="float64")

        @jax.jit
        @jax.value_and_grad
        def loss(logits):
            genome = relaxed.chances(space, logits, choices, 0.7)
            own = relaxed.mask_variables(supernet, variables, genome)
            return jnp.sin(net.apply(own, images, True, mutable=["batch_stats"])[0][0]).sum()

        generator = np.random.default_rng(2)
        logits = jnp.asarray(generator.normal(size=choices.shape))
        gradient = np.asarray(loss(logits)[1])
        assert (np.abs(np.where(choices, gradient, 0)).max(axis=1) > 1e-6).all()
        np.testing.assert_array_equal(gradient[~choices], 0)
        for _ in range(4):
            direction = generator.normal(size=choices.shape)
            step = 1e-5
            ends = [loss(logits + sign * step * direction)[0] for sign in (1, -1)]
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_expected_cost_is_the_mean_over_all_genomes(supernets, name):
    supernet = supernets[name]
    space, table = supernet.space, macs.table(supernet)
    every = np.asarray(list(itertools.product(*map(range, space.sizes))), np.int32)
    with jax.enable_x64(True):
        genome = drawn(space)
        chances = np.prod(genome[np.arange(len(space.sizes)), every], axis=1)
        np.testing.assert_allclose(chances.sum(), 1)
        exact = np.asarray([table.exact(one) for one in every], np.float64)
        found = relaxed.expected_cost(table, jnp.asarray(genome))
        np.testing.assert_allclose(found, (chances * exact).sum(), rtol=1e-12)
        assert exact.min() < found < exact.max()
    for one in some_genomes(space):
        assert relaxed.expected_cost(table, relaxed.one_hot(space, one)) == table.exact(one)


SPACE = SearchSpace((Gene("a", (1, 2, 3)), Gene("b", (1, 2)), Gene("c", (1, 2, 3, 4))))


def test_chances_of_a_pair_are_those_of_the_lesser_of_two_draws():
    space = PairSpace(SPACE)
    choices = relaxed.allowed(space)
    logits = np.random.default_rng(0).normal(0, 2, choices.shape).astype(np.float32)
    found = np.asarray(relaxed.chances(space, logits, choices, 0.5))
    alone = np.exp(logits / 0.5) * choices
    alone /= alone.sum(axis=1, keepdims=True)
    wanted = np.zeros_like(alone[:3])
    for gene, first, second in itertools.product(range(3), range(4), range(4)):
        wanted[gene, min(first, second)] += alone[gene, first] * alone[3 + gene, second]
    np.testing.assert_allclose(found, np.concatenate([wanted, alone[3:]]), rtol=1e-5, atol=1e-6)
    assert found.min() >= 0


def test_little_is_below_big_in_every_mask(supernets, make_variables):
    supernet = supernets["plain"]
    space, variables = PairSpace(supernet.space), make_variables(supernet)
    ones = jax.tree.map(jnp.ones_like, variables)
    choices = relaxed.allowed(space)
    mask = jax.jit(lambda genome: relaxed.mask_variables(supernet, ones, genome)["params"])
    for number in range(2):
        logits = 3 * jax.random.normal(jax.random.key(number), choices.shape)
        pair = relaxed.halves(relaxed.chances(space, logits, choices, 1.0, KEY))
        little, big = (flat(mask(half)) for half in pair)
        assert all((little[path] <= big[path] + 1e-6).all() for path in big)
        assert any((little[path] < big[path] - 0.1).any() for path in big)
        ends = [relaxed.expected_cost(macs.table(supernet), half) for half in pair]
        assert ends[0] < ends[1]


def test_cold_chances_are_what_is_read_off():
    for space in (SPACE, PairSpace(SPACE)):
        choices = relaxed.allowed(space, {"b": 1})
        for number in range(5):
            logits = jax.random.normal(jax.random.key(number), choices.shape)
            genome = relaxed.read_off(space, logits, choices)
            np.testing.assert_allclose(
                relaxed.chances(space, logits, choices, 1e-4), relaxed.one_hot(space, genome), atol=1e-3
            )
            assert genome[1] == 1
            if isinstance(space, PairSpace):
                space.check(np.asarray(genome))
                assert genome[4] == 1


def test_gumbel_draws_choices_as_often_as_their_chances():
    """The maximum of logits and Gumbel noise is distributed as the softmax of the logits."""
    choices = relaxed.allowed(SPACE)
    logits = jax.random.normal(KEY, choices.shape)
    keys = jax.random.split(KEY, 4000)
    cold = jax.jit(jax.vmap(lambda key: relaxed.chances(SPACE, logits, choices, 1e-3, key)))(keys)
    wanted = relaxed.chances(SPACE, logits, choices, 1.0)
    np.testing.assert_allclose(cold.mean(axis=0), wanted, atol=4 * 0.5 / 4000**0.5)


def test_what_is_refused():
    with_resolution = SearchSpace((Gene("resolution", (24, 32)), *SPACE.genes))
    for space in (with_resolution, PairSpace(with_resolution)):
        with pytest.raises(ValueError, match="resolution cannot be relaxed by masks; hold it at one choice"):
            relaxed.allowed(space)
        held = relaxed.allowed(space, {"resolution": 1})
        np.testing.assert_array_equal(held[0], [False, True, False, False])
        assert held.sum() == (1 + 9) * (2 if isinstance(space, PairSpace) else 1)
    with pytest.raises(ValueError, match="a is 3, out of range 0 to 2"):
        relaxed.allowed(SPACE, {"a": 3})
    with pytest.raises(ValueError, match="no gene 'd'"):
        relaxed.allowed(SPACE, {"d": 0})


def test_a_block_without_a_last_norm_is_refused(supernets, make_variables, monkeypatch):
    monkeypatch.setattr(relaxed, "LAST_NORM", "final_norm")
    supernet = supernets["plain"]
    with pytest.raises(ValueError, match="stage1_block1 can be skipped, but has no final_norm"):
        relaxed.mask_variables(supernet, make_variables(supernet), jnp.asarray(drawn(supernet.space, dtype=np.float32)))
