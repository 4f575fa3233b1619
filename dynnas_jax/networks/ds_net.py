"""Dynamic slimmable networks (Li et al. 2021, arXiv 2103.13258): ResNet-50, MobileNetV1, EfficientNet-B0, and small ones.

Each is a supernet whose genes are the ratios that its gates pick. Widths at neighbouring ratios lie equally far apart, as the
paper's appendix A asks, so that no slice cuts a group of a group norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dynnas_jax import networks
from dynnas_jax.elastic import Supernet
from dynnas_jax.networks.chains import ChainNet, check_counts
from dynnas_jax.networks.gate import GateSpec
from dynnas_jax.networks.mobilenets import efficientnet_b0
from dynnas_jax.networks.slimmable_blocks import Arch, BlockSpec
from dynnas_jax.networks.slimmable_space import Link, Template, Width, build, check_gates, checked_ratios, sliced_width
from dynnas_jax.search_space import make_divisible

RATIOS = (0.25, 0.5, 0.75, 1.0)
PATHS = {
    14: (224, 736, 32),
    18: (232, 464, 24),
}  # of ds_mobilenet_v1: narrowest layers of 512 and 1024, first of the steps
EFFICIENTNET_RATIOS = tuple(round(0.75 + 0.05 * i, 2) for i in range(21))
_GENE = "gate.ratio"  # where there is one gate
_REDUCTION = 4  # input channels of a gate for one unit of its dense layer


def net_from_arch_file(made_by: Any, content: dict, **options) -> ChainNet:
    """The net of the path that an arch file describes. Raises ValueError where the file does not fit the space."""
    supernet = made_by(**options)
    return supernet.net(supernet.arch.from_file(content))


def of_section(section: dict, facts: dict) -> Supernet:
    """The network of a config's section `slimmable` for images of these facts.

    Raises:
      ValueError: for a network without gates, or where section and images do not fit each other.
    """
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in section.items()}
    loader, (height, _, channels) = networks.with_gates(options.pop("network", None)), facts["image_shape"]
    options = {"depthwise": "auto", **options, "mean": tuple(facts["mean"]), "std": tuple(facts["std"])}
    try:
        return loader(resolution=height, channels=channels, classes=len(facts["classes"]), **options)
    except TypeError as error:
        raise ValueError(f"slimmable: a value has another type ({error})") from error


def ds_resnet50(
    *,
    ratios: tuple[float, ...] = RATIOS,
    depths: tuple[int, ...] = (3, 4, 6, 3),
    width: int = 64,
    groups: int = 32,
    gate_head: str = "one_hot",
    gate_shared: bool = True,
    classes: int = 1000,
    resolution: int = 224,
    depthwise: str = "conv",
    **options,
) -> Supernet:
    """ResNet-50 with a gate for each of its four stages: 256 paths.

    Args:
      ratios: that every gate picks from.
      width: channels of the stem, and inside the first stage's bottlenecks at ratio 1; each stage doubles them.
      groups: of a group norm at ratio 1.

    Raises:
      ValueError: for ratios that do not ascend or cut a group, or counts that are not whole and at least 1.
    """
    check_counts(depths=tuple(depths), width=width)
    inner = tuple(width * 2**stage for stage in range(len(depths)))
    plan = [(depth, channels, 4 * channels, 2 if i else 1) for i, (depth, channels) in enumerate(zip(depths, inner))]  # noqa: B905
    stem = {"stem_out": width, "stem_kernel": 7, "stem_stride": 2, "stem_pool": True}
    shared = {"classes": classes, "resolution": resolution, **options}
    template = _residual("bottleneck", plan, stem, ratios, groups, (gate_head, gate_shared), shared)
    return build(template, depthwise)


def ds_resnet_small(
    *,
    ratios: tuple[float, ...] = RATIOS,
    depths: tuple[int, ...] = (2, 2, 2),
    widths: tuple[int, ...] = (32, 64, 128),
    strides: tuple[int, ...] = (1, 2, 2),
    stem: int = 16,
    groups: int = 8,
    gate_units: int = 16,
    gate_head: str = "one_hot",
    gate_shared: bool = True,
    classes: int = 10,
    resolution: int = 32,
    depthwise: str = "conv",
    **options,
) -> Supernet:
    """Blocks of two 3x3 convolutions for small images, group norm, a gate for each stage.

    Args:
      widths: channels of each stage at ratio 1; stem: channels of the stem, which no gate sizes.
      groups: of a group norm at ratio 1, and of the stem's.
      gate_units: least units of a gate's dense layer.

    Raises:
      ValueError: for ratios that do not ascend or cut a group, stages that are not described alike, or counts that are not whole
        and at least 1.
    """
    sizes = {"depths": tuple(depths), "widths": tuple(widths), "strides": tuple(strides)}
    check_counts(**sizes, stem=stem, gate_units=gate_units)
    if not len(depths) == len(widths) == len(strides):
        raise ValueError(f"depths {depths}, widths {widths}, strides {strides}: give one of each per stage")
    plan = [(*stage[:2], *stage[1:]) for stage in zip(depths, widths, strides, strict=True)]
    first = {"stem_out": stem, "stem_kernel": 3, "stem_stride": 1, "stem_pool": False}
    shared = {"classes": classes, "resolution": resolution, **options}
    head = (gate_head, gate_shared)
    template = _residual("basic", plan, first, ratios, groups, head, shared, gate_units)
    return build(template, depthwise)


def _residual(
    kind: str, plan: Sequence[tuple], stem: dict, ratios: Any, groups: int, head: tuple, shared: dict, units: int = 1
) -> Template:
    """Stages of (depth, inner channels, channels put out, stride), each with a gate at the start of its first block."""
    ratios, act = checked_ratios(ratios), shared.pop("act", "relu")
    check_gates(*head)
    base = Arch(**stem, **shared, stem_group=_group(stem["stem_out"], groups, "the stem"), blocks=(), act=act)
    links, before, genes = [], Width((stem["stem_out"],)), []
    for stage, (depth, inner, out, stride) in enumerate(plan, 1):
        gene = f"stage{stage}.ratio"
        genes.append((gene, ratios))
        inner_group, out_group = (_group(channels, groups, f"stage {stage}") for channels in (inner, out))
        sized = sliced_width(inner, ratios, gene, inner_group, f"stage {stage}"), None
        sized = sized[0], sliced_width(out, ratios, gene, out_group, f"stage {stage}")
        for block in range(depth):
            gate = GateSpec(max(units, before.choices[-1] // _REDUCTION), 0 if block else len(ratios), *head)
            # A projection also where the largest path needs none: a narrower one before or here does.
            shortcut = "identity" if block else "projection"
            spec = BlockSpec(kind, 1, 1, 1 if block else stride, 3, gate, shortcut, inner_group, out_group)
            links.append(Link(f"stage{stage}_block{block}", spec, *sized, "" if block else gene))
            before = sized[1]
    return Template(base, tuple(links), tuple(genes))


def _group(channels: int, groups: int, what: str) -> int:
    """Channels of a group. Raises ValueError where they do not divide."""
    if type(groups) is not int or groups < 1 or channels % groups:
        raise ValueError(f"groups is {groups!r}, which the {channels} channels of {what} do not divide into")
    return channels // groups


def ds_mobilenet_v1(
    *,
    paths: int = 14,
    act: str = "swish",
    gate_head: str = "one_hot",
    gate_shared: bool = True,
    classes: int = 1000,
    resolution: int = 224,
    depthwise: str = "conv",
    **options,
) -> Supernet:
    """MobileNetV1, its first five blocks narrower, one gate in the sixth for all that follows.

    These five have 32, 48, 48, 96 and 96 channels of 64, 128, 128, 256 and 256, as in the published code; the paper says half.

    Args:
      paths: 14, as in the published code, or 18, as in the paper.

    Raises:
      ValueError: for another number of paths.
    """
    if paths not in PATHS:
        raise ValueError(f"paths is {paths!r}, choose from {list(PATHS)}")
    middle, last, step = PATHS[paths]
    last_step = step if paths == 14 else 2 * step
    widths = [
        Width(tuple(first + by * i for i in range(paths)), _GENE) for first, by in ((middle, step), (last, last_step))
    ]
    fixed = [(Width((out,)), count, stride) for out, count, stride in ((32, 1, 1), (48, 2, 2), (96, 2, 2))]
    plan = [*fixed, (widths[0], 6, 2), (widths[1], 2, 2)]
    # The published code sizes a gate's dense layer by the widest that it lists for its input, used or not.
    hidden = {16: 6, 32: 22, 48: 42, 96: 66} if paths == 14 else {}
    stem = {"stem_out": 16, "stem_kernel": 3, "stem_stride": 2, "stem_pool": False}
    ratios = tuple(width / 512 for width in widths[0].choices)
    shared = {"classes": classes, "resolution": resolution, "act": act, **options}
    return build(_separable(plan, stem, ratios, hidden, (gate_head, gate_shared), shared), depthwise)


def ds_mobilenet_small(
    *,
    ratios: tuple[float, ...] = RATIOS,
    stem: int = 8,
    fixed: tuple[tuple[int, int, int], ...] = ((16, 1, 1), (32, 1, 2)),
    gated: tuple[tuple[int, int, int], ...] = ((64, 2, 1), (128, 1, 2)),
    act: str = "relu6",
    gate_units: int = 16,
    gate_head: str = "one_hot",
    gate_shared: bool = True,
    classes: int = 10,
    resolution: int = 32,
    depthwise: str = "conv",
    **options,
) -> Supernet:
    """Separable convolutions for small images, batch norm, one gate.

    Args:
      fixed, gated: stages of (channels at ratio 1, blocks, stride) in front of the gate and behind.
      gate_units: least units of a gate's dense layer.

    Raises:
      ValueError: for ratios that do not ascend or give no whole channels, no stage behind the gate, or counts that are not whole
        and at least 1.
    """
    ratios = checked_ratios(ratios)
    check_counts(stem=stem, gate_units=gate_units)
    _check_stages(fixed=fixed, gated=gated)
    if not gated:
        raise ValueError("gated is empty: the gate decides how wide its stages run, give at least one")
    plan = [(Width((out,)), count, stride) for out, count, stride in fixed]
    plan += [(sliced_width(out, ratios, _GENE, 0, "the gated part"), *rest) for out, *rest in gated]
    first = {"stem_out": stem, "stem_kernel": 3, "stem_stride": 1, "stem_pool": False}
    shared = {"classes": classes, "resolution": resolution, "act": act, **options}
    head = (gate_head, gate_shared)
    return build(_separable(plan, first, ratios, {}, head, shared, gate_units), depthwise)


def _check_stages(**plans: Sequence[Sequence[int]]) -> None:
    """Raises ValueError for a stage that is not (channels, blocks, stride), whole and at least 1."""
    for name, stages in plans.items():
        if not all(isinstance(stage, (tuple, list)) and len(stage) == 3 for stage in stages):
            raise ValueError(f"{name} is {stages!r}, must be stages of (channels, blocks, stride)")
        for stage in stages:
            check_counts(**{name: tuple(stage)})


def _separable(
    plan: Sequence[tuple],
    stem: dict,
    ratios: tuple,
    hidden: dict[int, int],
    head: tuple,
    shared: dict,
    units: int = 1,
) -> Template:
    """Stages of (width, blocks, stride); the first block whose width is a gate's has the gate."""
    check_gates(*head)
    base = Arch(**stem, **shared, stem_group=0, blocks=())
    links, before = [], Width((stem["stem_out"],))
    for stage, (out, count, stride) in enumerate(plan, 1):
        for block in range(count):
            widest, decides = before.choices[-1], bool(out.gene) and not before.gene
            gate = GateSpec(hidden.get(widest, max(units, widest // _REDUCTION)), len(ratios) if decides else 0, *head)
            spec = BlockSpec("separable", 1, 1, 1 if block else stride, 3, gate)
            links += _divided(Link(f"stage{stage}_block{block}", spec, before, out), decides)
            before = out
    return Template(base, tuple(links), ((_GENE, ratios),))


def _divided(link: Link, decides: bool) -> list[Link]:
    """The link, or the two that it is where a slimming head stands behind its depthwise convolution."""
    if not decides:
        return [link]
    front = replace(link.spec, part="front", gate=None)
    return [
        replace(link, name=f"{link.name}_depthwise", spec=front, out=link.inner),
        replace(link, spec=replace(link.spec, part="back"), gate=_GENE),
    ]


def ds_efficientnet_b0(
    *,
    act: str = "swish",
    gate_head: str = "one_hot",
    gate_shared: bool = True,
    classes: int = 1000,
    resolution: int = 224,
    depthwise: str = "conv",
    **options,
) -> Supernet:
    """EfficientNet-B0, its first eight blocks at half the width, one gate in the ninth for the other eight.

    Half as `make_divisible` rounds it: of 24 and 40 channels 16 and 24.

    Its ratios are 0.75, 0.80, ..., 1.75 of the published widths. Neighbouring widths of a layer lie equally far apart, by the
    whole number nearest to a twentieth, that of 1.25 exact: the ends are off by 0.04 of a layer's channels at most.
    """
    check_gates(gate_head, gate_shared)
    published = efficientnet_b0(classes=classes, resolution=resolution).arch
    stem = {"stem_out": 16, "stem_kernel": 3, "stem_stride": 2, "stem_pool": False}
    shared = {"classes": classes, "resolution": resolution, **options}
    base = Arch(**stem, **shared, stem_group=0, blocks=(), act=act, head_conv=published.head_conv)
    links, before = [], Width((16,))
    for number, (name, spec) in enumerate(published.named_blocks()):
        out = Width((make_divisible(spec.out / 2),)) if number < 8 else _equal_steps(spec.out)
        inner = before.times(6) if spec.expand else before
        decides = number == 8
        gate = GateSpec(
            max(1, before.choices[-1] // _REDUCTION), len(EFFICIENTNET_RATIOS) if decides else 0, gate_head, gate_shared
        )
        made = BlockSpec("inverted", 1, 1, spec.stride, spec.kernel, gate, expand=spec.expand)
        made = replace(made, shortcut="identity" if spec.shortcut and before == out else "none")
        links += _divided(Link(name, made, inner, out), decides)
        before = out
    return build(Template(base, tuple(links), ((_GENE, EFFICIENTNET_RATIOS),)), depthwise)


def _equal_steps(channels: int) -> Width:
    """The widths of `EFFICIENTNET_RATIOS`, equally far apart, the middle one exact."""
    step, count = round(channels / 20), len(EFFICIENTNET_RATIOS)
    middle = round(1.25 * channels)
    return Width(tuple(middle + step * (i - count // 2) for i in range(count)), _GENE)
