"""The MBConv net: one chain of inverted-residual blocks for MobileNetV2/V3, EfficientNet, FBNet, ProxylessNAS, OFA, AttentiveNAS.

An arch says everything: it is decoded from a genome by a space (`ofa.py`, `attentive_nas.py`), or written by hand, as the
published ones in `mobilenets.py` and `fbnet.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from dynnas_jax.elastic import Block
from dynnas_jax.networks import blocks as layers

REMATS = ("none", "norms", "blocks")
_KEPT = "convolution"  # name of what the gradient keeps with remat "norms"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BlockSpec:
    """One inverted-residual block."""

    kernel: int
    hidden: int  # channels of the depthwise convolution
    out: int
    stride: int
    act: str
    se: int = 0  # hidden units of squeeze-excite, 0 for none
    expand: bool = True  # whether a pointwise convolution makes the hidden channels
    shortcut: bool = False  # with a stride the input is averaged over stride x stride pixels
    shortcut_conv: bool = False  # whether the shortcut goes through a 1x1 convolution
    groups: int = 1  # of both pointwise convolutions; above 1 the hidden channels are shuffled
    depthwise: int = 1  # depthwise convolutions in sequence, the first with the stride


@dataclass(frozen=True)
class Arch:
    """A whole MBConv net, hashable and static under jit."""

    resolution: int  # pixels, height = width
    stem_out: int
    stem_act: str
    stages: tuple[tuple[str, tuple[BlockSpec, ...]], ...]  # ("stage1", blocks), ...
    head_conv: int  # channels of the 1x1 convolution before pooling
    head_act: str
    classes: int
    head_features: int = 0  # units of the 1x1 layer behind pooling, 0 for none
    head_features_bias: bool = False
    stem_stride: int = 2
    channels: int = 3  # of the images
    se_act: str = "relu"
    se_gate: str = "hard_sigmoid"
    epsilon: float = 1e-5  # of the batch norms
    padding: str = "SAME"  # "symmetric" for weights that come from PyTorch
    mean: tuple[float, ...] = IMAGENET_MEAN  # of the images in [0, 1], per channel
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self):
        layers.check_conventions(self)

    def named_blocks(self) -> Iterator[tuple[str, BlockSpec]]:
        """The blocks between stem and head, with their names in the variables."""
        for stage, specs in self.stages:
            yield from ((f"{stage}_block{i}", spec) for i, spec in enumerate(specs))


@dataclass(frozen=True)
class Numerics:
    """How an arch is computed, apart from what it computes."""

    depthwise: str = "conv"
    axis_name: layers.AxisName = None
    momentum: float = 0.9  # of the running statistics
    epsilon: float = 1e-5
    padding: str = "SAME"
    dtype: str = "float32"  # of what flows between the layers, which follow their input; params have their own
    remat: str = "none"

    def norm(self, train: bool, name: str) -> Callable:
        return layers.norm(train, epsilon=self.epsilon, momentum=self.momentum, axis_name=self.axis_name, name=name)

    def kept(self, x: jax.Array) -> jax.Array:
        """A convolution's output, which the gradient keeps where norms and activations are computed again."""
        return checkpoint_name(x, _KEPT) if self.remat == "norms" else x

    def remade(self, module: type[nn.Module]) -> type[nn.Module]:
        """A block's class, with the gradient computing again what `remat` says."""
        if self.remat == "none":
            return module
        policy = jax.checkpoint_policies.save_only_these_names(_KEPT) if self.remat == "norms" else None
        return nn.remat(module, static_argnums=(2,), policy=policy)


class Stem(nn.Module):
    """uint8 (or float in [0, 255]) images, normalised, through a 3x3 convolution."""

    out: int
    stride: int
    act: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    numerics: Numerics

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        numerics = self.numerics
        x = layers.normalised(images, self.mean, self.std, numerics.dtype)
        convolution = layers.conv(self.out, 3, self.stride, padding=numerics.padding, dtype=numerics.dtype, name="conv")
        return layers.ACTIVATIONS[self.act](numerics.norm(train, "norm")(numerics.kept(convolution(x))))


class MBConv(nn.Module):
    """Expand, shuffle, depthwise, squeeze-excite, project, and the shortcut the spec asks for (Sandler et al. 2018)."""

    spec: BlockSpec
    se_act: str
    se_gate: str
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        spec, numerics = self.spec, self.numerics
        act = layers.ACTIVATIONS[spec.act]
        pointwise = functools.partial(layers.Pointwise, form=numerics.depthwise)
        y = x
        if spec.expand:
            y = pointwise(spec.hidden, groups=spec.groups, name="expand_conv")(y)
            y = act(numerics.norm(train, "expand_norm")(numerics.kept(y)))
        y = layers.channel_shuffle(y, spec.groups)
        for i, name in enumerate(("depthwise", *(f"depthwise{n}" for n in range(2, spec.depthwise + 1)))):
            stride = 1 if i else spec.stride
            depthwise = layers.Depthwise(spec.kernel, stride, numerics.depthwise, numerics.padding, name=f"{name}_conv")
            y = act(numerics.norm(train, f"{name}_norm")(numerics.kept(depthwise(y))))
        if spec.se:
            y = layers.SqueezeExcite(spec.se, self.se_act, self.se_gate, numerics.depthwise, name="se")(y)
        y = pointwise(spec.out, groups=spec.groups, name="project_conv")(y)
        y = numerics.norm(train, "project_norm")(numerics.kept(y))
        return self._shortcut(x) + y if spec.shortcut else y

    def _shortcut(self, x: jax.Array) -> jax.Array:
        """What is added to the block's output: the input, averaged where the block has a stride, and projected if asked for."""
        spec, numerics = self.spec, self.numerics
        if spec.stride > 1:
            x = layers.local_average(x, spec.stride, numerics.padding)
        if spec.shortcut_conv:
            x = layers.Pointwise(spec.out, numerics.depthwise, name="shortcut_conv")(x)
        return x


class Head(nn.Module):
    """1x1 convolution, pooling, an optional 1x1 layer behind it, and the classifier."""

    conv: int
    features: int
    features_bias: bool
    act: str
    classes: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        act, numerics = layers.ACTIVATIONS[self.act], self.numerics
        form = numerics.depthwise
        y = numerics.kept(layers.Pointwise(self.conv, form, name="conv")(x))
        y = act(numerics.norm(train, "norm")(y))
        y = layers.global_average(y)
        if self.features:
            y = act(layers.Pointwise(self.features, form, self.features_bias, name="features_conv")(y))
        # Flat before the classifier: converters lose the bias of a fully connected layer with a rank-4 input.
        y = y.reshape(y.shape[0], -1).astype(layers.wide(y.dtype))
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), name="classifier")(y)


def chain(arch: Arch, numerics: Numerics) -> tuple[Block, ...]:
    """The net's blocks in order: stem, stage1_block0, ..., head."""
    stem, block, head = (numerics.remade(module) for module in (Stem, MBConv, Head))
    first = stem(arch.stem_out, arch.stem_stride, arch.stem_act, arch.mean, arch.std, numerics, name="stem")
    links = [Block("stem", first)]
    for name, spec in arch.named_blocks():
        links.append(Block(name, block(spec, arch.se_act, arch.se_gate, numerics, name=name)))
    last = head(
        arch.head_conv,
        arch.head_features,
        arch.head_features_bias,
        arch.head_act,
        arch.classes,
        numerics,
        name="head",
    )
    return (*links, Block("head", last))


class Net(nn.Module):
    """An MBConv net: images uint8[b, h, w, c] -> (logits[b, classes], endpoints by block name)."""

    arch: Arch
    depthwise: str = "conv"  # or "shifts" (and pointwise ones as matrix products): equal, and faster on CPU
    axis_name: layers.AxisName = None
    momentum: float = 0.9
    dtype: str = "float32"  # of the activations; "bfloat16" leaves params, norms and logits float32
    remat: str = "none"  # what the gradient computes again: "norms" (and activations), or all of the "blocks"

    @property
    def numerics(self) -> Numerics:
        """How this net computes its chain."""
        arch = self.arch
        return Numerics(
            self.depthwise, self.axis_name, self.momentum, arch.epsilon, arch.padding, self.dtype, self.remat
        )

    @nn.nowrap
    def chain(self) -> tuple[Block, ...]:
        """The blocks as this net computes them."""
        return chain(self.arch, self.numerics)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        endpoints, carry = {}, images
        for block in self.chain():
            carry = endpoints[block.name] = block.module(carry, train)
        return carry, endpoints


def counting_blocks(arch: Arch) -> tuple[Block, ...]:
    """The chain in the form that tracing, counting and export use."""
    return chain(arch, Numerics(epsilon=arch.epsilon, padding=arch.padding))


def grouped_by_stride(specs: Iterable[BlockSpec]) -> tuple[tuple[str, tuple[BlockSpec, ...]], ...]:
    """Blocks as the stages of an arch: a new one at each stride above 1, and behind whatever came first."""
    groups: list[list[BlockSpec]] = []
    for spec in specs:
        if spec.stride > 1 or not groups:
            groups.append([])
        groups[-1].append(spec)
    return tuple((f"stage{i}", tuple(group)) for i, group in enumerate(groups, 1))


def with_total_stride(arch: Arch, total_stride: int) -> Arch:
    """A published arch for smaller images: strides become 1 from the stem on, until all together are `total_stride`.

    Blocks keep their names and widths, so weights still fit; one that loses its stride has a shortcut where its width stays.

    Raises:
      ValueError: for a total that leaving out the first strides does not give.
    """
    strides = [arch.stem_stride, *(spec.stride for _, spec in arch.named_blocks())]
    totals = [math.prod(strides[i:]) for i in range(len(strides) + 1)]
    if total_stride not in totals:
        raise ValueError(f"total_stride is {total_stride!r}, choose from {sorted(set(totals))}")
    left_out = totals.index(total_stride)
    kept = iter([1] * left_out + strides[left_out:])
    stem_stride, width, stages = next(kept), arch.stem_out, []
    for name, specs in arch.stages:
        made = []
        for spec in specs:
            if (stride := next(kept)) != spec.stride:
                spec = replace(spec, stride=stride, shortcut=spec.out == width)
            made.append(spec)
            width = spec.out
        stages.append((name, tuple(made)))
    return replace(arch, stem_stride=stem_stride, stages=tuple(stages))
