"""The layers networks are made of: activations, convolutions, both forms of the depthwise one, norm, squeeze-excite."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS = {"relu": nn.relu, "relu6": nn.relu6, "hswish": nn.hard_swish, "swish": nn.swish}
GATES = {"hard_sigmoid": nn.hard_sigmoid, "sigmoid": nn.sigmoid}
DEPTHWISE_FORMS = ("conv", "shifts")
kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def pads(size: int, kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """(low, high) padding of one axis: "SAME" as TensorFlow, "symmetric" as PyTorch's kernel // 2."""
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv(features: int, kernel: int, stride: int, *, padding: str, name: str) -> nn.Conv:
    """A square convolution without bias, He initialisation (fan out)."""
    explicit = padding if padding == "SAME" else [(kernel // 2, kernel // 2)] * 2
    return nn.Conv(features, (kernel, kernel), stride, explicit, use_bias=False, kernel_init=kernel_init, name=name)


def norm(train: bool, *, epsilon: float, momentum: float, axis_name: str | None, **options) -> nn.BatchNorm:
    """Batch norm over the global batch; the two-pass variance, since the fast one cancels in float32."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        epsilon=epsilon,
        axis_name=axis_name,
        use_fast_variance=False,
        **options,
    )


def global_average(x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, 1, 1, c], as one window: a mean over the axes would export as SUM and MUL."""
    window = x.shape[1:3]
    total = nn.pooling.pool(x, 0.0, jax.lax.add, window, window, "VALID")
    return total / jnp.asarray(window[0] * window[1], x.dtype)


class Depthwise(nn.Module):
    """A depthwise convolution; `form` "conv" is one grouped convolution, "shifts" a sum of shifted products (fast on CPU)."""

    kernel: int
    stride: int
    form: str
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        # The fan of a depthwise kernel is its window: variance_scaling would count the channels as fan out.
        initial = nn.initializers.normal((2.0 / self.kernel**2) ** 0.5)
        kernel = self.param("kernel", initial, (self.kernel, self.kernel, 1, channels), jnp.float32)
        padding = tuple(pads(size, self.kernel, self.stride, self.padding) for size in x.shape[1:3])
        if self.form == "shifts":
            return depthwise_shifts(x, kernel, self.stride, padding)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
        )


class Pointwise(nn.Module):
    """A 1x1 convolution; with `form` "shifts" computed as a matrix product, whose gradients are several times faster on CPU."""

    features: int
    form: str
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init, (1, 1, x.shape[-1], self.features), jnp.float32)
        if self.form == "shifts":
            y = (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], self.features)
        else:
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.reshape(1, 1, 1, -1)
        return y


class SqueezeExcite(nn.Module):
    """Channel attention: pool, reduce to `hidden`, expand, gate (Hu et al. 2018); 1x1 convolutions, as export wants them."""

    hidden: int
    act: str
    gate: str
    form: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = Pointwise(self.hidden, self.form, bias=True, name="reduce_conv")(global_average(x))
        hidden = ACTIVATIONS[self.act](hidden)
        return x * GATES[self.gate](Pointwise(x.shape[-1], self.form, bias=True, name="expand_conv")(hidden))


# The depthwise convolution as shifted products. With stride s the padded input is split into s x s phases, so that every
# shift reads a contiguous window: out[o] = sum over i of phase[i % s][o + i // s] * kernel[i], along both axes.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_shifts(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple) -> jax.Array:
    """x[b, h, w, c], kernel[k, k, 1, c], padding ((low, high), (low, high)) -> [b, h', w', c]; equals the grouped convolution."""
    return _forward(x, kernel, stride, padding)


def _output_size(size: int, pad: tuple[int, int], kernel: int, stride: int) -> int:
    return (size + sum(pad) - kernel) // stride + 1


def _phases(x: jax.Array, kernel: int, stride: int, padding: tuple) -> jax.Array:
    """[b, rows, s, columns, s, c] of the padded input; rows = h' + ceil(k / s) - 1."""
    b, h, w, c = x.shape
    reach = -(-kernel // stride) - 1
    rows, columns = (_output_size(size, pad, kernel, stride) + reach for size, pad in zip((h, w), padding, strict=True))
    config = [(0, 0, 0)]
    for size, pad, count in ((h, padding[0], rows), (w, padding[1], columns)):
        config.append((pad[0], count * stride - size - pad[0], 0))
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    return padded.reshape(b, rows, stride, columns, stride, c)


def _window(phases: jax.Array, i: int, j: int, stride: int, height: int, width: int) -> jax.Array:
    """The [b, height, width, c] of a phase that tap (i, j) multiplies."""
    top, left = i // stride, j // stride
    return phases[:, top : top + height, i % stride, left : left + width, j % stride]


def _taps(kernel: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(kernel) for j in range(kernel)]


def _forward(x, kernel, stride, padding):
    k = kernel.shape[0]
    height, width = (_output_size(n, pad, k, stride) for n, pad in zip(x.shape[1:3], padding, strict=True))
    phases = _phases(x, k, stride, padding)
    terms = (_window(phases, i, j, stride, height, width) * kernel[i, j, 0][None, None, None] for i, j in _taps(k))
    return functools.reduce(jnp.add, terms)


def _forward_rule(x, kernel, stride, padding):
    return _forward(x, kernel, stride, padding), (x, kernel)


def _input_gradient(x, kernel, gradient, stride, padding):
    """The same sum with the flipped kernel, phase by phase, then the phases interleaved and the padding cut off."""
    b, h, w, c = x.shape
    k = kernel.shape[0]
    reach = -(-k // stride) - 1
    rows, columns = gradient.shape[1] + reach, gradient.shape[2] + reach
    padded = jnp.pad(gradient, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    phases = {(p, q): jnp.zeros((b, rows, columns, c), x.dtype) for p, q in _taps(stride)}
    for i, j in _taps(k):
        top, left = reach - i // stride, reach - j // stride
        term = padded[:, top : top + rows, left : left + columns] * kernel[i, j, 0][None, None, None]
        phases[i % stride, j % stride] += term
    stacked = jnp.stack([jnp.stack([phases[p, q] for q in range(stride)], 3) for p in range(stride)], 2)
    full = stacked.reshape(b, rows * stride, columns * stride, c)
    config = [(0, 0, 0)]
    for size, pad, count in ((h, padding[0], rows), (w, padding[1], columns)):
        config.append((-pad[0], size + pad[0] - count * stride, 0))
    return jax.lax.pad(full, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])


def _kernel_gradient(x, kernel, gradient, stride, padding):
    """Reductions accumulated a few images at a time, so that the k * k products never stand in memory together.

    A product with ones sums each: it runs as a vectorised matrix product, which a reduction over strided axes does not.
    """
    k, (batch, height, width, channels) = kernel.shape[0], gradient.shape
    # Some 512 rows keep the products in cache and the number of iterations small.
    images = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(1, 512 // (height * width)))
    ones = jnp.ones((images * height * width,), x.dtype)

    def accumulate(total, pair):
        phases, out = pair
        terms = (_window(phases, i, j, stride, height, width) * out for i, j in _taps(k))
        sums = [ones @ term.reshape(-1, channels) for term in terms]
        return total + jnp.stack(sums).reshape(kernel.shape), None

    def grouped(array):
        return array.reshape(batch // images, images, *array.shape[1:])

    start = jnp.zeros(kernel.shape, kernel.dtype)
    return jax.lax.scan(accumulate, start, (grouped(_phases(x, k, stride, padding)), grouped(gradient)))[0]


def _backward_rule(stride, padding, residuals, gradient):
    x, kernel = residuals
    return (
        _input_gradient(x, kernel, gradient, stride, padding),
        _kernel_gradient(x, kernel, gradient, stride, padding),
    )


depthwise_shifts.defvjp(_forward_rule, _backward_rule)
