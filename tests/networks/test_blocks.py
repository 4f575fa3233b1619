"""The layers against the outside: both forms of a convolution against one another, padding against lax."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dynnas_jax.costs import macs
from dynnas_jax.networks import blocks

QUICK = {"xla_backend_optimization_level": 0}


def all_forms(module, image_shape, seed=0):
    """Each form's output and gradients of params and input, of a random weighting of the output; in float64."""
    generator = np.random.default_rng(seed)
    with jax.enable_x64():
        x = jnp.asarray(generator.normal(size=image_shape))
        shapes = jax.eval_shape(module("conv").init, jax.random.key(0), x.astype(jnp.float32))
        params = jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape)), shapes)
        out_shape = jax.eval_shape(module("conv").apply, params, x).shape
        weights = jnp.asarray(generator.normal(size=out_shape))

        def run(form, params, x, weights):
            out, pull = jax.vjp(module(form).apply, params, x)
            return out, pull(weights)

        program = jax.jit(
            lambda *inputs: [run(form, *inputs) for form in blocks.DEPTHWISE_FORMS], compiler_options=QUICK
        )
        return jax.tree.map(np.asarray, program(params, x, weights))


def assert_equal_forms(conv, *others):
    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(a).max()))

    for other in others:
        jax.tree.map(close, conv, other)


# One axis of the image is even and the other one odd, so that both meet every kernel, stride and padding.
@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_forms_are_equal(kernel, stride, padding):
    module = functools.partial(_depthwise, kernel, stride, padding)
    conv, *others = all_forms(module, (3, 8, 9, 2))
    assert conv[0].shape == (3, -(-8 // stride), -(-9 // stride), 2)
    assert_equal_forms(conv, *others)


@pytest.mark.parametrize(("size", "stride"), [((2, 3), 1), ((1, 2), 2)])
def test_forms_are_equal_on_images_smaller_than_the_kernel(size, stride):
    assert_equal_forms(*all_forms(functools.partial(_depthwise, 5, stride, "SAME"), (2, *size, 3)))


def _depthwise(kernel, stride, padding, form):
    return blocks.Depthwise(kernel, stride, form, padding)


def test_shifts_gradient_against_finite_differences():
    with jax.enable_x64():
        generator = np.random.default_rng(0)
        x, kernel = jnp.asarray(generator.normal(size=(2, 5, 4, 2))), jnp.asarray(generator.normal(size=(3, 3, 1, 2)))
        shifts = jax.jit(lambda x, kernel: blocks.depthwise_shifts(x, kernel, 2, ((1, 1), (0, 1))))
        check_grads(shifts, (x, kernel), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_the_weight_gradient_sums_over_all_groups_of_images():
    # 16x16 outputs: two images at a time are summed, of six.
    assert_equal_forms(*all_forms(functools.partial(_depthwise, 3, 1, "SAME"), (6, 16, 16, 1)))


@pytest.mark.parametrize("bias", [False, True])
def test_pointwise_forms_are_equal(bias):
    conv, *others = all_forms(lambda form: blocks.Pointwise(5, form, bias), (2, 3, 4, 6))
    assert conv[0].shape == (2, 3, 4, 5)
    assert_equal_forms(conv, *others)


def test_grouped_pointwise_forms_are_equal_and_one_product_per_group():
    conv, *others = all_forms(lambda form: blocks.Pointwise(4, form, groups=2), (2, 3, 4, 6))
    assert conv[0].shape == (2, 3, 4, 4)
    assert_equal_forms(conv, *others)
    generator = np.random.default_rng(0)
    x, kernel = generator.normal(size=(1, 2, 2, 6)), generator.normal(size=(1, 1, 3, 4))
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)
    found = blocks.Pointwise(4, "conv", groups=2).apply({"params": {"kernel": kernel}}, x)
    halves = [x[..., :3] @ kernel[0, 0, :, :2], x[..., 3:] @ kernel[0, 0, :, 2:]]
    np.testing.assert_allclose(found, np.concatenate(halves, -1), rtol=1e-5, atol=1e-6)


def test_shuffled_channels_alternate_between_the_groups():
    x = jnp.arange(2 * 6).reshape(1, 2, 1, 6)
    assert blocks.channel_shuffle(x, 2)[0, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]
    assert blocks.channel_shuffle(x, 3)[0, 1, 0].tolist() == [6, 8, 10, 7, 9, 11]
    np.testing.assert_array_equal(blocks.channel_shuffle(x, 1), x)


def test_local_average_by_hand():
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    for padding, pad in (("SAME", (0, 1)), ("symmetric", (1, 0))):
        padded = np.pad(x, ((0, 0), (0, 0), pad, (0, 0)))
        expected = padded.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
        np.testing.assert_allclose(blocks.local_average(x, 2, padding), expected, atol=1e-6)


def test_same_padding_is_that_of_lax():
    for size in range(1, 20):
        for kernel in range(1, 8):
            for stride in (1, 2, 3):
                (wanted,) = jax.lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")
                assert blocks.pads(size, kernel, stride, "SAME") == wanted, (size, kernel, stride)


def test_symmetric_padding_is_that_of_torch():
    assert [blocks.pads(9, kernel, 2, "symmetric") for kernel in (1, 3, 5, 7)] == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_squeeze_excite_by_hand():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    layer = blocks.SqueezeExcite(3, "relu", "hard_sigmoid", "conv")
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes)
    reduce, expand = params["reduce_conv"], params["expand_conv"]
    hidden = np.maximum(x.mean((1, 2)) @ reduce["kernel"][0, 0] + reduce["bias"], 0)
    gate = np.clip((hidden @ expand["kernel"][0, 0] + expand["bias"]) / 6 + 0.5, 0, 1)
    found = jax.jit(layer.apply)({"params": params}, x)
    np.testing.assert_allclose(found, x * gate[:, None, None], atol=1e-5)


def test_global_average_is_the_mean():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(blocks.global_average(x), x.mean((1, 2), keepdims=True), atol=1e-6)


# Coarse activations, sums in float32.

DTYPES = ("bfloat16", "float32")


def coarse(generator, shape, mean=0.0):
    return jnp.asarray(mean + generator.normal(size=shape), jnp.bfloat16)


def test_moments_of_bfloat16_are_taken_in_float32():
    """Around 40 bfloat16 has steps of 0.25: its own mean and variance would be far off those of its values."""
    x = coarse(np.random.default_rng(0), (8, 5, 5, 3), mean=40.0)
    layer = nn.compact(lambda module, x: blocks.norm(True, epsilon=1e-5, momentum=0.0, axis_name=None, name="n")(x))
    module = type("Normed", (nn.Module,), {"__call__": layer})()
    out, variables = module.init_with_output(jax.random.key(0), x)
    _, updated = module.apply(variables, x, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64).reshape(-1, 3)
    stats = updated["batch_stats"]["n"]
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(stats["mean"], exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], exact.var(0), rtol=1e-5)
    assert out.dtype == jnp.bfloat16
    wanted = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(np.asarray(out, np.float64).reshape(-1, 3), wanted, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("form", blocks.DEPTHWISE_FORMS)
@pytest.mark.parametrize("module", [lambda form: blocks.Depthwise(5, 2, form), lambda form: blocks.Pointwise(7, form)])
def test_layers_of_bfloat16_keep_their_kernels_in_float32(module, form):
    generator, layer = np.random.default_rng(0), module(form)
    x = coarse(generator, (3, 8, 9, 4))
    params = layer.init(jax.random.key(0), x)
    weights = coarse(generator, jax.eval_shape(layer.apply, params, x).shape)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(x, weights):
        out, pull = jax.vjp(layer.apply, params, x)
        return out, pull(weights)

    (out, gradients), (exact, wanted) = (both(*(leaf.astype(t) for leaf in (x, weights))) for t in DTYPES)
    assert out.dtype == gradients[1].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients[0])} == {jnp.dtype("float32")}
    for found, leaf in zip(jax.tree.leaves((out, gradients)), jax.tree.leaves((exact, wanted)), strict=True):
        found = np.asarray(found, np.float32)
        np.testing.assert_allclose(found, leaf, rtol=0, atol=2**-7 * np.abs(leaf).max())


def test_shifts_round_once():
    """The output is the exact sum rounded once, and the kernel's gradient is not rounded to bfloat16 at all."""
    generator = np.random.default_rng(0)
    x, kernel = coarse(generator, (4, 12, 12, 2)), jnp.asarray(generator.normal(size=(7, 7, 1, 2)), jnp.float32)
    run = lambda x, kernel: blocks.depthwise_shifts(x, kernel, 1, ((3, 3), (3, 3)))  # noqa: E731
    weights = coarse(generator, x.shape)
    both = jax.jit(lambda x, kernel, weights: (run(x, kernel), jax.vjp(run, x, kernel)[1](weights)[1]))
    out, gradient = both(x, kernel, weights)
    with jax.enable_x64():
        exact, wanted = both(*(jnp.asarray(np.asarray(leaf, np.float64)) for leaf in (x, kernel, weights)))
    # Half a step of bfloat16's eight bits, and what float32 itself loses.
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2**-8 + 1e-6, atol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_shifts_have_no_empty_arrays(stride):
    """One in what runs on each of several devices ends the compiler of JAX 0.11.2 (a null pointer in Shardy)."""
    x, kernel = jnp.zeros((4, 8, 8, 2)), jnp.zeros((3, 3, 1, 2))
    total = lambda *given: blocks.depthwise_shifts(*given, stride, ((1, 1), (1, 1))).sum()  # noqa: E731
    inside = macs.equations(jax.grad(total, argnums=(0, 1)), x, kernel)
    sizes = [value.aval.size for equation in inside for value in (*equation.invars, *equation.outvars)]
    assert min(sizes) > 0


def test_averages_of_bfloat16_are_taken_in_float32():
    x = coarse(np.random.default_rng(0), (2, 16, 16, 3), mean=2.0)
    for found, exact in (
        (blocks.global_average(x), np.asarray(x, np.float64).mean((1, 2), keepdims=True)),
        (blocks.local_average(x, 4, "SAME"), np.asarray(x, np.float64).reshape(2, 4, 4, 4, 4, 3).mean((2, 4))),
    ):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8 + 1e-6)


# Pooling.


@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pool", ["max", "average"])
def test_pooling_over_the_pixels_that_are_there(pool, stride, padding):
    """Windows of 3x3, one axis of the image even and the other odd; at the edges fewer pixels count."""
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype(np.float32)
    function, reduce = {"max": (blocks.max_pool, np.max), "average": (blocks.average_pool, np.mean)}[pool]
    found = function(jnp.asarray(x), 3, stride, padding)
    starts = []
    for size in x.shape[1:3]:
        low, high = blocks.pads(size, 3, stride, padding)
        starts.append(range(-low, size + high - 2, stride))
    assert found.shape == (2, len(starts[0]), len(starts[1]), 3) == (2, -(-6 // stride), -(-7 // stride), 3)
    for i, row in enumerate(starts[0]):
        for j, column in enumerate(starts[1]):
            window = x[:, max(row, 0) : row + 3, max(column, 0) : column + 3]
            np.testing.assert_allclose(found[:, i, j], reduce(window, axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_pooling_keeps_the_dtype():
    x = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    assert {blocks.max_pool(x, 3, 2, "SAME").dtype, blocks.average_pool(x, 3, 2, "SAME").dtype} == {x.dtype}


def test_normalised_images():
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    found = blocks.normalised(jnp.asarray(images), (0.1, 0.2, 0.3), (0.5, 0.25, 2.0), "float32")
    expected = (images / 255 - np.asarray([0.1, 0.2, 0.3])) / np.asarray([0.5, 0.25, 2.0])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
