"""Residual nets (He et al. 2016, arXiv 1512.03385) of any depth per stage: for 32 pixels, and of bottlenecks for 224.

For images of 32 pixels, three stages, and two 3x3 convolutions a block; where the channels grow, the shortcut is either every
other pixel with channels of zeros ("option A", no weights) or a 1x1 convolution and its norm. For 224 pixels, four stages of
bottlenecks, with the stride in the 3x3 convolution (as most implementations: 4.1 G MACs; the paper has it in the first 1x1).
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynnas_jax.elastic import Block
from dynnas_jax.networks.chains import ChainArch, ChainNet, Classifier, Stem, check_counts, conv_norm
from dynnas_jax.networks.mbconv import Numerics

SHORTCUTS = ("option_a", "projection")


@dataclass(frozen=True)
class BlockSpec:
    """One residual block."""

    inner: int  # channels of all its convolutions but the last
    out: int
    stride: int
    bottleneck: bool  # a 3x3 convolution between two of 1x1, or two of 3x3
    shortcut: str  # "identity", or one of `SHORTCUTS`


@dataclass(frozen=True, kw_only=True)
class Arch(ChainArch):
    """A whole residual net. The first block of every stage but the first has a stride of 2."""

    depths: tuple[int, ...]  # blocks of each stage
    widths: tuple[int, ...]  # channels each stage's blocks put out
    stem_out: int
    stem: str  # "3x3" with stride 1, or "7x7" with stride 2 and pooling
    shortcut: str  # where the channels change, of `SHORTCUTS`
    bottleneck: bool  # with a quarter of the channels inside

    def __post_init__(self):
        super().__post_init__()
        check_counts(depths=self.depths, widths=self.widths, stem_out=self.stem_out)
        if len(self.depths) != len(self.widths):
            raise ValueError(f"depths is {self.depths} but widths is {self.widths}: give one of each per stage")
        for name, known in (("shortcut", SHORTCUTS), ("stem", ("3x3", "7x7"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, choose from {list(known)}")
        if self.bottleneck and any(width % 4 for width in self.widths):
            raise ValueError(f"widths is {self.widths}, must be multiples of 4 for bottlenecks of a quarter")
        if self.shortcut == "option_a" and sorted((self.stem_out, *self.widths)) != [self.stem_out, *self.widths]:
            raise ValueError(f"channels {(self.stem_out, *self.widths)} shrink, which shortcuts without weights cannot")

    def named_blocks(self) -> tuple[tuple[str, BlockSpec], ...]:
        """The blocks between stem and head, with their names in the variables."""
        found, before = [], self.stem_out
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                shortcut = "identity" if (stride, width) == (1, before) else self.shortcut
                inner = width // 4 if self.bottleneck else width
                found.append((f"stage{stage}_block{i}", BlockSpec(inner, width, stride, self.bottleneck, shortcut)))
                before = width
        return tuple(found)

    def chain(self, numerics: Numerics) -> tuple[Block, ...]:
        """stem, stage1_block0, ..., head."""
        stem, block, head = (numerics.remade(module) for module in (Stem, Residual, Classifier))
        large = self.stem == "7x7"
        first = stem(self.stem_out, 7 if large else 3, 2 if large else 1, self, numerics, pool=large, name="stem")
        links = [Block(name, block(spec, numerics, name=name)) for name, spec in self.named_blocks()]
        return (Block("stem", first), *links, Block("head", head(self.classes, name="head")))


class Residual(nn.Module):
    """Convolutions, each with its norm, added to the shortcut; the last activation comes behind the sum."""

    spec: BlockSpec
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        spec, y = self.spec, x
        if spec.bottleneck:
            convolutions = ((spec.inner, 1, 1), (spec.inner, 3, spec.stride), (spec.out, 1, 1))
        else:
            convolutions = ((spec.inner, 3, spec.stride), (spec.out, 3, 1))
        for i, (features, kernel, stride) in enumerate(convolutions):
            y = nn.relu(y) if i else y
            y = conv_norm(self.numerics, train, y, features, kernel, stride, f"conv{i}")
        return nn.relu(self._shortcut(x, train) + y)

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        spec = self.spec
        if spec.shortcut == "identity":
            return x
        if spec.shortcut == "projection":
            return conv_norm(self.numerics, train, x, spec.out, 1, spec.stride, "shortcut")
        missing = spec.out - x.shape[-1]
        x = x[:, :: spec.stride, :: spec.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


def cifar_resnet(
    *,
    depths: tuple[int, ...] = (3, 3, 3),
    widths: tuple[int, ...] = (16, 32, 64),
    shortcut: str = "option_a",
    classes: int = 10,
    resolution: int = 32,
    **options,
) -> ChainNet:
    """A residual net for images of 32 pixels, of `depths` blocks per stage; three each is ResNet-20, 40.6 M MACs.

    The stages' `widths` are channels, the first also the stem's. Raises ValueError as `Arch`.
    """
    return ChainNet(
        Arch(
            resolution=resolution,
            classes=classes,
            depths=tuple(depths),
            widths=tuple(widths),
            stem_out=widths[0] if widths else 0,
            stem="3x3",
            shortcut=shortcut,
            bottleneck=False,
            **options,
        )
    )


def bottleneck_resnet(
    *,
    depths: tuple[int, ...] = (3, 4, 6, 3),
    widths: tuple[int, ...] = (256, 512, 1024, 2048),
    stem: int = 64,
    classes: int = 1000,
    resolution: int = 224,
    **options,
) -> ChainNet:
    """A residual net of bottlenecks for images of 224 pixels; these depths are ResNet-50, (3, 4, 23, 3) ResNet-101.

    `widths` are the channels that the stages put out, `stem` those of the stem. Raises ValueError as `Arch`.
    """
    return ChainNet(
        Arch(
            resolution=resolution,
            classes=classes,
            depths=tuple(depths),
            widths=tuple(widths),
            stem_out=stem,
            stem="7x7",
            shortcut="projection",
            bottleneck=True,
            **options,
        )
    )
