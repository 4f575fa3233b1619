"""Supernet spaces on the MBConv net: once-for-all's two, and one for small images.

A template holds what is fixed (strides, activations, base widths) and the choices; from it come the genes, the decoding
of a genome, and the reading of arch files. All three spaces are templates and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dynnas_jax.elastic import Block, Supernet
from dynnas_jax.networks.blocks import ACTIVATIONS, DEPTHWISE_FORMS
from dynnas_jax.networks.mbconv import Arch, BlockSpec, Net, counting_blocks
from dynnas_jax.search_space import Gene, SearchSpace, first_equal, make_divisible

OFA_RESOLUTIONS = tuple(range(128, 225, 4))


@dataclass(frozen=True)
class Stage:
    """The fixed part of one elastic stage."""

    out: int  # channels at width 1
    stride: int
    act: str
    se: bool
    depths: tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """What a space fixes and what it leaves open."""

    base: Arch  # its stages are the fixed ones in front of the elastic ones (none, or stage0)
    stages: tuple[Stage, ...]
    resolutions: tuple[int, ...]
    widths: tuple[float, ...]  # multipliers of each elastic stage's channels
    kernels: tuple[int, ...]
    expands: tuple[int, ...]
    divisor: int = 8
    elastic_head: bool = False  # whether the head's convolution follows the last stage's width

    def stage_out(self, number: int, width: float) -> int:
        """Channels of elastic stage `number` (from 1; 0 is what stands before the first) at a width multiplier."""
        if number == 0:
            return self.base.stages[-1][1][-1].out if self.base.stages else self.base.stem_out
        return make_divisible(self.stages[number - 1].out * width, self.divisor)

    def head_conv(self, width: float) -> int:
        """Channels of the head's convolution behind a last stage of a width multiplier."""
        out = self.base.head_conv
        return make_divisible(out * width, self.divisor) if self.elastic_head else out

    def hidden(self, channels: int, expand: float) -> int:
        """Channels of a block's depthwise convolution."""
        return make_divisible(round(channels * expand), self.divisor)

    def block_spec(
        self, number: int, index: int, kernel: int, expand: int, width: float, width_before: float
    ) -> BlockSpec:
        """One elastic block; the first of a stage takes its stride and never has a shortcut."""
        stage, out = self.stages[number - 1], self.stage_out(number, width)
        hidden = self.hidden(out if index else self.stage_out(number - 1, width_before), expand)
        se = make_divisible(hidden // 4, 8) if stage.se else 0
        return BlockSpec(kernel, hidden, out, 1 if index else stage.stride, stage.act, se, shortcut=index > 0)

    def decode(self, resolution: int, width: list[float], kernel: list[list[int]], expand: list[list[int]]) -> Arch:
        """The arch of explicit choices: widths one per stage, kernels and expansions one list per stage."""
        stages = list(self.base.stages)
        for i, (kernels, expands) in enumerate(zip(kernel, expand, strict=True)):
            before = width[i - 1] if i else 1.0
            specs = [
                self.block_spec(i + 1, j, k, e, width[i], before)
                for j, (k, e) in enumerate(zip(kernels, expands, strict=True))
            ]
            stages.append((f"stage{i + 1}", tuple(specs)))
        return replace(self.base, resolution=resolution, stages=tuple(stages), head_conv=self.head_conv(width[-1]))


def genes(template: Template) -> tuple[Gene, ...]:
    """The template's choices as genes; a choice with one value is none."""
    found = [Gene("resolution", template.resolutions)]
    for i, stage in enumerate(template.stages, 1):
        # Widths merge where they give the same channels, of the head too if it follows this stage.
        heads = [template.head_conv(width) if i == len(template.stages) else 0 for width in template.widths]
        outs = [(template.stage_out(i, width), head) for width, head in zip(template.widths, heads, strict=True)]
        width, before = f"stage{i}.width", f"stage{i - 1}.width" if i > 1 else None
        found.append(Gene(width, template.widths, merged=(first_equal(outs),)))
        found.append(Gene(f"stage{i}.depth", stage.depths))
        for j in range(max(stage.depths)):
            block = f"stage{i}.block{j}"
            gate = next((n for n, depth in enumerate(stage.depths) if depth > j))
            needs = (f"stage{i}.depth", gate) if gate else None
            parent, number = (width, i) if j else (before, i - 1)
            inputs = [template.stage_out(number, w) for w in (template.widths if number else (1.0,))]
            merged = tuple(first_equal([template.hidden(c, e) for e in template.expands]) for c in inputs)
            parent = parent if len(template.widths) > 1 else None
            found.append(Gene(f"{block}.kernel", template.kernels, needs))
            found.append(Gene(f"{block}.expand", template.expands, needs, parent, merged))
    real = tuple(gene for gene in found if len(gene.choices) > 1)
    if not any(row != tuple(range(len(row))) for gene in real for row in gene.merged or ()):
        real = tuple(gene._replace(parent=None, merged=None) for gene in real)
    return real


@dataclass(frozen=True)
class Decoder:
    """From genomes and arch files to archs: what a supernet of this file has as its `arch`."""

    template: Template
    space: SearchSpace

    def __call__(self, genome: np.ndarray) -> Arch:
        """The arch of a genome. Raises ValueError for one that is not of this space."""
        return self.template.decode(**self.file(genome))

    def file(self, genome: np.ndarray) -> dict[str, Any]:
        """A genome as the content of an arch file: resolution, and width, kernel and expansion by stage."""
        template, values = self.template, self.space.values(genome)
        content: dict[str, Any] = {"resolution": values.get("resolution", template.resolutions[0])}
        content |= {"width": [], "kernel": [], "expand": []}
        for i, stage in enumerate(template.stages, 1):
            depth = values.get(f"stage{i}.depth", stage.depths[0])
            names = [f"stage{i}.block{j}" for j in range(depth)]
            content["width"].append(values.get(f"stage{i}.width", template.widths[0]))
            content["kernel"].append([values.get(f"{name}.kernel", template.kernels[0]) for name in names])
            content["expand"].append([values.get(f"{name}.expand", template.expands[0]) for name in names])
        return content

    def from_file(self, content: dict) -> Arch:
        """The arch an arch file describes; its resolution is free, everything else among the template's choices.

        Raises:
          ValueError: for a missing key, a list too many or too few, or a value the network does not have.
        """
        if not isinstance(content, dict) or set(content) != {"resolution", "width", "kernel", "expand"}:
            raise ValueError('an arch file is an object with the keys "resolution", "width", "kernel" and "expand"')
        template, count = self.template, len(self.template.stages)
        least = template.base.stem_stride * int(np.prod([stage.stride for stage in template.stages]))
        for _, specs in template.base.stages:
            least *= int(np.prod([spec.stride for spec in specs]))
        resolution, width = content["resolution"], content["width"]
        if type(resolution) is not int or resolution < least:
            raise ValueError(f"arch file: resolution is {resolution!r}, must be an integer of at least {least}")
        width = width if isinstance(width, list) else [width] * count
        _among("width", [width], [template.widths], [(count,)])
        depths = [stage.depths for stage in template.stages]
        kernel = _among("kernel", content["kernel"], [template.kernels] * count, depths)
        expand = _among("expand", content["expand"], [template.expands] * count, depths)
        for i, (kernels, expands) in enumerate(zip(kernel, expand, strict=True), 1):
            if len(kernels) != len(expands):
                raise ValueError(f"arch file: stage {i} has {len(kernels)} kernels but {len(expands)} expansions")
        return template.decode(resolution, width, kernel, expand)


def _among(what: str, lists: Any, allowed: list[tuple], depths: list[tuple[int, ...]]) -> list[list]:
    """One list per stage, each of an allowed length and of its choices (3 for a file's 3.0); else ValueError."""
    if (
        not isinstance(lists, list)
        or not all(isinstance(values, list) for values in lists)
        or len(lists) != len(allowed)
    ):
        raise ValueError(f"arch file: {what} must be {len(allowed)} lists, one per stage, got {lists!r}")
    for i, (values, choices, lengths) in enumerate(zip(lists, allowed, depths, strict=True), 1):
        if len(values) not in lengths:
            raise ValueError(
                f"arch file: {what} of stage {i} has {len(values)} entries, choose a depth from {list(lengths)}"
            )
        for value in values:
            if isinstance(value, bool) or value not in choices:
                raise ValueError(f"arch file: {what} {value!r} in stage {i}, choose from {list(choices)}")
    return [[choices[choices.index(v)] for v in values] for values, choices in zip(lists, allowed, strict=True)]


def _blocks(template: Template, space: SearchSpace, arch: Arch) -> tuple[Block, ...]:
    """The arch's chain, each block with the genes that size it."""
    sized = []
    for block in counting_blocks(arch):
        wanted, depth = [], None
        if block.name == "head":
            wanted = [f"stage{len(template.stages)}.width"]
        elif block.name.startswith("stage") and not block.name.startswith("stage0"):
            stage, j = (int(part) for part in block.name.removeprefix("stage").split("_block"))
            wanted = [] if j else [f"stage{stage - 1}.width"]
            wanted += [f"stage{stage}.width", f"stage{stage}.block{j}.kernel", f"stage{stage}.block{j}.expand"]
            depths = template.stages[stage - 1].depths if stage <= len(template.stages) else (0,)
            if j >= depths[-1]:
                raise ValueError(f"the arch has a {block.name}, the supernet has none")
            gate = next(n for n, d in enumerate(depths) if d > j)
            depth = (f"stage{stage}.depth", gate) if gate else None
        sized.append(block._replace(genes=tuple(name for name in wanted if name in space), depth=depth))
    return tuple(sized)


def build(template: Template, depthwise: str = "conv") -> Supernet:
    """The supernet of a template; `depthwise` is the form its nets compute depthwise convolutions in."""
    if depthwise not in DEPTHWISE_FORMS:
        raise ValueError(f"depthwise is {depthwise!r}, choose from {list(DEPTHWISE_FORMS)}")
    space = SearchSpace(genes(template), template.divisor)
    blocks = functools.partial(_blocks, template, space)
    return Supernet(space, Decoder(template, space), functools.partial(Net, depthwise=depthwise), blocks)


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
    return build(Template(base, stages, tuple(resolutions), (1.0,), (3, 5, 7), (3, 4, 6)), depthwise)


def ofa_proxyless(
    *,
    width: float = 1.3,
    classes: int = 1000,
    resolutions: tuple[int, ...] = OFA_RESOLUTIONS,
    depthwise: str = "conv",
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
    return build(Template(base, stages, tuple(resolutions), (1.0,), (3, 5, 7), (3, 4, 6)), depthwise)


def small_images(
    *,
    image_size: int = 32,
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
    **options,
) -> Supernet:
    """A space for images of 8 to 64 pixels: per stage a width and a depth, per block a kernel and an expansion.

    The stem is fixed and shared by all subnets; the head's convolution follows the last stage's width.

    Raises:
      ValueError: for an unknown activation, stage lists of different lengths, or an image size the strides do not allow.
    """
    if act not in ACTIVATIONS:
        raise ValueError(f"small_images: act is {act!r}, choose from {list(ACTIVATIONS)}")
    if len(stage_widths) != len(stage_strides):
        raise ValueError(f"small_images: {len(stage_widths)} stage_widths but {len(stage_strides)} stage_strides")
    least = max(8, stem_stride * int(np.prod(stage_strides)))
    if not least <= image_size <= 64:
        raise ValueError(f"small_images: image_size is {image_size}, choose from {least} to 64")
    base = Arch(image_size, stem, act, (), head, act, classes, stem_stride=stem_stride, channels=channels, **options)
    stages = tuple(
        Stage(out, stride, act, squeeze_excite, tuple(depths))
        for out, stride in zip(stage_widths, stage_strides, strict=True)
    )
    template = Template(
        base, stages, (image_size,), tuple(widths), tuple(kernels), tuple(expands), divisor, elastic_head=True
    )
    return build(template, depthwise)


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
    return supernet.net(supernet.arch.from_file({**content, "width": 1.0}))
