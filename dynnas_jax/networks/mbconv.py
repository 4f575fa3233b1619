"""The MBConv net: one chain of inverted-residual blocks that covers MobileNetV2/V3, EfficientNet, ProxylessNAS and OFA.

An arch says everything: it is decoded from a genome by a space (`ofa.py`), or written by hand, as the named ones below.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynnas_jax.elastic import Block
from dynnas_jax.networks import blocks as layers
from dynnas_jax.search_space import make_divisible

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
    shortcut: bool = False


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
        # A mean of three channels would broadcast an image of one.
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"images of {self.channels} channels, but mean is {self.mean} and std is {self.std}")
        if self.padding not in layers.PADDINGS:
            raise ValueError(f"padding is {self.padding!r}, choose from {list(layers.PADDINGS)}")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon is {self.epsilon}, must be above 0")

    def named_blocks(self) -> Iterator[tuple[str, BlockSpec]]:
        """The blocks between stem and head, with their names in the variables."""
        for stage, specs in self.stages:
            yield from ((f"{stage}_block{i}", spec) for i, spec in enumerate(specs))


@dataclass(frozen=True)
class Numerics:
    """How an arch is computed, apart from what it computes."""

    depthwise: str = "conv"
    axis_name: str | None = None  # mesh axis over which batch statistics are taken
    momentum: float = 0.9  # of the running statistics
    epsilon: float = 1e-5
    padding: str = "SAME"
    dtype: str = "float32"  # the images are cast to it; every later layer follows its input and its params

    def norm(self, train: bool, name: str) -> nn.BatchNorm:
        return layers.norm(train, epsilon=self.epsilon, momentum=self.momentum, axis_name=self.axis_name, name=name)


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
        dtype = self.numerics.dtype
        scale = jnp.asarray([1 / (255 * s) for s in self.std], dtype).reshape(1, 1, 1, -1)
        shift = jnp.asarray([-m / s for m, s in zip(self.mean, self.std, strict=True)], dtype)
        x = images.astype(dtype) * scale + shift.reshape(1, 1, 1, -1)
        x = layers.conv(self.out, 3, self.stride, padding=self.numerics.padding, name="conv")(x)
        return layers.ACTIVATIONS[self.act](self.numerics.norm(train, "norm")(x))


class MBConv(nn.Module):
    """Expand, depthwise, squeeze-excite, project, and the shortcut the spec asks for (Sandler et al. 2018)."""

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
            y = act(numerics.norm(train, "expand_norm")(pointwise(spec.hidden, name="expand_conv")(y)))
        depthwise = layers.Depthwise(
            spec.kernel, spec.stride, numerics.depthwise, numerics.padding, name="depthwise_conv"
        )
        y = act(numerics.norm(train, "depthwise_norm")(depthwise(y)))
        if spec.se:
            y = layers.SqueezeExcite(spec.se, self.se_act, self.se_gate, numerics.depthwise, name="se")(y)
        y = numerics.norm(train, "project_norm")(pointwise(spec.out, name="project_conv")(y))
        return x + y if spec.shortcut else y


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
        act = layers.ACTIVATIONS[self.act]
        form = self.numerics.depthwise
        y = act(self.numerics.norm(train, "norm")(layers.Pointwise(self.conv, form, name="conv")(x)))
        y = layers.global_average(y)
        if self.features:
            y = act(layers.Pointwise(self.features, form, self.features_bias, name="features_conv")(y))
        # Flat before the classifier: converters lose the bias of a fully connected layer with a rank-4 input.
        y = y.reshape(y.shape[0], -1)
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), name="classifier")(y)


def chain(arch: Arch, numerics: Numerics) -> tuple[Block, ...]:
    """The net's blocks in order: stem, stage1_block0, ..., head."""
    links = [
        Block("stem", Stem(arch.stem_out, arch.stem_stride, arch.stem_act, arch.mean, arch.std, numerics, name="stem"))
    ]
    for name, spec in arch.named_blocks():
        links.append(Block(name, MBConv(spec, arch.se_act, arch.se_gate, numerics, name=name)))
    head = Head(
        arch.head_conv,
        arch.head_features,
        arch.head_features_bias,
        arch.head_act,
        arch.classes,
        numerics,
        name="head",
    )
    return (*links, Block("head", head))


class Net(nn.Module):
    """An MBConv net: images uint8[b, h, w, c] -> (logits[b, classes], endpoints by block name)."""

    arch: Arch
    depthwise: str = "conv"  # or "shifts" (and pointwise ones as matrix products): equal, and faster on CPU
    axis_name: str | None = None
    momentum: float = 0.9
    dtype: str = "float32"

    @property
    def numerics(self) -> Numerics:
        """How this net computes its chain."""
        arch = self.arch
        return Numerics(self.depthwise, self.axis_name, self.momentum, arch.epsilon, arch.padding, self.dtype)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        endpoints, carry = {}, images
        for block in chain(self.arch, self.numerics):
            carry = endpoints[block.name] = block.module(carry, train)
        return carry, endpoints


def counting_blocks(arch: Arch) -> tuple[Block, ...]:
    """The chain in the form that tracing, counting and export use."""
    return chain(arch, Numerics(epsilon=arch.epsilon, padding=arch.padding))


# Named archs.


@dataclass(frozen=True)
class _Rows:
    """Rows of a published table: (kernel, hidden, out, squeeze-excite hidden, act, stride)."""

    rows: tuple[tuple[int, int, int, int, str, int], ...]
    stem: int
    specs: tuple[BlockSpec, ...] = field(init=False)

    def __post_init__(self):
        specs, width = [], self.stem
        for kernel, hidden, out, se, act, stride in self.rows:
            shortcut = stride == 1 and out == width
            specs.append(BlockSpec(kernel, hidden, out, stride, act, se, hidden != width, shortcut))
            width = out
        object.__setattr__(self, "specs", tuple(specs))


def _stages(rows: _Rows) -> tuple[tuple[str, tuple[BlockSpec, ...]], ...]:
    """Consecutive blocks grouped by resolution: a new stage at each stride 2, and behind the first block."""
    groups: list[list[BlockSpec]] = []
    for spec in rows.specs:
        if spec.stride == 2 or not groups:
            groups.append([])
        groups[-1].append(spec)
    return tuple((f"stage{i}", tuple(group)) for i, group in enumerate(groups, 1))


def mobilenet_v2(*, classes: int = 1000, resolution: int = 224, width: float = 1.0, **options) -> Net:
    """MobileNetV2 (arXiv 1801.04381, table 2): 300.8 M MACs at 224 pixels."""
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    stem = make_divisible(32 * width)
    rows, before = [], stem
    for expand, out, repeats, stride in table:
        for i in range(repeats):
            after = make_divisible(out * width)
            rows.append((3, before * expand, after, 0, "relu6", stride if i == 0 else 1))
            before = after
    head = make_divisible(1280 * max(1.0, width))
    arch = Arch(resolution, stem, "relu6", _stages(_Rows(tuple(rows), stem)), head, "relu6", classes, **options)
    return Net(arch)


_V3_LARGE = (
    (3, 16, 16, 0, "relu", 1),
    (3, 64, 24, 0, "relu", 2),
    (3, 72, 24, 0, "relu", 1),
    (5, 72, 40, 1, "relu", 2),
    (5, 120, 40, 1, "relu", 1),
    (5, 120, 40, 1, "relu", 1),
    (3, 240, 80, 0, "hswish", 2),
    (3, 200, 80, 0, "hswish", 1),
    (3, 184, 80, 0, "hswish", 1),
    (3, 184, 80, 0, "hswish", 1),
    (3, 480, 112, 1, "hswish", 1),
    (3, 672, 112, 1, "hswish", 1),
    (5, 672, 160, 1, "hswish", 2),
    (5, 960, 160, 1, "hswish", 1),
    (5, 960, 160, 1, "hswish", 1),
)
_V3_SMALL = (
    (3, 16, 16, 1, "relu", 2),
    (3, 72, 24, 0, "relu", 2),
    (3, 88, 24, 0, "relu", 1),
    (5, 96, 40, 1, "hswish", 2),
    (5, 240, 40, 1, "hswish", 1),
    (5, 240, 40, 1, "hswish", 1),
    (5, 120, 48, 1, "hswish", 1),
    (5, 144, 48, 1, "hswish", 1),
    (5, 288, 96, 1, "hswish", 2),
    (5, 576, 96, 1, "hswish", 1),
    (5, 576, 96, 1, "hswish", 1),
)


def _mobilenet_v3(table: tuple, conv: int, features: int, classes: int, resolution: int, options: dict) -> Net:
    """Squeeze-excite reduces to make_divisible(hidden // 4)."""
    rows = _Rows(tuple((k, h, o, make_divisible(h // 4) * se, act, s) for k, h, o, se, act, s in table), 16)
    options = {"epsilon": 1e-3, "head_features": features, "head_features_bias": True, **options}
    return Net(Arch(resolution, 16, "hswish", _stages(rows), conv, "hswish", classes, **options))


def mobilenet_v3_large(*, classes: int = 1000, resolution: int = 224, **options) -> Net:
    """MobileNetV3-Large (arXiv 1905.02244, table 1): 216.6 M MACs, 5.48 M params."""
    return _mobilenet_v3(_V3_LARGE, 960, 1280, classes, resolution, options)


def mobilenet_v3_small(*, classes: int = 1000, resolution: int = 224, **options) -> Net:
    """MobileNetV3-Small (arXiv 1905.02244, table 2): 56.5 M MACs, 2.54 M params."""
    return _mobilenet_v3(_V3_SMALL, 576, 1024, classes, resolution, options)


def efficientnet_b0(*, classes: int = 1000, resolution: int = 224, **options) -> Net:
    """EfficientNet-B0 (arXiv 1905.11946, table 1): 385.8 M MACs, 5.29 M params; SE squeezes to a quarter of the block's input."""
    table = (
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 5, 40, 2, 2),
        (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    )
    rows, before = [], 32
    for expand, kernel, out, repeats, stride in table:
        for i in range(repeats):
            rows.append((kernel, before * expand, out, max(1, before // 4), "swish", stride if i == 0 else 1))
            before = out
    options = {"epsilon": 1e-3, "se_act": "swish", "se_gate": "sigmoid", **options}
    return Net(Arch(resolution, 32, "swish", _stages(_Rows(tuple(rows), 32)), 1280, "swish", classes, **options))
