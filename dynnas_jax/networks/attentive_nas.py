"""The supernet space of AttentiveNAS (Wang et al. 2021, arXiv 2011.09011, appendix; after BigNAS, arXiv 2003.11142).

Source: facebookresearch/AttentiveNAS, configs/train_attentive_nas_models.yml and models/attentive_nas_dynamic_model.py. Beyond
the MobileNetV3 blocks of once-for-all, every block has a shortcut: over a stride the mean of 2x2 pixels, and a 1x1 convolution
without a norm where the channels change. Its MACs are in the published totals, as here.
"""

from __future__ import annotations

from collections.abc import Callable

from dynnas_jax.elastic import Supernet
from dynnas_jax.networks.mbconv import Arch, Net
from dynnas_jax.networks.template import Stage, Template, build

RESOLUTIONS = (192, 224, 256, 288)
STEM_WIDTHS, HEAD_WIDTHS = (16, 24), (1792, 1984)
# Channels, depths, expansions, stride, squeeze-excite of mb1 to mb7.
_STAGES = (
    ((16, 24), (1, 2), (1,), 1, False),
    ((24, 32), (3, 4, 5), (4, 5, 6), 2, False),
    ((32, 40), (3, 4, 5, 6), (4, 5, 6), 2, True),
    ((64, 72), (3, 4, 5, 6), (4, 5, 6), 2, False),
    ((112, 120, 128), (3, 4, 5, 6, 7, 8), (4, 5, 6), 1, True),
    ((192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (6,), 2, True),
    ((216, 224), (1, 2), (6,), 1, True),
)
_HEAD_EXPAND = 6  # the head's convolution has six times the last stage's channels


def attentive_nas(
    *, classes: int = 1000, resolutions: tuple[int, ...] = RESOLUTIONS, depthwise: str = "conv", **options
) -> Supernet:
    """AttentiveNAS's space: channels of stem, stages and head; per stage a depth, a kernel {3, 5} and an expansion.

    In an arch file `width` is nine numbers of channels: stem, seven stages, head. The blocks of a stage are alike.
    """
    base = Arch(
        resolutions[-1], STEM_WIDTHS[-1], "swish", (), _HEAD_EXPAND, "swish", classes, HEAD_WIDTHS[-1], **options
    )
    stages = tuple(
        Stage(1, stride, "swish", se, depths, widths, (3, 5), expands)
        for widths, depths, expands, stride, se in _STAGES
    )
    template = Template(
        base,
        stages,
        tuple(resolutions),
        (),
        (),
        (),
        elastic_head=True,
        stem_widths=STEM_WIDTHS,
        head_widths=HEAD_WIDTHS,
        alike=True,
        shortcuts=True,
    )
    return build(template, depthwise)


def net_from_arch_file(space: Callable[..., Supernet], content: dict) -> Net:
    """The net an arch file describes. Raises ValueError as `Decoder.from_file`."""
    supernet = space()
    return supernet.net(supernet.arch.from_file(content))
