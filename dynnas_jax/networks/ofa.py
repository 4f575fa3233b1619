"""Supernet spaces on the MBConv net: once-for-all's two, and one for small images. All three are templates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dynnas_jax.elastic import Supernet
from dynnas_jax.networks.blocks import ACTIVATIONS
from dynnas_jax.networks.mbconv import Arch, BlockSpec, Net
from dynnas_jax.networks.template import Stage, Template, build

OFA_RESOLUTIONS = tuple(range(128, 225, 4))

_V3_STAGES = ((2, "relu", False), (2, "relu", True), (2, "hswish", False), (1, "hswish", True), (2, "hswish", True))
_V3_WIDTHS = {
    1.0: (16, (16, 24, 40, 80, 112, 160), (960, 1280)),
    1.2: (24, (24, 32, 48, 96, 136, 192), (1152, 1536)),
}


def ofa_mobilenet_v3(
    *,
    width: float = 1.0,
    classes: int = 1000,
    resolutions: tuple[int, ...] = OFA_RESOLUTIONS,
    depthwise: str = "conv",
    kernel_transforms: bool = False,
    **options,
) -> Supernet:
    """Once-for-all's MobileNetV3 space (arXiv 1908.09791): kernel {3, 5, 7}, expansion {3, 4, 6}, depth {2, 3, 4}.

    Raises:
      ValueError: for a width other than 1.0 and 1.2.
    """
    if width not in _V3_WIDTHS:
        raise ValueError(f"ofa_mobilenet_v3: width is {width!r}, choose from {list(_V3_WIDTHS)}")
    stem, outs, (head_conv, features) = _V3_WIDTHS[width]
    first = BlockSpec(3, stem, outs[0], 1, "relu", expand=False, shortcut=True)
    base = Arch(
        resolutions[-1], stem, "hswish", (("stage0", (first,)),), head_conv, "hswish", classes, features, **options
    )
    stages = tuple(Stage(out, *row, (2, 3, 4)) for out, row in zip(outs[1:], _V3_STAGES, strict=True))
    template = Template(base, stages, tuple(resolutions), (1.0,), (3, 5, 7), (3, 4, 6), named_width=width)
    return build(template, depthwise, kernel_transforms)


def ofa_proxyless(
    *,
    width: float = 1.3,
    classes: int = 1000,
    resolutions: tuple[int, ...] = OFA_RESOLUTIONS,
    depthwise: str = "conv",
    kernel_transforms: bool = False,
    **options,
) -> Supernet:
    """Once-for-all's ProxylessNAS space (arXiv 1908.09791) at width 1.3: ReLU6, no squeeze-excite, a last stage of one block.

    Raises:
      ValueError: for a width other than 1.3.
    """
    if width != 1.3:
        raise ValueError(f"ofa_proxyless: width is {width!r}, choose from [1.3]")
    first = BlockSpec(3, 40, 24, 1, "relu6", expand=False)
    base = Arch(resolutions[-1], 40, "relu6", (("stage0", (first,)),), 1664, "relu6", classes, **options)
    rows = zip((32, 56, 104, 128, 248, 416), (2, 2, 2, 1, 2, 1), ((2, 3, 4),) * 5 + ((1,),), strict=True)
    stages = tuple(Stage(out, stride, "relu6", False, depths) for out, stride, depths in rows)
    template = Template(base, stages, tuple(resolutions), (1.0,), (3, 5, 7), (3, 4, 6), named_width=width)
    return build(template, depthwise, kernel_transforms)


def small_images(
    *,
    image_size: int = 32,
    resolutions: tuple[int, ...] = (),
    channels: int = 3,
    classes: int = 10,
    stem: int = 16,
    stem_stride: int = 1,
    stage_widths: tuple[int, ...] = (24, 40, 64),
    stage_strides: tuple[int, ...] = (1, 2, 2),
    head: int = 128,
    act: str = "relu6",
    squeeze_excite: bool = False,
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0),
    depths: tuple[int, ...] = (1, 2, 3, 4),
    kernels: tuple[int, ...] = (3, 5, 7),
    expands: tuple[int, ...] = (1, 2, 4, 6),
    divisor: int = 8,
    depthwise: str = "conv",
    kernel_transforms: bool = False,
    **options,
) -> Supernet:
    """A space for images of 8 to 64 pixels: per stage a width and a depth, per block a kernel and an expansion.

    The stem is fixed and shared by all subnets; the head's convolution follows the last stage's width. Subnets read images
    of `image_size` pixels, or of the smaller `resolutions`.

    Raises:
      ValueError: for an unknown activation, stage lists of different lengths, or an image size the strides do not allow.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"small_images: act is {act!r}, choose from {list(ACTIVATIONS)}")
    if len(stage_widths) != len(stage_strides):
        raise ValueError(f"small_images: {len(stage_widths)} stage_widths but {len(stage_strides)} stage_strides")
    for name, values, fits in (
        ("kernels", kernels, lambda kernel: kernel % 2 == 1),
        ("depths", depths, lambda depth: depth >= 1),
        ("expands", expands, lambda expand: expand >= 1),
        ("widths", widths, lambda width: width > 0),
        ("stage_widths", stage_widths, lambda width: width >= 1),
        ("stage_strides", stage_strides, lambda stride: stride >= 1),
    ):
        if not values or not all(fits(value) for value in values):
            raise ValueError(
                f"small_images: {name} is {values}; kernels are odd, depths, expands and strides at least 1"
            )
    least = stem_stride * int(np.prod(stage_strides))
    if not max(8, least) <= image_size <= 64:
        raise ValueError(f"small_images: image_size is {image_size}, choose from {max(8, least)} to 64")
    if not all(least <= side <= image_size for side in resolutions):
        raise ValueError(f"small_images: resolutions is {resolutions}, choose from {least} to {image_size}")
    base = Arch(image_size, stem, act, (), head, act, classes, stem_stride=stem_stride, channels=channels, **options)
    stages = tuple(
        Stage(out, stride, act, squeeze_excite, tuple(depths))
        for out, stride in zip(stage_widths, stage_strides, strict=True)
    )
    template = Template(
        base,
        stages,
        tuple(sorted({*resolutions, image_size})),
        tuple(widths),
        tuple(kernels),
        tuple(expands),
        divisor,
        elastic_head=True,
    )
    return build(template, depthwise, kernel_transforms)


def net_from_arch_file(space: Callable[..., Supernet], content: dict) -> Net:
    """The net an arch file describes in one of this file's spaces.

    Where the space has one width for the whole network, the file's number chooses it.

    Raises:
      ValueError: as `Decoder.from_file`, and for a width the network does not come in.
    """
    if space is small_images:
        supernet = space()
        return supernet.net(supernet.arch.from_file(content))
    width = content.get("width") if isinstance(content, dict) else None
    if isinstance(width, bool) or not isinstance(width, (int, float)):
        raise ValueError(f"arch file: width is {width!r}, must be one number for {space.__name__}")
    supernet = space(width=width)
    return supernet.net(supernet.arch.from_file(content))
