"""FBNet-A, B and C (Wu et al. 2019, arXiv 1812.03443), block by block as their authors released them.

Source: the Caffe2 graphs FBNet/models/*/fp32/model.pbtxt of facebookresearch/mobile-vision, commit 4826a08 (May 2019), the
release with the accuracies of the paper. Its README counts 249.4, 295.6 and 383.0 M MACs and 4.3, 4.8 and 5.5 M params, norms
folded into biases: these nets have just that. The paper's table says 249, 295 and 375 M, and 4.3, 4.5 and 5.5 M. No release
gives its 375 M (C with a head of 1504 channels, released as C1, has 374.2 M, but then 4.9 M params) nor its 4.5 M (B has 4.8 M,
and 4.1 M with a head of 1504, released as B1). The authors' later PyTorch definitions (fbnet_v2, 2020) are other nets: 244.5,
291.1 and 378.2 M.
"""

from __future__ import annotations

from dynnas_jax.networks.mbconv import Arch, BlockSpec, Net, grouped_by_stride, with_total_stride
from dynnas_jax.networks.mobilenets import check_width
from dynnas_jax.search_space import make_divisible

_STEM = 16
_TOTAL_STRIDE = 32  # stem included; less for small images, as `mbconv.with_total_stride` makes it
_STAGES = ((16, 1), (24, 2), (32, 2), (64, 2), (112, 1), (184, 2), (352, 1))  # channels, stride of the first block

# k3_e6: kernel 3, expansion 6; g2: pointwise convolutions in two groups; k33: two 3x3 depthwise convolutions in sequence.
_A = (
    "skip",
    "k3_e3 k3_e1 skip skip",
    "k5_e6 k3_e3 k5_e1 k3_e3",
    "k5_e6 k5_e3 k3_e1_g2 k5_e6",
    "k3_e6 k3_e1_g2 k5_e3 k3_e1_g2",
    "k5_e6 k5_e6 k5_e3 k5_e6",
    "k5_e6",
)
_B = (
    "k3_e1",
    "k3_e6 k5_e1 k3_e1 k3_e1",
    "k5_e6 k5_e3 k3_e6 k33_e6",
    "k5_e6 k5_e1 skip k5_e3",
    "k5_e6 k3_e1 k5_e1 k5_e3",
    "k5_e6 k5_e1 k5_e6 k5_e6",
    "k3_e6",
)
_C = (
    "k3_e1",
    "k3_e6 skip k3_e1 k3_e1",
    "k5_e6 k5_e3 k33_e6 k3_e6",
    "k5_e6 k5_e3 k5_e6 k5_e6",
    "k5_e6 k33_e6 k5_e6 k5_e3",
    "k5_e6 k5_e6 k5_e6 k5_e6",
    "k3_e6",
)


def _specs(stages: tuple[str, ...], multiplier: float) -> list[BlockSpec]:
    """The blocks that are not skipped; even at expansion 1 they have both pointwise convolutions."""
    specs, width = [], make_divisible(_STEM * multiplier)
    for (published, first_stride), names in zip(_STAGES, stages, strict=True):
        out = make_divisible(published * multiplier)
        for i, name in enumerate(names.split()):
            if name == "skip":
                continue
            stride = 1 if i else first_stride
            kernels, expand, *groups = (part[1:] for part in name.split("_"))
            specs.append(
                BlockSpec(
                    kernel=int(kernels[0]),
                    hidden=width * int(expand),
                    out=out,
                    stride=stride,
                    act="relu",
                    shortcut=stride == 1 and out == width,
                    groups=int(groups[0]) if groups else 1,
                    depthwise=len(kernels),
                )
            )
            width = out
    return specs


def _net(
    stages: tuple[str, ...],
    head: int,
    classes: int,
    resolution: int,
    width: float,
    total_stride: int,
    options: dict,
) -> Net:
    """A width other than 1 multiplies every number of channels: nets that nobody published, for small images."""
    check_width(width)
    stem, head = (make_divisible(channels * width) for channels in (_STEM, head))
    grouped = grouped_by_stride(_specs(stages, width))
    arch = Arch(resolution, stem, "relu", grouped, head, "relu", classes, **options)
    return Net(with_total_stride(arch, total_stride))


def fbnet_a(
    *,
    classes: int = 1000,
    resolution: int = 224,
    head: int = 1504,
    width: float = 1.0,
    total_stride: int = _TOTAL_STRIDE,
    **options,
) -> Net:
    """FBNet-A: 249.4 M MACs at 224 pixels, 4.3 M params."""
    return _net(_A, head, classes, resolution, width, total_stride, options)


def fbnet_b(
    *,
    classes: int = 1000,
    resolution: int = 224,
    head: int = 1984,
    width: float = 1.0,
    total_stride: int = _TOTAL_STRIDE,
    **options,
) -> Net:
    """FBNet-B: 295.6 M MACs at 224 pixels, 4.8 M params; with a head of 1504 channels the authors' B1, 286.8 M and 4.1 M."""
    return _net(_B, head, classes, resolution, width, total_stride, options)


def fbnet_c(
    *,
    classes: int = 1000,
    resolution: int = 224,
    head: int = 1984,
    width: float = 1.0,
    total_stride: int = _TOTAL_STRIDE,
    **options,
) -> Net:
    """FBNet-C: 383.0 M MACs at 224 pixels, 5.5 M params; with a head of 1504 channels the authors' C1, 374.2 M and 4.9 M."""
    return _net(_C, head, classes, resolution, width, total_stride, options)
