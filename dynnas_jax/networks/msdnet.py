"""MSDNet, a multi-scale dense net with an exit behind each of its blocks (Huang et al. 2018, arXiv 1703.09844).

Every layer holds feature maps at several scales, each half the pixels of the one before. A layer adds to the maps of each scale,
densely, what it makes of that scale and of the next finer one; classifiers read the coarsest scale, which is there from the
first layer on. On the way the finest scales are given up one by one, as no classifier needs them any more, and the channels of
the others reduced. The authors' first convolution has a bias, which the norm behind it takes away; here it has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynnas_jax.elastic import Block
from dynnas_jax.networks.chains import ChainArch, Stem, check_counts, classified, conv_norm
from dynnas_jax.networks.exits import ExitNet, Segment
from dynnas_jax.networks.mbconv import Numerics

STEP_MODES = ("even", "lin_grow")
PRUNINGS = ("max", "min")
STEMS = {"7x7": (7, 2, True), "3x3": (3, 1, False)}  # kernel, stride, whether a pooling of stride 2 follows

Maps = tuple[jax.Array, ...]  # feature maps [b, h, w, c], from fine to coarse


@dataclass(frozen=True)
class LayerSpec:
    """One layer: what it adds at each scale it leaves, from fine to coarse."""

    added: tuple[int, ...]  # channels
    inner: tuple[int, ...]  # at the scales read, what a bottleneck multiplies the channels added by; 0 for none
    drops: bool  # whether it reads one finer scale than it leaves
    reduced: tuple[int, ...] = ()  # channels the maps are reduced to behind it, none where they are not


@dataclass(frozen=True, kw_only=True)
class Arch(ChainArch):
    """A whole MSDNet."""

    exits: int
    base: int  # layers in front of the first exit
    step: int  # layers between exits
    step_mode: str  # "even", or "lin_grow": i * step + 1 layers in front of exit i (from 0)
    width: int  # channels the first layer reads at a scale of factor 1
    growth: int  # channels a layer adds there
    factors: tuple[int, ...]  # of each scale's channels, from fine to coarse
    bottlenecks: tuple[int, ...]  # of each scale, what a 1x1 convolution multiplies the channels added by; 0 for none
    pruning: str  # "max" gives up one scale behind each equal part of the layers, "min" what no exit could still read
    reduction: float  # of the channels behind a layer that gives up a scale ("min": behind each third), 0 for none
    stem: str = "7x7"  # with stride and pooling to a quarter of each side, or "3x3"
    head_width: int = 0  # channels of an exit's two convolutions, 0 for as many as it reads

    def __post_init__(self):
        super().__post_init__()
        check_counts(exits=self.exits, base=self.base, step=self.step, width=self.width, growth=self.growth)
        check_counts(factors=self.factors)
        for name, known in (("step_mode", STEP_MODES), ("pruning", PRUNINGS), ("stem", tuple(STEMS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, choose from {list(known)}")
        if len(self.bottlenecks) != len(self.factors) or min(self.bottlenecks) < 0:
            raise ValueError(f"bottlenecks is {self.bottlenecks}, must be one from 0 for each factor of {self.factors}")
        if type(self.head_width) is not int or self.head_width < 0:
            raise ValueError(f"head_width is {self.head_width!r}, must be channels, or 0 for as many as it reads")
        if not 0 <= self.reduction <= 1:
            raise ValueError(f"reduction is {self.reduction}, must be from 0 to 1")
        if any(self.growth * factor % 2 for factor in self.factors[1:]):
            raise ValueError(f"growth {self.growth} times factors {self.factors} must be even but at the finest scale")
        scales, total = len(self.factors), sum(self.depths)
        if total < scales - 1:
            raise ValueError(f"{total} layers, too few to give up {scales - 1} scales one by one")

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers in front of each exit, behind the exit before it."""
        grows = self.step_mode == "lin_grow"
        return (self.base, *(self.step * i + 1 if grows else self.step for i in range(1, self.exits)))

    def _scales_behind(self, layer: int) -> int:
        """Scales that layer `layer` (from 1; 0 is the stem) leaves."""
        scales, total = len(self.factors), sum(self.depths)
        if self.pruning == "min":
            return min(scales, total - layer + 1)
        return scales - max(layer - 1, 0) // -(-total // scales)

    def layers(self) -> tuple[LayerSpec, ...]:
        """Every layer, of all blocks."""
        total, width, found = sum(self.depths), self.width, []
        for layer in range(1, total + 1):
            before, behind = self._scales_behind(layer - 1), self._scales_behind(layer)
            factors, width = self.factors[-behind:], width + self.growth
            thirds = (total // 3, 2 * total // 3)
            reduces = layer in thirds if self.pruning == "min" else before > behind
            if reduces and self.reduction:
                width = int(self.reduction * width)
            reduced = tuple(width * factor for factor in factors) if reduces and self.reduction else ()
            added = tuple(self.growth * factor for factor in factors)
            found.append(LayerSpec(added, self.bottlenecks[-before:], before > behind, reduced))
        return tuple(found)

    def segments(self, numerics: Numerics) -> tuple[Segment, ...]:
        """Per exit its layers (in front of the first the stem too) and its classifier."""
        stem, layer, head = (numerics.remade(module) for module in (ScaleStem, Layer, ExitHead))
        widths, specs, found = tuple(self.width * factor for factor in self.factors), self.layers(), []
        blocks = [Block("stem", stem(widths, self, numerics, name="stem"))]
        for number, depth in enumerate(self.depths, 1):
            names = [f"block{number}_layer{i}" for i in range(depth)]
            own, specs = specs[:depth], specs[depth:]
            blocks += [Block(name, layer(spec, numerics, name=name)) for name, spec in zip(names, own, strict=True)]
            name = f"exit{number}"
            found.append(Segment(tuple(blocks), Block(name, head(self.head_width, self.classes, numerics, name=name))))
            blocks = []
        return tuple(found)

    def chain(self, numerics: Numerics) -> tuple[Block, ...]:
        """The blocks from images to the logits of the last exit, without the exits before it."""
        segments = self.segments(numerics)
        return (*(block for segment in segments for block in segment.blocks), segments[-1].exit)


class ScaleStem(nn.Module):
    """The first maps: one convolution of the images, then each scale a convolution with stride 2 of the one before."""

    widths: tuple[int, ...]
    arch: Arch
    numerics: Numerics

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Maps:
        kernel, stride, pool = STEMS[self.arch.stem]
        stem = Stem(self.widths[0], kernel, stride, self.arch, self.numerics, pool=pool, name="scale0")
        maps = [stem(images, train)]
        for scale, width in enumerate(self.widths[1:], 1):
            maps.append(nn.relu(conv_norm(self.numerics, train, maps[-1], width, 3, 2, f"scale{scale}")))
        return tuple(maps)


class Layer(nn.Module):
    """Adds channels to every scale: the finest from its own maps, each other one half from its own, half from finer ones."""

    spec: LayerSpec
    numerics: Numerics

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> Maps:
        spec, found = self.spec, []
        for place, added in enumerate(spec.added, int(spec.drops)):
            # Scales are counted from the coarsest, 0, so that their names do not change with those given up.
            own, name = maps[place], f"scale{len(maps) - 1 - place}"
            if place == 0:
                parts = [own, self._made(own, added, 1, spec.inner[0], f"{name}_own", train)]
            else:
                finer = self._made(maps[place - 1], added // 2, 2, spec.inner[place - 1], f"{name}_finer", train)
                parts = [own, finer, self._made(own, added // 2, 1, spec.inner[place], f"{name}_own", train)]
            x = jnp.concatenate(parts, -1)
            if spec.reduced:
                reduced = spec.reduced[place - int(spec.drops)]
                x = nn.relu(conv_norm(self.numerics, train, x, reduced, 1, 1, f"{name}_reduced"))
            found.append(x)
        return tuple(found)

    def _made(self, x: jax.Array, added: int, stride: int, inner: int, name: str, train: bool) -> jax.Array:
        """`added` channels by a 3x3 convolution, through a bottleneck where `inner` is not 0."""
        if inner:
            inside = min(x.shape[-1], inner * added)
            x = nn.relu(conv_norm(self.numerics, train, x, inside, 1, 1, f"{name}_bottleneck"))
        return nn.relu(conv_norm(self.numerics, train, x, added, 3, stride, name))


class ExitHead(nn.Module):
    """A classifier on the coarsest scale: two convolutions with stride 2, the mean, and a dense layer."""

    width: int
    classes: int
    numerics: Numerics

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> jax.Array:
        x = maps[-1]
        width = self.width or x.shape[-1]
        for name in ("first", "second"):
            x = nn.relu(conv_norm(self.numerics, train, x, width, 3, 2, name))
        return classified(x, self.classes)


def msdnet(
    *,
    resolution: int = 224,
    classes: int = 1000,
    blocks: int = 5,
    base: int = 7,
    step: int = 7,
    step_mode: str = "even",
    channels: int = 32,
    growth: int = 16,
    factors: tuple[int, ...] = (1, 2, 4, 4),
    bottlenecks: tuple[int, ...] = (),
    pruning: str = "max",
    reduction: float = 0.5,
    stem: str = "7x7",
    head_width: int = 0,
    image_channels: int = 3,
    **options,
) -> ExitNet:
    """MSDNet for ImageNet: four scales, `blocks` exits, of 612 to 3,246 M MACs; base and step 4 or 6 are published as well.

    `channels` is the `width` of `Arch`, where all the others are explained; `bottlenecks` are the factors where none are given.

    Raises:
      ValueError: for a number or a name that no MSDNet has.
    """
    layers = {"exits": blocks, "base": base, "step": step, "step_mode": step_mode, "pruning": pruning}
    widths = {"width": channels, "growth": growth, "factors": tuple(factors), "reduction": reduction}
    widths |= {"stem": stem, "head_width": head_width}
    images = {"resolution": resolution, "classes": classes, "channels": image_channels}
    return ExitNet(Arch(bottlenecks=tuple(bottlenecks or factors), **layers, **widths, **images, **options))


def msdnet_cifar(
    *,
    resolution: int = 32,
    classes: int = 10,
    blocks: int = 7,
    base: int = 4,
    step: int = 2,
    step_mode: str = "even",
    channels: int = 16,
    growth: int = 6,
    factors: tuple[int, ...] = (1, 2, 4),
    bottlenecks: tuple[int, ...] = (),
    pruning: str = "max",
    reduction: float = 0.5,
    stem: str = "3x3",
    head_width: int = 128,
    image_channels: int = 3,
    **options,
) -> ExitNet:
    """MSDNet for images of 32 pixels: three scales, exits of 128 channels; `lin_grow` from base and step 1 is published as well.

    Arguments as in `msdnet`.
    """
    layers = {"blocks": blocks, "base": base, "step": step, "step_mode": step_mode, "pruning": pruning}
    widths = {"channels": channels, "growth": growth, "factors": factors, "bottlenecks": bottlenecks}
    ends = {"reduction": reduction, "stem": stem, "head_width": head_width, "image_channels": image_channels}
    return msdnet(resolution=resolution, classes=classes, **layers, **widths, **ends, **options)
