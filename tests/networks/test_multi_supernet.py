"""Supernets of several exits: sliced against masked, tables against counting, sorting, and arch files."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval as pe

from dynnas_jax import channel_sorting, elastic, kernel_transforms, relaxed, switched
from dynnas_jax.costs import macs
from dynnas_jax.elastic import extract, init_supernet
from dynnas_jax.masking import mask_variables
from dynnas_jax.networks import NETWORKS, exits, multi_costs, multi_supernet, ofa

QUICK = {"xla_backend_optimization_level": 0}
SMALL = {
    **{"image_size": 8, "stem": 8, "stage_widths": (8,), "stage_strides": (2,), "head": 8, "classes": 3},
    **{"widths": (1.0,), "depths": (1, 2), "kernels": (3, 5), "expands": (3,), "divisor": 4, "act": "hswish"},
}
# Options, and the choices of a genome by exit: depth, then kernel and ratio of both blocks. Exit 1 skips a block and leaves it to
# exit 2; an exit adds nothing to a block; another has the channels in the middle.
CASES = {
    "squeeze-excite": ({"squeeze_excite": True}, ((0, 0, 0, 0, 0), (1, 1, 1, 1, 0), (1, 0, 1, 0, 2))),
    "kernel transforms and shifts": (
        {"kernel_transforms": True, "kernels": (3, 5, 7), "depthwise": "shifts"},
        ((0, 1, 0, 0, 0), (0, 2, 1, 0, 0), (1, 0, 2, 1, 1)),
    ),
    "input reuse": (
        {"reuse": ("stage1_block0", "stage1_block1")},
        ((0, 0, 0, 0, 0), (1, 1, 1, 1, 0), (1, 0, 2, 0, 2)),
    ),
}
EXITS = (1, 2, 3)
GENES = ("depth", "block0.kernel", "block0.ratio", "block1.kernel", "block1.ratio")


def built(**options):
    reuse = options.pop("reuse", ())
    return multi_supernet.build(ofa.small_images(**{**SMALL, **options}), reuse=reuse)


class Case:
    def __init__(self, options, choices, noisy_variables):
        self.supernet = built(**options)
        space = self.supernet.space
        self.variables = noisy_variables(self.supernet.largest_net(), (8, 8, 3))
        if self.supernet.transforms:
            generator, same = (
                np.random.default_rng(5),
                kernel_transforms.identity(elastic.elastic_kernels(self.supernet)),
            )
            noisy = jax.tree.map(lambda leaf: leaf + generator.normal(0, 0.3, leaf.shape).astype(np.float32), same)
            self.variables["params"][kernel_transforms.PLACE] = noisy
        self.images = np.random.default_rng(2).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
        self.masked = self.program(self.supernet.masked_net(), lambda v, g: mask_variables(self.supernet, v, g))
        self.genome = space.smallest
        for exit, own in enumerate(choices, 1):
            for gene, choice in zip(GENES, own, strict=True):
                self.genome[space.index(f"exit{exit}.stage1.{gene}")] = choice

    def program(self, net, variables_of):
        """f(variables, *more): ((logits of every exit in evaluation, in training), gradient of both)."""

        def weighted(params, variables, *more):
            own = variables_of({**variables, "params": params}, *more)
            evaluated = net.apply(own, self.images)[1]
            trained = net.apply(own, self.images, True, mutable=["batch_stats"])[0][1]
            logits = jnp.stack([jnp.stack([ends[f"exit{s}"] for s in EXITS]) for ends in (evaluated, trained)])
            return jnp.sin(logits).sum(), logits

        def run(variables, *more):
            gradient, logits = jax.grad(weighted, has_aux=True)(variables["params"], variables, *more)
            return logits, gradient

        return jax.jit(run, compiler_options=QUICK)


@pytest.fixture(scope="module")
def cases(noisy_variables):
    """cases(name): each made once, its masked program compiled once."""
    return functools.lru_cache(lambda name: Case(*CASES[name], noisy_variables))


@pytest.mark.parametrize("name", CASES)
def test_sliced_equals_masked(cases, name):
    """Logits of every exit, and gradients, in evaluation and in training."""
    case = cases(name)
    net = case.supernet.net(case.supernet.arch(case.supernet.space.check(case.genome)))
    sliced = case.program(net, lambda v: extract(case.supernet, v, case.genome)[1])
    (logits, gradient), (found, masked) = sliced(case.variables), case.masked(case.variables, case.genome)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-3 * np.abs(logits).max())
    masked = dict(jax.tree_util.tree_leaves_with_path(masked))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        atol = 1e-3 * max(0.01, np.abs(leaf).max())
        np.testing.assert_allclose(masked[path], leaf, rtol=0, atol=atol, err_msg=str(path))
    assert np.ptp(logits, axis=2).min() > 1e-3
    assert np.abs(gradient["exit1_stem"]["conv"]["kernel"]).max() > 1e-5


def test_the_genomes_have_what_is_hard(cases):
    """Of a block of 24 channels, the first that each exit computes, and the one behind the last."""
    found = []
    for name in CASES:
        arch = cases(name).supernet.arch(cases(name).genome)
        found.append([[(start, spec.hidden) for _, spec, start in arch.parts(s)] for s in EXITS])
    assert found[0] == [[(0, 12)], [(12, 16), (0, 12)], [(16, 16), (12, 24)]]
    assert found[1] == [[(0, 12)], [(12, 16)], [(16, 24), (0, 16)]]
    assert found[2] == [[(0, 12)], [(12, 16), (0, 12)], [(16, 24), (12, 24)]]


def test_the_variables_are_those_of_the_largest_net(cases):
    """Each channel is there once, whichever exit computes it."""
    case = cases("kernel transforms and shifts")
    fresh = functools.partial(init_supernet, case.supernet, image_shape=(8, 8, 3))
    made = jax.eval_shape(fresh, jax.random.key(0))
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, case.variables)
    assert set(made["params"]["exit2_stage1_block1"]) == {"project_norm"}
    assert set(made["params"][kernel_transforms.PLACE]) == {f"exit1_stage1_block{i}" for i in (0, 1)}
    own = extract(case.supernet, case.variables, case.supernet.space.largest)[1]
    jax.tree.map(np.testing.assert_array_equal, own, {k: {b: t[b] for b in own[k]} for k, t in case.variables.items()})


def test_parts_are_windows_of_the_same_leaf(cases):
    case = cases("squeeze-excite")
    space = case.supernet.space
    genome = space.smallest
    for exit, ratio in ((2, 1), (3, 2)):
        genome[space.index(f"exit{exit}.stage1.block0.ratio")] = ratio
    own = extract(case.supernet, case.variables, genome)[1]["params"]
    kernel = case.variables["params"]["exit1_stage1_block0"]["project_conv"]["kernel"]
    names = [f"exit{s}_stage1_block0" for s in EXITS]
    parts = [own[name]["project_conv"]["kernel"] for name in names]
    assert [part.shape[2] for part in parts] == [12, 4, 8]  # of 24: a half, two thirds, all
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), kernel)
    gates = [own[name]["se"]["expand_conv"]["bias"] for name in names]
    np.testing.assert_array_equal(
        np.concatenate(gates), case.variables["params"][names[0]]["se"]["expand_conv"]["bias"]
    )
    assert [own[name]["se"]["reduce_conv"]["kernel"].shape[2] for name in names] == [12, 16, 24]


@pytest.fixture(scope="module")
def resolutions():
    """A supernet with two resolutions and two exits."""
    options = {"resolutions": (6,), "stage_widths": (8,), "stage_strides": (2,), "squeeze_excite": True}
    return multi_supernet.build(ofa.small_images(**{**SMALL, **options}), exits=2)


def test_tables_equal_counting_every_exit_of_the_net(resolutions):
    space, tables = resolutions.space, multi_costs.exit_tables(resolutions)
    genomes = np.stack([space.smallest, space.largest, *np.asarray(space.sample(jax.random.key(0), 12))])
    exact = [exits.costs(resolutions.net(resolutions.arch(genome))).macs for genome in genomes]
    for exit, table in enumerate(tables):
        assert [table.exact(genome) for genome in genomes] == [costs[exit] for costs in exact]
        np.testing.assert_allclose(jax.jit(table)(genomes), [costs[exit] for costs in exact], rtol=1e-6)
    assert len({resolutions.arch(genome).resolution for genome in genomes}) == 2
    assert all(first < last for first, last in exact)


def test_weights_of_input_reuse_are_held_for_all_channels_and_begin_as_zeros(cases):
    """A subnet of fresh variables answers as one without them; an exit's are the columns of its channels."""
    case, without = cases("input reuse"), built()
    fresh = init_supernet(case.supernet, jax.random.key(0), (8, 8, 3))
    names = [f"exit{exit}_stage1_block{i}" for exit in EXITS for i in (0, 1)]
    shapes = [fresh["params"][name].get("reuse_conv", {"kernel": None})["kernel"] for name in names]
    assert [leaf if leaf is None else leaf.shape[2:] for leaf in shapes] == [
        *(None, None),
        *((8, 24), (8, 24)),
        *((16, 24), (16, 24)),
    ]
    own = extract(case.supernet, case.variables, case.genome)[1]["params"]
    whole = case.variables["params"]["exit3_stage1_block1"]["reuse_conv"]["kernel"]
    np.testing.assert_array_equal(own["exit3_stage1_block1"]["reuse_conv"]["kernel"], whole[..., 12:])
    assert "reuse_conv" not in own["exit1_stage1_block0"]
    plain_variables = jax.tree.map(lambda leaf: leaf, fresh)
    for name in names:
        plain_variables["params"][name].pop("reuse_conv", None)
    nets = [extract(of, v, case.genome) for of, v in ((case.supernet, fresh), (without, plain_variables))]
    found, wanted = (jax.jit(net.apply, compiler_options=QUICK)(v, case.images)[1] for net, v in nets)
    for s in EXITS:
        np.testing.assert_allclose(found[f"exit{s}"], wanted[f"exit{s}"], rtol=1e-5, atol=1e-6)
    assert case.supernet.space.fingerprint != without.space.fingerprint


def test_sorting_takes_the_weights_of_input_reuse_along(cases):
    case = cases("input reuse")
    after = channel_sorting.sort(case.supernet, case.variables["params"], case.variables, case.supernet.space.largest)
    kernels = [
        np.asarray(variables["params"][name][conv]["kernel"])
        for variables in (case.variables, after)
        for name, conv in (("exit1_stage1_block0", "expand_conv"), ("exit3_stage1_block0", "reuse_conv"))
    ]
    before, reused, ordered, moved = (kernel.reshape(-1, 24) for kernel in kernels)
    order = [int(np.flatnonzero((before == column[:, None]).all(0))[0]) for column in ordered.T]
    assert sorted(order) == list(range(24)) != order
    np.testing.assert_array_equal(moved, reused[:, order])


def test_sorting_leaves_what_subnets_from_the_least_on_answer(cases):
    case = cases("input reuse")
    after = channel_sorting.sort(case.supernet, case.variables["params"], case.variables, case.genome)
    before, moved = (v["params"]["exit3_stage1_block1"]["reuse_conv"]["kernel"] for v in (case.variables, after))
    assert (np.asarray(before) != np.asarray(moved)).any()
    answers = []
    for variables in (case.variables, after):
        net, own = extract(case.supernet, variables, case.genome)
        answers.append(jax.jit(net.apply, compiler_options=QUICK)(own, case.images)[1])
    for s in EXITS:
        np.testing.assert_allclose(answers[1][f"exit{s}"], answers[0][f"exit{s}"], rtol=1e-3, atol=1e-4)


def test_sorting_puts_the_important_channels_first_and_changes_no_answer(cases):
    case = cases("squeeze-excite")
    supernet, largest = case.supernet, case.supernet.space.largest
    sort = jax.jit(lambda v: channel_sorting.sort(supernet, v["params"], v, largest), compiler_options=QUICK)
    after = sort(case.variables)
    net = jax.jit(supernet.net(supernet.arch(largest)).apply, compiler_options=QUICK)
    found, wanted = (net(v, case.images)[1] for v in (after, case.variables))
    for s in EXITS:
        np.testing.assert_allclose(found[f"exit{s}"], wanted[f"exit{s}"], rtol=1e-3, atol=1e-4)

    def importance(variables):
        block = variables["params"]["exit1_stage1_block0"]
        readers = (block["project_conv"]["kernel"], block["se"]["reduce_conv"]["kernel"])
        return sum(np.abs(np.asarray(kernel)).sum((0, 1, 3)) for kernel in readers)

    np.testing.assert_allclose(importance(after), np.sort(importance(case.variables))[::-1], rtol=1e-5)
    assert (np.diff(importance(case.variables)) > 0).any()


# Arch files.


def test_genomes_as_arch_files_and_back(resolutions):
    for genome in np.asarray(resolutions.space.sample(jax.random.key(0), 20)):
        content = json.loads(json.dumps(resolutions.arch.file(genome)))
        assert resolutions.arch.from_file(content) == resolutions.arch(genome)


def plain(exits, ratios=(0.5, 0.667, 1), depths=(2, 2, 2), **changes):
    """An arch file for once-for-all's five stages, alike in all."""
    file = {"resolution": 64, "exits": exits}
    for name, values in (("kernel", (3,) * exits), ("ratio", ratios)):
        file[name] = [[[value] * depth] * 5 for value, depth in zip(values, depths, strict=False)]
    return {**file, **changes}


def test_the_first_exit_costs_what_that_net_of_once_for_all_costs():
    net = NETWORKS["multi_exit"].from_arch_file(json.loads(json.dumps(plain(3, width=1.2))))
    found = exits.costs(net)
    for expand, exit in ((3, 0), (6, 2)):
        file = {"resolution": 64, "width": 1.2, "kernel": [[3, 3]] * 5, "expand": [[expand] * 2] * 5}
        alone = NETWORKS["ofa_mobilenet_v3"].from_arch_file(file)
        wanted = exits.costs(exits.ExitNet(multi_supernet.Arch((alone.arch,))))
        if exit == 0:
            assert (found.macs[0], found.params[0]) == (wanted.macs[0], wanted.params[0])
            continue
        # All channels once, and the heads and squeeze-excite of the exits before besides.
        assert wanted.macs[0] < found.macs[2] < 1.3 * wanted.macs[0]
    assert list(found.macs) == sorted(found.macs)


def test_by_default_all_grows_from_exit_to_exit():
    for net in (NETWORKS["multi_exit"](resolution=64), NETWORKS["multi_exit"](network="small_images", exits=4)):
        depths = [[len(specs) for name, specs in arch.stages if name != "stage0"] for arch in net.arch.exits]
        kernels = [
            {spec.kernel for name, spec in arch.named_blocks() if name[:6] != "stage0"} for arch in net.arch.exits
        ]
        assert depths == sorted(depths)
        assert depths[0] != depths[-1]
        assert (min(kernels[0]), max(kernels[-1])) == (3, 7)
        assert (len(net.arch.exits), net.arch.resolution) in ((3, 64), (4, 32))


def test_an_expansion_that_reuses_inputs_reads_those_of_the_exits_before_too():
    """By hand: the expansion of exit s reads the maps of all exits up to it, each as wide as its own."""
    plain_net, net = (
        NETWORKS["multi_exit"].from_arch_file({"network": "small_images", "resolution": 16, **more})
        for more in ({}, {"reuse": ["stage2_block0"]})
    )
    names, specs = zip(*net.arch.exits[0].named_blocks(), strict=True)
    place = names.index("stage2_block0")
    maps = specs[place - 1].out
    side = 16 // math.prod(spec.stride for spec in specs[:place]) // net.arch.exits[0].stem_stride
    hidden = [dict(arch.named_blocks())["stage2_block0"].hidden for arch in net.arch.exits]
    more = np.cumsum([side**2 * maps * exit * own for exit, own in enumerate(np.diff([0, *hidden]))])
    found, wanted = (np.asarray(exits.costs(of).macs) for of in (net, plain_net))
    assert (found - wanted).tolist() == more.tolist()
    assert more[-1] > more[0] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"exits": 0}, "exits is 0, choose from 1 to 5"),
        ({"exits": 6}, "exits is 6, choose from 1 to 5"),
        (plain(2), "ratio is of 3 exits, must be of 2"),
        ({**plain(3), "exits": 2}, "kernel is of 3 exits, must be of 2"),
        (plain(3, depths=(3, 2, 4)), "exit 2 has 2 blocks in stage1, exit 1 3: depths must not decrease"),
        (plain(3, ratios=(1, 0.5, 1)), "exit 2 has 48 hidden channels in stage1_block0, exit 1 96: ratios must not"),
        (plain(3, ratios=(0.5, 0.6, 1)), r"exit 2: ratio 0.6 in stage1, choose from 0.5, 0.667, 1"),
        (plain(3, kernel=[[[4, 3]] * 5] * 3), r"exit 1: kernel 4 in stage1, choose from \[3, 5, 7\]"),
        (plain(3, depths=(1, 2, 2)), r"exit 1 has 1 kernels and 1 ratios in stage1, choose a depth from \[2, 3, 4\]"),
        (plain(3, kernel=[[[3, 3]] * 4] * 3), "exit 1 must have 5 lists of kernels and of ratios"),
        (plain(3, kernel=[3]), "kernel is .*, must be a list of lists of lists of integers"),
        (plain(3, width=1.1), "width is 1.1, choose from"),
        ({"resolution": -8}, "resolution is -8, must be an integer of at least 32"),
        ({"resolution": 31}, "resolution is 31, must be an integer of at least 32"),
        ({"resolution": 64, "classes": -1}, "classes is -1, must be at least 1 and whole"),
        ({"network": "small_images", "width": 1.2}, "width is 1.2, but small_images comes in one"),
        ({"reuse": "stage1_block0"}, "reuse is 'stage1_block0', must be a"),
        ({"reuse": ["stage9_block0"]}, "there is no block 'stage9_block0' whose inputs could be reused"),
        ({"reuse": 3}, "reuse is 3, must be a list of"),
        ({"network": "mobilenet_v2"}, r"network is 'mobilenet_v2', choose from \['ofa_mobilenet_v3', 'small_images'\]"),
    ],
)
def test_arch_files_of_no_such_net(content, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS["multi_exit"].from_arch_file(content)


def of_two(**changes):
    """An arch file of the space `resolutions`."""
    file = {"resolution": 8, "kernel": [[[3]], [[3, 5]]], "ratio": [[[0.5]], [[0.5, 1]]]}
    return {name: value for name, value in {**file, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"resolution": 8, "width": 1, "kernel": [[3]], "expand": [[3]]},
            'the keys "resolution", "kernel" and "ratio"',
        ),
        (of_two(resolution=...), 'the keys "resolution", "kernel" and "ratio"'),
        (of_two(typo=3), 'the keys "resolution", "kernel" and "ratio"'),
        ([of_two()], 'the keys "resolution", "kernel" and "ratio"'),
        (of_two(resolution="8"), "resolution is '8', must be an integer of at least 2"),
        (of_two(resolution=1), "resolution is 1, must be an integer of at least 2"),
        (of_two(kernel=3), "kernel is 3, must be of 2: a list for each stage of each exit"),
        (of_two(ratio=[[[0.5]]]), "ratio is of 1 exits, must be of 2"),
        (of_two(kernel=[[3], [[3, 5]]]), r"exit 1: kernel is \[3\], must be lists of numbers, one per stage"),
        (of_two(ratio=[[[0.5]], [["x", 1]]]), r"exit 2: ratio is \[\['x', 1\]\], must be lists of numbers"),
        (of_two(ratio=[[[0.5]], [[True, 1]]]), r"exit 2: ratio is \[\[True, 1\]\], must be lists of numbers"),
        (of_two(ratio=[[[0.5]], [[0.5, math.nan]]]), "exit 2: ratio nan in stage1, choose from"),
    ],
)
def test_arch_files_of_no_net_of_a_space(resolutions, content, message):
    """As `dynnas cost --workdir` reads them, by the run's own space."""
    with pytest.raises(ValueError, match=message):
        resolutions.arch.from_file(content)


def test_numbers_of_an_arch_file_are_the_choices_they_equal(resolutions):
    assert resolutions.arch.from_file(of_two(kernel=[[[3.0]], [[3, 5.0]]])) == resolutions.arch.from_file(of_two())


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (ofa.small_images, {"exits": 0}, "exits is 0, choose from 1 to 5"),
        (ofa.small_images, {"ratios": (1, 0.5)}, r"ratios is \(1.0, 0.5\), must ascend from above 0 to 1"),
        (ofa.small_images, {"ratios": (0.5,)}, "must ascend from above 0 to 1"),
        (NETWORKS["attentive_nas"], {}, "plain inverted-residual blocks only"),
    ],
)
def test_spaces_there_are_none_of(space, options, message):
    with pytest.raises(ValueError, match=message):
        multi_supernet.build(space(), **options)


def test_what_does_not_know_of_shared_leaves_refuses():
    supernet = multi_supernet.build(ofa.small_images(**SMALL))
    with pytest.raises(ValueError, match="several exits, .* cannot be relaxed"):
        relaxed.mask_variables(supernet, {}, jnp.zeros((1, 1)))
    with pytest.raises(ValueError, match="several exits, .* cannot be switched; run them masked"):
        switched.program(supernet)


@pytest.mark.parametrize("name", CASES)
def test_settled_nets_answer_the_same_and_compute_nothing_in_vain(noisy_variables, name):
    """Against the compiler's own removal of dead code, on random genomes of two stages."""
    supernet = built(**{**CASES[name][0], "stage_widths": (8, 12), "stage_strides": (2, 1), "kernels": (3, 5)})
    variables = noisy_variables(supernet.largest_net(), (8, 8, 3))
    if supernet.transforms:
        same = kernel_transforms.identity(elastic.elastic_kernels(supernet))
        variables["params"][kernel_transforms.PLACE] = same
    images = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    spent, changed = multi_costs.spent(supernet), 0
    for genome in np.asarray(supernet.space.sample(jax.random.key(3), 12)):
        genome = supernet.space.check(genome)
        settled = supernet.space.check(multi_costs.settled(supernet, genome))
        np.testing.assert_array_equal(multi_costs.settled(supernet, settled), settled)
        net, own = extract(supernet, variables, settled)
        net = net.clone(depthwise="conv")
        needed = used_macs(net, own, images[:1])
        assert spent(genome) == spent(settled) == list(exits.costs(net).macs)
        assert needed == spent(genome)[-1]
        raw, all_of_it = extract(supernet, variables, genome)
        if exits.costs(raw).macs[-1] > needed and changed < 2:
            changed += 1
            answers = [supernet.answers(jax.jit(n.apply)(v, images)) for n, v in ((raw, all_of_it), (net, own))]
            for a, b in zip(*answers, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)
    assert changed == 2


def used_macs(net, variables, images):
    """MACs of a net's answers at all exits, without what none of them hangs on."""

    def answers(variables, images):
        endpoints = net.apply(variables, images)[1]
        return [endpoints[f"exit{exit}"] for exit in EXITS]

    jaxpr = jax.make_jaxpr(answers)(variables, images).jaxpr
    kept, _ = pe.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return macs.jaxpr_macs(kept)
