"""Parts of convolutions against one dense convolution whose kernel has zeros where nothing may flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.networks import blocks as layers
from dynnas_jax.networks.mbconv import BlockSpec, MBConv, Numerics
from dynnas_jax.networks.multi_stage import Left, MBConvPart, convolution, joined

INPUTS, OUTPUTS = ((0, 2), (2, 5), (5, 6)), ((0, 3), (3, 4), (4, 8))  # channels of the groups of three exits
OPTIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}


def dense(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **OPTIONS)


@pytest.fixture(scope="module")
def data():
    """(images of 6 channels, a 3x3 kernel from them to 8)"""
    generator = np.random.default_rng(0)
    return tuple(generator.normal(size=shape).astype(np.float32) for shape in ((2, 5, 5, 6), (3, 3, 6, 8)))


def block_kernel(kernel, flows):
    """The kernel with zeros but where `flows(exit of the input, exit of the output)`."""
    found = np.zeros_like(kernel)
    for k, (a, b) in enumerate(INPUTS):
        for s, (c, d) in enumerate(OUTPUTS):
            if flows(k, s):
                found[:, :, a:b, c:d] = kernel[:, :, a:b, c:d]
    return found


def test_independent_is_block_diagonal(data):
    x, kernel = data
    parts = [
        convolution("independent", lambda v, a=a, b=b, c=c, d=d: dense(v, kernel[:, :, a:b, c:d]), x[..., a:b], None)
        for (a, b), (c, d) in zip(INPUTS, OUTPUTS, strict=True)
    ]
    wanted = dense(x, block_kernel(kernel, lambda k, s: k == s))
    np.testing.assert_allclose(np.concatenate([part.output for part in parts], -1), wanted, rtol=1e-5, atol=1e-5)
    assert all(part.left is None for part in parts)


def test_input_reuse_is_block_lower_triangular(data):
    x, kernel = data
    left, outputs = None, []
    for (a, b), (c, d) in zip(INPUTS, OUTPUTS, strict=True):
        output, left = convolution(
            "input", lambda v, b=b, c=c, d=d: dense(v, kernel[:, :, :b, c:d]), x[..., a:b], left, a
        )
        outputs.append(output)
    wanted = dense(x, block_kernel(kernel, lambda k, s: k <= s))
    np.testing.assert_allclose(np.concatenate(outputs, -1), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(left, x)


def test_output_reuse_adds_up_to_the_whole(data):
    x, kernel = data
    left = None
    for a, b in INPUTS:
        output, left = convolution("output", lambda v, a=a, b=b: dense(v, kernel[:, :, a:b]), x[..., a:b], left)
        np.testing.assert_allclose(output, dense(x[..., :b], kernel[:, :, :b]), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(convolution("output", None, None, left).output, left)


def test_an_unknown_kind(data):
    with pytest.raises(ValueError, match=r"is 'both', choose from \['independent', 'input', 'output'\]"):
        convolution("both", None, data[0], None)


def test_what_is_joined_stands_behind_or_adds_up():
    """Behind the channels so far; where both have all, each zeros but for its own, it is the same sum."""
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 1, 6)
    behind = joined(x[..., :4], x[..., 4:], 4)
    masks = (np.arange(6) < 4, np.arange(6) >= 4)
    np.testing.assert_array_equal(behind, x)
    np.testing.assert_array_equal(joined(*(np.where(m, x, 0) for m in masks), 0), x)


# The block.

SPEC = BlockSpec(3, 8, 6, 1, "hswish", se=4, shortcut=True)
CONVENTIONS = ("relu", "hard_sigmoid")


@pytest.fixture(scope="module")
def first_and_whole(data):
    """(one exit's part of a block, the ordinary block, variables of both)"""
    part = MBConvPart(SPEC, 0, False, False, *CONVENTIONS, Numerics())
    whole = MBConv(SPEC, *CONVENTIONS, Numerics())
    shapes = jax.eval_shape(whole.init, jax.random.key(0), data[0])
    generator = np.random.default_rng(0)
    return part, whole, jax.tree.map(lambda leaf: generator.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("train", [False, True])
def test_the_first_exit_is_the_ordinary_block(data, first_and_whole, train):
    part, whole, variables = first_and_whole
    (x, _), mutable = data, ["batch_stats"] if train else []
    (found, left), stats = part.apply(variables, (x, None), train, mutable=mutable)
    wanted, wanted_stats = whole.apply(variables, x, train, mutable=mutable)
    np.testing.assert_array_equal(found, wanted)
    jax.tree.map(np.testing.assert_array_equal, stats, wanted_stats)
    assert left.pooled.shape == (2, 1, 1, 8)


def test_squeeze_excite_looks_at_all_channels_so_far(data):
    """By NumPy: the second exit's gates from the means of both exits' channels, the first one's of its own alone."""
    x, _ = data
    part = MBConvPart(SPEC, 5, False, False, *CONVENTIONS, Numerics())
    left = Left(x, jnp.full((2, 1, 1, 5), 0.3))
    shapes = jax.eval_shape(part.init, jax.random.key(0), (x, left))
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    generator = np.random.default_rng(1)
    for name in ("reduce_conv", "expand_conv"):
        leaf = variables["params"]["se"][name]
        leaf["kernel"] = generator.normal(size=leaf["kernel"].shape).astype(np.float32)
    (_, after) = part.apply(variables, (x, left))
    own = np.asarray(after.pooled)[:, 0, 0, 5:]
    np.testing.assert_array_equal(after.pooled[..., :5], left.pooled)
    hidden = lambda pooled: np.maximum(pooled @ variables["params"]["se"]["reduce_conv"]["kernel"][0, 0] + 0.5, 0)  # noqa: E731
    gates = (
        hidden(np.concatenate([np.full((2, 5), 0.3), own], -1))
        @ variables["params"]["se"]["expand_conv"]["kernel"][0, 0]
    )
    gates = np.clip((gates + 0.5) / 6 + 0.5, 0, 1)
    act = layers.ACTIVATIONS["hswish"]
    norm = lambda y: 0.5 * (y - 0.5) / np.sqrt(0.5 + 1e-5) + 0.5  # noqa: E731
    y = act(norm(np.repeat(0.5 * x.sum(-1, keepdims=True), 3, -1)))
    taps = sum(np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, i : i + 5, j : j + 5] for i in range(3) for j in range(3))
    y = act(norm(0.5 * taps)) * gates[:, None, None]
    np.testing.assert_allclose(after.sums, x + 0.5 * y.sum(-1, keepdims=True), rtol=1e-4, atol=1e-4)


def test_an_exit_that_adds_nothing_has_its_norm_alone(data):
    x, _ = data
    part = MBConvPart(SPEC, 8, False, False, *CONVENTIONS, Numerics())
    shapes = jax.eval_shape(part.init, jax.random.key(0), (x, Left(2 * x)))
    assert set(shapes["params"]) == {"project_norm"}
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    found, left = part.apply(variables, (x, Left(2 * x)))
    np.testing.assert_allclose(found, x + (2 * x - 1) / np.sqrt(1 + 1e-5) + 1, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(left.sums, 2 * x)
