"""The blocks of dynamic slimmable networks: residual bottlenecks, separable convolutions, inverted residuals, each with a gate.

A gate stands at the start of the residual blocks, and behind the depthwise convolution of the others. Where its slimming head
decides, the block is two links of the chain, so that a gate always reads what the link in front of it leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynnas_jax.elastic import Block
from dynnas_jax.networks import blocks as layers
from dynnas_jax.networks.chains import ChainArch, Classifier, check_counts
from dynnas_jax.networks.gate import NAME, Gate, GateSpec
from dynnas_jax.networks.mbconv import Numerics

KINDS = ("bottleneck", "basic", "separable", "inverted")
PARTS = ("whole", "front", "back")  # of a block that a gate divides


@dataclass(frozen=True)
class BlockSpec:
    """One link between stem and head, at the width of one path."""

    kind: str
    inner: int  # channels between its convolutions; of a separable block those it is given
    out: int
    stride: int
    kernel: int = 3
    gate: GateSpec | None = None
    shortcut: str = "none"  # or "identity", "projection"
    inner_group: int = 0  # channels that one group of a group norm has; 0: batch norm
    out_group: int = 0
    part: str = PARTS[0]
    expand: bool = True  # of an inverted residual


@dataclass(frozen=True, kw_only=True)
class Arch(ChainArch):
    """One path of a slimmable network: a whole net of fixed widths."""

    stem_out: int
    stem_kernel: int
    stem_stride: int
    stem_pool: bool
    stem_group: int  # channels of a group of its norm; 0: batch norm
    blocks: tuple[tuple[str, BlockSpec], ...]
    act: str
    head_conv: int = 0  # channels of a 1x1 convolution before pooling, 0 for none

    def __post_init__(self):
        super().__post_init__()
        if self.act not in layers.ACTIVATIONS:
            raise ValueError(f"act is {self.act!r}, choose from {list(layers.ACTIVATIONS)}")
        sizes = tuple(n for _, spec in self.blocks for n in (spec.inner, spec.out, spec.stride, spec.kernel))
        check_counts(stem_out=self.stem_out, stem_stride=self.stem_stride, blocks=(1, *sizes))

    def chain(self, numerics: Numerics) -> tuple[Block, ...]:
        """stem, the named blocks, head."""
        stem, block, head, plain = (numerics.remade(m) for m in (Stem, SlimmableBlock, ConvHead, Classifier))
        links = [Block("stem", stem(self, numerics, name="stem"))]
        links += [Block(name, block(spec, self.act, numerics, name=name)) for name, spec in self.blocks]
        last = head(self, numerics, name="head") if self.head_conv else plain(self.classes, name="head")
        return (*links, Block("head", last))


def normed(numerics: Numerics, train: bool, name: str, group: int, *, zero: bool = False) -> Callable:
    """The norm `name` of the compact module this is called in: over groups of so many channels, or over the batch for 0."""
    initial = nn.initializers.zeros if zero else nn.initializers.ones
    if group:
        inner = nn.GroupNorm(
            num_groups=None,
            group_size=group,
            epsilon=numerics.epsilon,
            use_fast_variance=False,
            scale_init=initial,
            name=name,
        )
    else:
        inner = nn.BatchNorm(
            use_running_average=not train,
            momentum=numerics.momentum,
            epsilon=numerics.epsilon,
            axis_name=numerics.axis_name,
            use_fast_variance=False,
            scale_init=initial,
            name=name,
        )
    return lambda x: inner(x.astype(layers.wide(x.dtype))).astype(x.dtype)


def _conv(numerics: Numerics, features: int, kernel: int, stride: int, name: str) -> Callable:
    if kernel == stride == 1:
        return layers.Pointwise(features, numerics.depthwise, name=name)
    return layers.conv(features, kernel, stride, padding=numerics.padding, dtype=numerics.dtype, name=name)


class Stem(nn.Module):
    """Normalised images through one convolution, its norm and the activation, and a 3x3 maximum over stride 2 if asked for."""

    arch: Any
    numerics: Numerics

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        arch, numerics = self.arch, self.numerics
        x = layers.normalised(images, arch.mean, arch.std, numerics.dtype)
        x = _conv(numerics, arch.stem_out, arch.stem_kernel, arch.stem_stride, "conv")(x)
        x = layers.ACTIVATIONS[arch.act](normed(numerics, train, "norm", arch.stem_group)(numerics.kept(x)))
        return layers.max_pool(x, 3, 2, numerics.padding) if arch.stem_pool else x


class ConvHead(nn.Module):
    """A 1x1 convolution with norm and activation, the mean over the pixels, and a dense layer."""

    arch: Any
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        arch, numerics = self.arch, self.numerics
        x = numerics.kept(_conv(numerics, arch.head_conv, 1, 1, "conv")(x))
        x = layers.global_average(layers.ACTIVATIONS[arch.act](normed(numerics, train, "norm", 0)(x)))
        x = x.reshape(x.shape[0], -1).astype(layers.wide(x.dtype))
        return nn.Dense(arch.classes, kernel_init=nn.initializers.normal(0.01), name="classifier")(x)


class SlimmableBlock(nn.Module):
    """A link of any kind, as its spec says."""

    spec: BlockSpec
    act: str
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        residual = self.spec.kind in ("bottleneck", "basic")
        return self._residual(x, train) if residual else self._depthwise(x, train)

    def _gated(self, x: jax.Array) -> jax.Array:
        return Gate(self.spec.gate, name=NAME)(x) if self.spec.gate else x

    def _residual(self, x: jax.Array, train: bool) -> jax.Array:
        """Convolutions, each with its norm, added to the shortcut, which passes the gate too; the last norm starts at zero."""
        spec, numerics, act = self.spec, self.numerics, layers.ACTIVATIONS[self.act]
        x = y = self._gated(x)
        if spec.kind == "bottleneck":
            convolutions = ((spec.inner, 1, 1), (spec.inner, spec.kernel, spec.stride), (spec.out, 1, 1))
        else:
            convolutions = ((spec.inner, spec.kernel, spec.stride), (spec.out, spec.kernel, 1))
        for i, (features, kernel, stride) in enumerate(convolutions):
            last = i == len(convolutions) - 1
            y = act(y) if i else y
            group = spec.out_group if last else spec.inner_group
            y = numerics.kept(_conv(numerics, features, kernel, stride, f"conv{i}_conv")(y))
            y = normed(numerics, train, f"conv{i}_norm", group, zero=last)(y)
        if spec.shortcut == "projection":
            x = numerics.kept(_conv(numerics, spec.out, 1, spec.stride, "shortcut_conv")(x))
            x = normed(numerics, train, "shortcut_norm", spec.out_group)(x)
        return act(x + y)

    def _depthwise(self, x: jax.Array, train: bool) -> jax.Array:
        """Depthwise, gate, pointwise; an inverted residual expands in front, and has no activation behind."""
        spec, numerics, act = self.spec, self.numerics, layers.ACTIVATIONS[self.act]
        inverted, y = spec.kind == "inverted", x
        if spec.part != "back":
            if inverted and spec.expand:
                y = numerics.kept(_conv(numerics, spec.inner, 1, 1, "expand_conv")(y))
                y = act(normed(numerics, train, "expand_norm", spec.inner_group)(y))
            depthwise = layers.Depthwise(
                spec.kernel, spec.stride, numerics.depthwise, numerics.padding, name="depthwise_conv"
            )
            y = act(normed(numerics, train, "depthwise_norm", spec.inner_group)(numerics.kept(depthwise(y))))
        if spec.part == "front":
            return y
        y = numerics.kept(_conv(numerics, spec.out, 1, 1, "pointwise_conv")(self._gated(y)))
        identity = spec.shortcut == "identity"
        y = normed(numerics, train, "pointwise_norm", spec.out_group, zero=identity)(y)
        y = y if inverted else act(y)
        return x + y if identity else y


def zeros_behind(x: jax.Array, channels: int) -> jax.Array:
    """[..., c] with zeros behind, up to so many channels."""
    missing = channels - x.shape[-1]
    return jnp.pad(x, (*((0, 0),) * (x.ndim - 1), (0, missing))) if missing else x
