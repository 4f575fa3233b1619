"""Nets of several exits: each exit alone against the whole net, nothing flowing back, and what each one's part costs."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import cascade, protocol, routers
from dynnas_jax.networks import exits, mbconv
from dynnas_jax.networks.exits import ExitNet
from dynnas_jax.networks.mbconv import BlockSpec
from dynnas_jax.networks.multi_exit import Arch, block_name

QUICK = {"xla_backend_optimization_level": 0}
SIDE = 12


def one(stem, hidden, kernel, depth, **options):
    """An exit's arch: a stem, a block without expansion, and a stage of `depth` blocks with squeeze-excite."""
    first = BlockSpec(3, stem, 8, 1, "relu", expand=False)
    specs = [
        BlockSpec(kernel, channels, 12, 1 if i else 2, "hswish", 2 + channels // 4, shortcut=i > 0)
        for i, channels in enumerate(hidden[:depth])
    ]
    stages = (("stage0", (first,)), ("stage1", tuple(specs)))
    return mbconv.Arch(SIDE, stem, "relu", stages, 16, "hswish", 3, head_features=6, **options)


# Exit 2 adds nothing to the second block and is the first to compute the third; of the stem each has a group; the last block's
# expansion reads the inputs of those before.
EXITS = (one(4, (8, 12, 0), 3, 2), one(6, (12, 12, 8), 7, 3), one(8, (16, 20, 24), 5, 3))
ARCH = Arch(EXITS, reuse=("stage1_block0", "stage1_block2"))


@pytest.fixture(scope="module")
def made(noisy_variables):
    """(net, float64 variables, images)"""
    net = ExitNet(ARCH)
    variables = noisy_variables(net, (SIDE, SIDE, 3))
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)
    return net, variables, images


def own_of(net, variables, number):
    """The variables of what the first `number` exits compute."""
    names = {block.name for s in net.segments()[:number] for block in (*s.blocks, s.exit)}
    return {kind: {name: leaf for name, leaf in tree.items() if name in names} for kind, tree in variables.items()}


def test_an_exit_alone_is_that_exit_in_the_whole(made):
    """In float64, run to the end in one net of fewer exits, and step by step from what the exit before left."""
    net, variables, images = made
    net = net.clone(dtype="float64")

    def program(variables):
        _, ends = net.apply(variables, images)
        carry, steps = images, []
        for segment in net.segments():
            step, carry = exits.run_segment(segment, variables, carry)
            steps.append(step)
        return [ends[f"exit{s}"] for s in (1, 2, 3)], steps

    with jax.enable_x64():
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        whole, steps = jax.jit(program, compiler_options=QUICK)(variables)
        for number, (inside, step) in enumerate(zip(whole, steps, strict=True), 1):
            np.testing.assert_allclose(step, inside, rtol=1e-12, atol=1e-12)
            arch = Arch(EXITS[:number], tuple(name for name in ARCH.reuse if number > 1 or name != "stage1_block2"))
            alone = jax.jit(net.clone(arch=arch).apply, compiler_options=QUICK)
            found, _ = alone(own_of(net, variables, number), images)
            np.testing.assert_allclose(found, inside, rtol=1e-12, atol=1e-12)
            assert np.ptp(inside, axis=0).max() > 1e-3


def test_nothing_flows_back(made):
    """The gradient of an exit by the weights of later ones is zero, every bit; by those of earlier ones it is not."""
    net, variables, images = made

    def answers(params):
        (_, ends), _ = net.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
        return jnp.stack([jnp.sin(ends[f"exit{s}"]).sum() for s in (1, 2, 3)])

    gradient = jax.jit(jax.jacrev(answers), compiler_options=QUICK)(variables["params"])
    largest = {}
    for block, tree in gradient.items():
        exit = int(block.removeprefix("exit").partition("_")[0])
        rows = np.stack([np.abs(np.asarray(leaf)).reshape(3, -1).max(1) for leaf in jax.tree.leaves(tree)])
        assert (rows[:, : exit - 1] == 0).all(), block
        largest[block] = rows.max(0)
    for later in (1, 2):  # what the second and the third exit take from the first
        assert largest["exit1_stage1_block0"][later] > 1e-6
    assert largest["exit2_stage1_block2"][2] > 1e-6
    assert largest["exit1_stem"][1] > 1e-6


def test_one_exit_is_the_ordinary_net(noisy_variables, made):
    """With the same weights, in evaluation and in training."""
    images = made[2]
    plain, net = mbconv.Net(EXITS[2]), ExitNet(Arch(EXITS[2:]))
    variables = noisy_variables(plain, (SIDE, SIDE, 3))
    renamed = {kind: {block_name(1, name): tree for name, tree in trees.items()} for kind, trees in variables.items()}

    @functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
    def run(net, variables):
        trained = net.apply(variables, images, True, mutable=["batch_stats"])
        return net.apply(variables, images)[0], trained[0][0], trained[1]

    *found, stats = run(net, renamed)
    *wanted, wanted_stats = run(plain, variables)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert np.ptp(wanted, axis=1).max() > 1e-3
    for name, tree in wanted_stats["batch_stats"].items():
        same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(same, stats["batch_stats"][block_name(1, name)], tree)


def increments_by_hand():
    """MACs of every exit's own part, from the channels: [exits]."""
    found = []
    for s, arch in enumerate(EXITS):
        before = EXITS[s - 1] if s else None
        stem = arch.stem_out - (before.stem_out if before else 0)
        total = (SIDE // 2) ** 2 * stem * (27 + 9 + 8)  # the stem, and the first block's depthwise and projection
        small, maps = (SIDE // 4) ** 2, 8
        for i, spec in enumerate(arch.stages[1][1]):
            specs = before.stages[1][1] if before else ()
            own = spec.hidden - (specs[i].hidden if i < len(specs) else 0)
            read = maps * (s + 1 if f"stage1_block{i}" in ARCH.reuse else 1)  # also of exits that skip the block
            if own:
                total += (small if i else (SIDE // 2) ** 2) * read * own
                total += small * own * (spec.kernel**2 + spec.out) + spec.hidden * spec.se + spec.se * own
            maps = spec.out
        found.append(total + small * 12 * 16 + 16 * 6 + 6 * 3)
    return found


def test_costs_are_the_sums_of_what_each_exit_computes(made):
    net, variables, _ = made
    image, increments = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.uint8), []
    for segment in net.segments():
        run = lambda v, c, segment=segment: exits.run_segment(segment, v, c)  # noqa: E731
        increments.append(macs.macs(run, variables, image))
        _, image = jax.eval_shape(run, variables, image)
    assert increments == increments_by_hand()
    assert exits.costs(net).macs == tuple(np.cumsum(increments).tolist())
    held = [macs.params(own_of(net, variables, number)) for number in (1, 2, 3)]
    assert exits.costs(net).params == tuple(held)


def test_every_exit_is_a_choice_of_a_dynamic_network(made, quick_programs):
    """Images that go on take with them what the exits before left."""
    net, variables, images = made
    dynamic = protocol.multi_exit(net)
    assert dynamic.cost == exits.costs(net).macs
    with quick_programs():
        logits, score = jax.jit(dynamic.outputs)(variables, images)
        bounds = np.asarray([np.sort(score[s])[[1, 2]].mean() for s in (0, 1)], np.float32)
        answers = cascade.build(dynamic, capacity=4)(variables, images, bounds)
    choice = np.asarray(routers.policy(score, bounds))
    assert len(set(choice.tolist())) > 1
    np.testing.assert_array_equal(answers.choice, choice)
    np.testing.assert_allclose(answers.logits, np.asarray(logits)[choice, np.arange(5)], rtol=1e-4, atol=1e-5)


def test_shifts_equal_conv(made):
    net, variables, images = made
    forms = [net.clone(depthwise=form) for form in ("conv", "shifts")]
    run = jax.jit(lambda v: [net.apply(v, images)[0] for net in forms], compiler_options=QUICK)
    np.testing.assert_allclose(*run(variables), rtol=1e-4, atol=1e-5)


def without_shortcuts(arch):
    stages = [(name, tuple(replace(spec, shortcut=False) for spec in specs)) for name, specs in arch.stages]
    return replace(arch, stages=tuple(stages))


@pytest.mark.parametrize(
    ("archs", "options", "message"),
    [
        ((), {}, "^exits is 0, choose from 1 to 5$"),
        (EXITS[:1] * 6, {}, "^exits is 6, choose from 1 to 5$"),
        ((EXITS[1], one(6, (12, 12), 3, 2)), {}, "exit 2 has 2 blocks in stage1, exit 1 3: depths must not decrease"),
        (
            (EXITS[0], one(4, (8, 8), 3, 2)),
            {},
            "exit 2 has 8 hidden channels in stage1_block1, exit 1 12: ratios must not decrease",
        ),
        ((EXITS[1], one(4, (16, 16, 16), 3, 3)), {}, "exit 2 has 4 channels in the stem, exit 1 6: channels must not"),
        ((EXITS[0], replace(EXITS[1], head_conv=8)), {}, "exits 1 and 2 differ in more than kernels"),
        (tuple(map(without_shortcuts, EXITS)), {}, "exit 1 skips stage1_block2, which has no shortcut"),
        ((without_shortcuts(EXITS[0]), EXITS[0]), {}, "stage1_block1 of exits 1 and 2 differs"),
        ((replace(EXITS[0], stages=()),), {}, "exit 1 has no blocks"),
        ((replace(EXITS[0], stem_out=5),), {}, "stage0_block0 expands nothing and reads 5 channels, not 4"),
        (EXITS, {"reuse": ("stage2_block0",)}, "there is no block 'stage2_block0'"),
        (
            EXITS,
            {"reuse": ("stage0_block0",)},
            "there is no block 'stage0_block0' whose inputs could be reused, only stage1",
        ),
    ],
)
def test_what_no_such_net_has(archs, options, message):
    with pytest.raises(ValueError, match=message):
        Arch(archs, **options)


def test_blocks_that_have_no_parts():
    stage = ("stage1", (BlockSpec(3, 8, 8, 1, "relu", groups=2),))
    with pytest.raises(ValueError, match="stage1_block0 has groups"):
        Arch((replace(EXITS[0], stages=(stage,)),))
