"""Networks that come in any width: MobileNetV1 and ResNet-50 at the widths of slimmable networks.

Sources: Yu et al. 2019 (arXiv 1812.08928) and Yu and Huang 2019 (arXiv 1903.05134). Each width is a fixed network, trained by
itself: no weights are shared between widths.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax

from dynnas_jax.elastic import Block
from dynnas_jax.networks import blocks as layers
from dynnas_jax.networks.chains import ChainArch, ChainNet, Classifier, Stem, check_counts, conv_norm
from dynnas_jax.networks.cifar_resnet import bottleneck_resnet
from dynnas_jax.networks.mbconv import Numerics
from dynnas_jax.search_space import make_divisible

_STEM = 32
_BLOCKS = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))  # channels, blocks, stride of the first


@dataclass(frozen=True, kw_only=True)
class Arch(ChainArch):
    """A chain of depthwise separable convolutions, MobileNetV1."""

    stem_out: int
    stages: tuple[tuple[tuple[int, int], ...], ...]  # per stage (channels, stride) of each block

    def __post_init__(self):
        super().__post_init__()
        if not self.stages or not all(self.stages):
            raise ValueError(f"stages is {self.stages}, must be at least one of at least one block")
        check_counts(stem_out=self.stem_out, stages=tuple(n for stage in self.stages for block in stage for n in block))

    def chain(self, numerics: Numerics) -> tuple[Block, ...]:
        """stem, stage1_block0, ..., head."""
        stem, block, head = (numerics.remade(module) for module in (Stem, Separable, Classifier))
        links = [Block("stem", stem(self.stem_out, 3, 2, self, numerics, act=nn.relu6, name="stem"))]
        for number, stage in enumerate(self.stages, 1):
            for i, (out, stride) in enumerate(stage):
                name = f"stage{number}_block{i}"
                links.append(Block(name, block(out, stride, numerics, name=name)))
        return (*links, Block("head", head(self.classes, name="head")))


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with a norm and an activation (Howard et al. 2017)."""

    out: int
    stride: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        numerics = self.numerics
        depthwise = layers.Depthwise(3, self.stride, numerics.depthwise, numerics.padding, name="depthwise_conv")
        x = nn.relu6(numerics.norm(train, "depthwise_norm")(numerics.kept(depthwise(x))))
        return nn.relu6(conv_norm(numerics, train, x, self.out, 1, 1, "pointwise"))


def us_mobilenet_v1(*, width: float = 1.0, classes: int = 1000, resolution: int = 224, **options) -> ChainNet:
    """MobileNetV1 at any width, its channels rounded by `make_divisible`: 568 M MACs at 1, 249 M at 0.65, 41 M at 0.25.

    Raises:
      ValueError: for a width that is not above 0.
    """
    _check(width)
    stages = tuple(
        tuple((make_divisible(out * width), 1 if i else stride) for i in range(count)) for out, count, stride in _BLOCKS
    )
    stem = make_divisible(_STEM * width)
    return ChainNet(Arch(resolution=resolution, classes=classes, stem_out=stem, stages=stages, **options))


def slimmable_resnet50(
    *, width: float = 1.0, classes: int = 1000, resolution: int = 224, depths: tuple[int, ...] = (3, 4, 6, 3), **options
) -> ChainNet:
    """ResNet-50 at any width: 4.1 G MACs at 1, 2.3 G at 0.75, 1.1 G at 0.5, 278 M at 0.25.

    Channels are cut to multiples of 4, whose quarter a block has inside; at multiples of 1/64 nothing is cut.

    Raises:
      ValueError: for a width that is not above 0, or so small that no channels are left.
    """
    _check(width)
    inner = tuple(int(64 * 2**stage * width) for stage in range(len(depths)))
    return bottleneck_resnet(
        depths=depths,
        widths=tuple(4 * channels for channels in inner),
        stem=inner[0] if inner else 0,
        classes=classes,
        resolution=resolution,
        **options,
    )


def _check(width: float) -> None:
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < float("inf"):
        raise ValueError(f"width is {width!r}, must be a number above 0")
