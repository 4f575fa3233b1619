"""Published MBConv archs: MobileNetV2, MobileNetV3 and EfficientNet-B0.

`width` multiplies every number of channels, rounded as the authors round; `total_stride` leaves out the first strides, for images
much smaller than 224 pixels (`mbconv.with_total_stride`).
"""

from __future__ import annotations

from collections.abc import Iterable

from dynnas_jax.networks.mbconv import Arch, BlockSpec, Net, grouped_by_stride, with_total_stride
from dynnas_jax.search_space import make_divisible

TOTAL_STRIDE = 32  # of all nets here, stem included


def check_width(width: float) -> None:
    """Raises ValueError for a width multiplier that is no number above 0."""
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not width > 0:
        raise ValueError(f"width is {width!r}, must be a number above 0")


def block_specs(rows: Iterable[tuple[int, int, int, int, str, int]], stem: int) -> tuple[BlockSpec, ...]:
    """Blocks of a published table with rows of (kernel, hidden, out, squeeze-excite hidden, act, stride), behind a stem."""
    specs, width = [], stem
    for kernel, hidden, out, se, act, stride in rows:
        shortcut = stride == 1 and out == width
        specs.append(BlockSpec(kernel, hidden, out, stride, act, se, hidden != width, shortcut))
        width = out
    return tuple(specs)


def mobilenet_v2(
    *, classes: int = 1000, resolution: int = 224, width: float = 1.0, total_stride: int = TOTAL_STRIDE, **options
) -> Net:
    """MobileNetV2 (arXiv 1801.04381, table 2): 300.8 M MACs at 224 pixels. Its last layer never narrows."""
    check_width(width)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    stem = make_divisible(32 * width)
    rows, before = [], stem
    for expand, out, repeats, stride in table:
        for i in range(repeats):
            after = make_divisible(out * width)
            rows.append((3, before * expand, after, 0, "relu6", stride if i == 0 else 1))
            before = after
    head = make_divisible(1280 * max(1.0, width))
    arch = Arch(
        resolution, stem, "relu6", grouped_by_stride(block_specs(rows, stem)), head, "relu6", classes, **options
    )
    return Net(with_total_stride(arch, total_stride))


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


def _mobilenet_v3(
    table: tuple,
    conv: int,
    features: int,
    classes: int,
    resolution: int,
    width: float,
    total_stride: int,
    options: dict,
) -> Net:
    """Squeeze-excite reduces to make_divisible(hidden // 4). The layer behind pooling grows with the width, but never narrows.

    At another width a block keeps its expansion, hidden channels over those of its input, as in the authors' own nets.
    """
    check_width(width)
    wide = lambda channels: make_divisible(channels * width)  # noqa: E731
    published, stem = 16, wide(16)
    rows, before = [], stem
    for kernel, hidden, out, se, act, stride in table:
        hidden = make_divisible(before * hidden / published)
        rows.append((kernel, hidden, wide(out), make_divisible(hidden // 4) * se, act, stride))
        published, before = out, wide(out)
    features = max(features, wide(features))
    options = {"epsilon": 1e-3, "head_features": features, "head_features_bias": True, **options}
    stages = grouped_by_stride(block_specs(rows, stem))
    arch = Arch(resolution, stem, "hswish", stages, wide(conv), "hswish", classes, **options)
    return Net(with_total_stride(arch, total_stride))


def mobilenet_v3_large(
    *, classes: int = 1000, resolution: int = 224, width: float = 1.0, total_stride: int = TOTAL_STRIDE, **options
) -> Net:
    """MobileNetV3-Large (arXiv 1905.02244, table 1): 216.6 M MACs, 5.48 M params."""
    return _mobilenet_v3(_V3_LARGE, 960, 1280, classes, resolution, width, total_stride, options)


def mobilenet_v3_small(
    *, classes: int = 1000, resolution: int = 224, width: float = 1.0, total_stride: int = TOTAL_STRIDE, **options
) -> Net:
    """MobileNetV3-Small (arXiv 1905.02244, table 2): 56.5 M MACs, 2.54 M params."""
    return _mobilenet_v3(_V3_SMALL, 576, 1024, classes, resolution, width, total_stride, options)


def efficientnet_b0(
    *, classes: int = 1000, resolution: int = 224, width: float = 1.0, total_stride: int = TOTAL_STRIDE, **options
) -> Net:
    """EfficientNet-B0 (arXiv 1905.11946, table 1): 385.8 M MACs, 5.29 M params; SE squeezes to a quarter of the block's input.

    Its authors widen it (B2: 1.1 times); below 1 the same rule makes nets that nobody published.
    """
    check_width(width)
    table = (
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 5, 40, 2, 2),
        (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    )
    stem = make_divisible(32 * width)
    rows, before = [], stem
    for expand, kernel, out, repeats, stride in table:
        for i in range(repeats):
            after = make_divisible(out * width)
            rows.append((kernel, before * expand, after, max(1, before // 4), "swish", stride if i == 0 else 1))
            before = after
    options = {"epsilon": 1e-3, "se_act": "swish", "se_gate": "sigmoid", **options}
    stages, head = grouped_by_stride(block_specs(rows, stem)), make_divisible(1280 * width)
    arch = Arch(resolution, stem, "swish", stages, head, "swish", classes, **options)
    return Net(with_total_stride(arch, total_stride))
