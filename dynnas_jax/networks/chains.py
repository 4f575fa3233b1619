"""What networks beside the MBConv net share: an arch that lists its own blocks, the net of it, stems and the classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from dynnas_jax.costs import macs
from dynnas_jax.elastic import Block, image_struct, trace
from dynnas_jax.networks import blocks as layers
from dynnas_jax.networks.mbconv import IMAGENET_MEAN, IMAGENET_STD, Net, Numerics


@dataclass(frozen=True, kw_only=True)
class ChainArch:
    """What every arch says of the images it reads, and the conventions of its layers; hashable, static under jit."""

    resolution: int  # pixels, height = width
    classes: int
    channels: int = 3  # of the images
    epsilon: float = 1e-5  # of the norms
    padding: str = "SAME"  # "symmetric" for weights that come from PyTorch
    mean: tuple[float, ...] = IMAGENET_MEAN  # of the images in [0, 1], per channel
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self):
        layers.check_conventions(self)
        check_counts(resolution=self.resolution, classes=self.classes)

    def chain(self, numerics: Numerics) -> tuple[Block, ...]:
        """The blocks from images to logits, in order."""
        raise NotImplementedError


def check_counts(**counts: int | tuple[int, ...]) -> None:
    """Raises ValueError for a number, or one in a tuple, that is no int of at least 1."""
    for name, value in counts.items():
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(type(count) is int and count >= 1 for count in values):
            raise ValueError(f"{name} is {value!r}, must be at least 1 and whole")


class Counted(NamedTuple):
    """What blocks of a chain cost, for one image."""

    macs: int
    params: int
    carry: Any  # shapes of what is behind them


def counted(blocks: tuple[Block, ...], carry: Any) -> Counted:
    """The cost of blocks that read a carry of these shapes, by abstract evaluation; equal ones are traced once."""
    spent = held = 0
    for block in blocks:
        traced = trace(block, carry)
        spent, held = spent + macs.jaxpr_macs(traced.jaxpr.jaxpr), held + macs.params(traced.variables)
        carry = block.behind(carry, traced.output)
    return Counted(spent, held, carry)


class ChainNet(Net):
    """The net of any arch that lists its own blocks: images uint8[b, h, w, c] -> (logits[b, classes], endpoints by name)."""

    arch: Any

    @nn.nowrap
    def chain(self) -> tuple[Block, ...]:
        """The blocks as this net computes them."""
        return self.arch.chain(self.numerics)


def cost(net: ChainNet) -> tuple[int, int]:
    """(MACs, params) of a net for one image; as `costs.macs.net_cost`, and sooner for a deep net of few kinds of blocks."""
    found = counted(net.clone(depthwise="conv").chain(), image_struct(net.arch))
    return found.macs, found.params


def conv_norm(numerics: Numerics, train: bool, x: jax.Array, features: int, kernel: int, stride: int, name: str):
    """A convolution and its norm, `name`_conv and `name`_norm of the compact module this is called in."""
    if kernel == stride == 1:
        convolution = layers.Pointwise(features, numerics.depthwise, name=f"{name}_conv")
    else:
        options = {"padding": numerics.padding, "dtype": numerics.dtype, "name": f"{name}_conv"}
        convolution = layers.conv(features, kernel, stride, **options)
    return numerics.norm(train, f"{name}_norm")(numerics.kept(convolution(x)))


class Stem(nn.Module):
    """Normalised images through one convolution, its norm, an activation if any, and a 3x3 maximum over stride 2 if asked for."""

    out: int
    kernel: int
    stride: int
    arch: ChainArch
    numerics: Numerics
    act: Callable | None = nn.relu
    pool: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        numerics, arch = self.numerics, self.arch
        x = layers.normalised(images, arch.mean, arch.std, numerics.dtype)
        options = {"padding": numerics.padding, "dtype": numerics.dtype, "name": "conv"}
        x = layers.conv(self.out, self.kernel, self.stride, **options)(x)
        x = numerics.norm(train, "norm")(numerics.kept(x))
        x = x if self.act is None else self.act(x)
        return layers.max_pool(x, 3, 2, numerics.padding) if self.pool else x


class Classifier(nn.Module):
    """The last block of most nets: mean over the pixels and a dense layer."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return classified(x, self.classes)


def classified(x: jax.Array, classes: int) -> jax.Array:
    """[b, h, w, c] -> logits[b, classes] in at least float32: mean, then `classifier` of the compact module this is called in."""
    x = layers.global_average(x)
    # Flat before the dense layer: converters lose the bias of a fully connected layer with a rank-4 input.
    x = x.reshape(x.shape[0], -1).astype(layers.wide(x.dtype))
    return nn.Dense(classes, kernel_init=nn.initializers.normal(0.01), name="classifier")(x)
