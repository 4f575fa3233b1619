"""The layers networks are made of: activations, convolutions, both forms of the depthwise one, norm, squeeze-excite.

Each computes in the dtype of its input: kernels and biases are cast to it. What sums over many pixels, norms and pooling, does
so in at least float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.networks.depthwise import depthwise_bands, depthwise_shifts

ACTIVATIONS = {"relu": nn.relu, "relu6": nn.relu6, "hswish": nn.hard_swish, "swish": nn.swish}
GATES = {"hard_sigmoid": nn.hard_sigmoid, "sigmoid": nn.sigmoid}
DEPTHWISE_FORMS = ("conv", "shifts", "bands")
PADDINGS = ("SAME", "symmetric")
AxisName = str | tuple[str, ...] | None  # mesh axes over which batch statistics are taken
kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def check_conventions(arch: Any) -> None:
    """Raises ValueError where an arch's `mean`, `std`, `channels`, `padding` or `epsilon` are those of no net."""
    # A mean of three channels would broadcast an image of one.
    if not len(arch.mean) == len(arch.std) == arch.channels:
        raise ValueError(f"images of {arch.channels} channels, but mean is {arch.mean} and std is {arch.std}")
    if arch.padding not in PADDINGS:
        raise ValueError(f"padding is {arch.padding!r}, choose from {list(PADDINGS)}")
    if not arch.epsilon > 0:
        raise ValueError(f"epsilon is {arch.epsilon}, must be above 0")


def normalised(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], dtype: str) -> jax.Array:
    """Images [b, h, w, c] in [0, 255], less the mean and over the deviation of each channel in [0, 1], as `dtype`."""
    inside, width = wide(dtype), images.shape[-2]

    def row(values: list[float]) -> jax.Array:
        # One value for each column too: LiteRT's loops over three channels alone take several times as long as the convolution.
        return jnp.asarray(np.tile(values, (1, 1, width, 1)), inside)

    scale = row([1 / (255 * s) for s in std])
    shift = row([-m / s for m, s in zip(mean, std, strict=True)])
    return (images.astype(inside) * scale + shift).astype(dtype)


def pads(size: int, kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """(low, high) padding of one axis: "SAME" as TensorFlow, "symmetric" as PyTorch's kernel // 2."""
    if padding == "symmetric":
        return kernel // 2, kernel // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that sums are taken in: float32, or the dtype itself where it is finer."""
    return jnp.dtype(dtype) if jnp.dtype(dtype).itemsize > 4 else jnp.dtype("float32")


def conv(features: int, kernel: int, stride: int, *, padding: str, dtype: str, name: str) -> nn.Conv:
    """A square convolution without bias, He initialisation (fan out)."""
    explicit = padding if padding == "SAME" else [(kernel // 2, kernel // 2)] * 2
    options = {"use_bias": False, "kernel_init": kernel_init, "dtype": dtype, "name": name}
    return nn.Conv(features, (kernel, kernel), stride, explicit, **options)


def norm(train: bool, *, epsilon: float, momentum: float, axis_name: AxisName, name: str) -> Callable:
    """Batch norm over the global batch, in at least float32; the two-pass variance, since the fast one cancels in float32."""
    inner = nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        epsilon=epsilon,
        axis_name=axis_name,
        use_fast_variance=False,
        name=name,
    )
    return lambda x: inner(x.astype(wide(x.dtype))).astype(x.dtype)


def global_average(x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, 1, 1, c], as one window: a mean over the axes would export as SUM and MUL."""
    window = x.shape[1:3]
    total = nn.pooling.pool(x.astype(wide(x.dtype)), 0.0, jax.lax.add, window, window, "VALID")
    return (total / jnp.asarray(window[0] * window[1], total.dtype)).astype(x.dtype)


def local_average(x: jax.Array, stride: int, padding: str) -> jax.Array:
    """[b, h, w, c] -> [b, ceil(h / s), ceil(w / s), c]: means of s x s pixels; where an axis does not divide, zeros count too."""
    missing = [-size % stride for size in x.shape[1:3]]
    edges = [((n + 1) // 2, n // 2) if padding == "symmetric" else (n // 2, (n + 1) // 2) for n in missing]
    total = nn.pooling.pool(x.astype(wide(x.dtype)), 0.0, jax.lax.add, (stride, stride), (stride, stride), edges)
    return (total / jnp.asarray(stride**2, total.dtype)).astype(x.dtype)


def max_pool(x: jax.Array, window: int, stride: int, padding: str) -> jax.Array:
    """[b, h, w, c] -> [b, ceil(h / s), ceil(w / s), c]: the largest of each odd window."""
    edges = [pads(size, window, stride, padding) for size in x.shape[1:3]]
    return nn.max_pool(x, (window, window), (stride, stride), edges)


def average_pool(x: jax.Array, window: int, stride: int, padding: str) -> jax.Array:
    """[b, h, w, c] -> [b, ceil(h / s), ceil(w / s), c]: the mean of those pixels of each odd window that are there.

    TFLite has such means for the edges of "SAME" alone; others are of zeros too, and put right by their share of pixels.
    """
    edges = [pads(size, window, stride, padding) for size in x.shape[1:3]]
    total = functools.partial(
        nn.pooling.pool, init=0.0, reduce_fn=jax.lax.add, window_shape=(window, window), strides=(stride, stride)
    )
    dtype, x = x.dtype, x.astype(wide(x.dtype))
    if edges == [pads(size, window, stride, "SAME") for size in x.shape[1:3]]:
        return (total(x, padding=edges) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype), padding=edges)).astype(dtype)
    counts = [_pixels(size, window, stride, *edge) for size, edge in zip(x.shape[1:3], edges, strict=True)]
    share = window**2 / np.multiply.outer(*counts)[None, :, :, None]
    mean = total(jnp.pad(x, ((0, 0), *edges, (0, 0))), padding="VALID") / jnp.asarray(window**2, x.dtype)
    return (mean * jnp.asarray(share, x.dtype)).astype(dtype)


def _pixels(size: int, window: int, stride: int, low: int, high: int) -> np.ndarray:
    """int[windows]: how many pixels of one axis each window holds."""
    starts = np.arange(0, size + low + high - window + 1, stride) - low
    return np.minimum(starts + window, size) - np.maximum(starts, 0)


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """[b, h, w, c] with the channels of the groups interleaved (ShuffleNet, Zhang et al. 2018, section 3.1)."""
    if groups == 1:
        return x
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


class Depthwise(nn.Module):
    """A depthwise convolution.

    `form` "conv" is one grouped convolution, "shifts" a sum of shifted products (for XLA on CPU), "bands" a sum of narrow ones
    (for LiteRT).
    """

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
        if self.form == "bands":
            return depthwise_bands(x, kernel, self.stride, padding)
        return jax.lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (self.stride, self.stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
        )


class Pointwise(nn.Module):
    """A 1x1 convolution, over all channels or in groups.

    With `form` "shifts" it is computed as a matrix product, whose gradients are several times faster on CPU.
    """

    features: int
    form: str
    bias: bool = False
    groups: int = 1
    begins: Callable = kernel_init  # with these weights

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1] // self.groups
        kernel = self.param("kernel", self.begins, (1, 1, inputs, self.features), jnp.float32).astype(x.dtype)
        if self.form == "shifts":
            y = self._product(x, kernel).reshape(*x.shape[:-1], self.features)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (1, 1),
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(y.dtype).reshape(1, 1, 1, -1)
        return y

    def _product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """x[b, h, w, inputs] -> [b * h * w, features]"""
        if self.groups == 1:
            return x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
        grouped = x.reshape(-1, self.groups, kernel.shape[2])
        product = jnp.einsum("ngi,igo->ngo", grouped, kernel.reshape(kernel.shape[2], self.groups, -1))
        return product.reshape(-1, self.features)


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
