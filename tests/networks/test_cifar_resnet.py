"""Residual nets against published costs, both shortcuts against a plain computation."""

import jax
import numpy as np
import pytest

from dynnas_jax.costs.macs import params
from dynnas_jax.networks import chains, cifar_resnet
from dynnas_jax.networks.mbconv import Numerics


@pytest.mark.parametrize("number", range(8))
def test_published_costs(published, meets_published, number):
    rows = published["residual"]["nets"]
    assert len(rows) == 8
    meets_published(rows[number])


def test_costs_of_the_reference_rows(published):
    """The table of fixed networks names the same nets; the stage-wise paper prints 92 M for its own."""
    rows = {row["name"]: row for row in published["fixed_networks"]}
    for blocks, name in ((3, "resnet20_cifar, option A"), (18, "resnet110_cifar, option A")):
        assert chains.cost(cifar_resnet.cifar_resnet(depths=(blocks,) * 3)) == (
            rows[name]["macs"],
            rows[name]["params"],
        )
    row = rows["stage-wise residual net, stages (6, 8, 6), 1x1 projections"]
    macs, _ = chains.cost(cifar_resnet.cifar_resnet(depths=(6, 8, 6), shortcut="projection"))
    assert abs(macs - row["macs"]) <= row["tolerance_macs"]


def test_one_more_block_of_a_stage_adds_its_own_convolutions():
    """Whatever the other stages' depths: two 3x3 convolutions of the stage's channels at its resolution."""
    for depths in ((1, 1, 1), (3, 2, 1)):
        before = chains.cost(cifar_resnet.cifar_resnet(depths=depths))
        for stage, (width, side) in enumerate(((16, 32), (32, 16), (64, 8))):
            deeper = tuple(depth + (i == stage) for i, depth in enumerate(depths))
            macs, held = chains.cost(cifar_resnet.cifar_resnet(depths=deeper))
            weights = 2 * 9 * width**2
            assert (macs - before[0], held - before[1]) == (weights * side**2, weights + 2 * 2 * width)


def block(shortcut, inputs, out, stride):
    return cifar_resnet.Residual(cifar_resnet.BlockSpec(out, out, stride, False, shortcut), Numerics())


@pytest.mark.parametrize(("inputs", "out", "stride", "side"), [(4, 8, 2, 6), (4, 9, 2, 5), (4, 8, 1, 4), (6, 6, 2, 4)])
def test_shortcuts_without_weights(inputs, out, stride, side):
    """With the last norm at zero, a block is its shortcut: every other pixel, zeros before and behind the channels."""
    module = block("option_a", inputs, out, stride)
    x = np.abs(np.random.default_rng(0).normal(size=(2, side, side, inputs))).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    assert not [name for name in variables["params"] if "shortcut" in name]
    variables["params"]["conv1_norm"] = jax.tree.map(np.zeros_like, variables["params"]["conv1_norm"])
    kept = -(-side // stride)
    expected = np.zeros((2, kept, kept, out), np.float32)
    for row in range(kept):
        for column in range(kept):
            first = (out - inputs) // 2
            expected[:, row, column, first : first + inputs] = x[:, row * stride, column * stride]
    np.testing.assert_array_equal(jax.jit(module.apply)(variables, x), expected)


def test_projection_is_a_1x1_convolution_with_its_norm():
    module = block("projection", 4, 8, 2)
    x = np.abs(np.random.default_rng(0).normal(size=(2, 6, 6, 4))).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    assert params(variables) == 4 * 9 * 8 + 8 * 9 * 8 + 4 * 8 + 3 * 2 * 8
    variables["params"]["conv1_norm"] = jax.tree.map(np.zeros_like, variables["params"]["conv1_norm"])
    expected = x[:, ::2, ::2] @ variables["params"]["shortcut_conv"]["kernel"][0, 0] / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), np.maximum(expected, 0), rtol=1e-5, atol=1e-6)


def test_sizes_of_the_stages():
    net = cifar_resnet.bottleneck_resnet(depths=(1, 1, 1, 1), resolution=96)
    image = jax.ShapeDtypeStruct((1, 96, 96, 3), np.uint8)
    _, ends = jax.eval_shape(net.init_with_output, jax.random.key(0), image)[0]
    found = {name: end.shape[1:] for name, end in ends.items()}
    assert found["stem"] == (24, 24, 64)
    assert [found[f"stage{i}_block0"] for i in (1, 2, 3, 4)] == [
        (24, 24, 256),
        (12, 12, 512),
        (6, 6, 1024),
        (3, 3, 2048),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (3, 3)}, r"depths is \(3, 3\) but widths is \(16, 32, 64\)"),
        ({"depths": (3, 0, 3)}, r"depths is \(3, 0, 3\), must be at least 1"),
        ({"depths": (), "widths": ()}, r"depths is \(\), must be at least 1"),
        ({"shortcut": "none"}, r"shortcut is 'none', choose from \['option_a', 'projection'\]"),
        ({"widths": (16, 8, 64)}, "shrink, which shortcuts without weights cannot"),
    ],
)
def test_what_no_residual_net_has(options, message):
    with pytest.raises(ValueError, match=message):
        cifar_resnet.cifar_resnet(**options)


def test_bottlenecks_of_a_quarter():
    with pytest.raises(ValueError, match="must be multiples of 4"):
        cifar_resnet.bottleneck_resnet(widths=(256, 510, 1024, 2048))
