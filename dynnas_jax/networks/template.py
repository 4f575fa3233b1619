"""Templates of spaces on the MBConv net: what is fixed, what is left open, and how genomes and arch files become archs.

From a template come the genes, the decoding of a genome, the reading of an arch file, and the supernet.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dynnas_jax.elastic import Block, Supernet
from dynnas_jax.networks.blocks import DEPTHWISE_FORMS
from dynnas_jax.networks.mbconv import Arch, BlockSpec, Net, counting_blocks
from dynnas_jax.search_space import Gene, SearchSpace, first_equal, make_divisible


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
    # How images are normalised does not change what a genome is.
    fixed = {name: value for name, value in vars(template.base).items() if name not in ("mean", "std")}
    space = SearchSpace(genes(template), template.divisor, repr((fixed, template.stages)))
    blocks = functools.partial(_blocks, template, space)
    return Supernet(space, Decoder(template, space), functools.partial(Net, depthwise=depthwise), blocks)
