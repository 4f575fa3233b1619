"""Templates of spaces on the MBConv net: what is fixed, what is left open, and how genomes and arch files become archs.

From a template come the genes, the decoding of a genome, the reading of an arch file, and the supernet.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from dynnas_jax.elastic import Block, Supernet
from dynnas_jax.networks import arch_files
from dynnas_jax.networks.blocks import DEPTHWISE_FORMS
from dynnas_jax.networks.mbconv import REMATS, Arch, BlockSpec, Net, counting_blocks
from dynnas_jax.search_space import Gene, SearchSpace, first_equal, make_divisible

PRECISIONS = ("float32", "bfloat16")  # that training may compute in


@dataclass(frozen=True)
class Stage:
    """The fixed part of one elastic stage."""

    out: int  # channels at width 1
    stride: int
    act: str
    se: bool
    depths: tuple[int, ...]
    # Its own choices, where they are not the template's. Not in the repr, which tells spaces apart: the genes hold them.
    widths: tuple[float, ...] = field(default=(), repr=False)
    kernels: tuple[int, ...] = field(default=(), repr=False)
    expands: tuple[int, ...] = field(default=(), repr=False)  # (1,): no convolution expands


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
    stem_widths: tuple[int, ...] = ()  # channels of the stem, where it is elastic
    head_widths: tuple[int, ...] = ()  # units of the layer behind pooling, where it is elastic
    alike: bool = False  # whether the blocks of a stage share one kernel and one expansion
    shortcuts: bool = False  # whether every block has a shortcut, through a convolution where the channels change
    # What arch files call the one width the network has; its stages hold the channels at that width.
    named_width: float | None = field(default=None, repr=False)

    def choices(self, number: int, what: str) -> tuple:
        """The "widths", "kernels" or "expands" of elastic stage `number`; the widths of what stands before stage 1 for 0."""
        if number == 0:
            return self.stem_widths or (1.0,)
        return getattr(self.stages[number - 1], what) or getattr(self, what)

    def width_gene(self, number: int) -> str:
        """Name of the gene of the width of elastic stage `number`, or of the stem for 0."""
        return f"stage{number}.width" if number else "stem.width"

    def gene(self, number: int, index: int, what: str) -> str:
        """Name of the gene of a block's "kernel" or "expand"."""
        return f"stage{number}.{what}" if self.alike else f"stage{number}.block{index}.{what}"

    def width_places(self) -> dict[str, tuple[float, ...]]:
        """Gene name of each width of an arch file, in order, and its choices."""
        places = {f"stage{i}.width": self.choices(i, "widths") for i in range(1, len(self.stages) + 1)}
        stem = {"stem.width": self.stem_widths} if self.stem_widths else {}
        return stem | places | ({"head.width": self.head_widths} if self.head_widths else {})

    def stage_out(self, number: int, width: float) -> int:
        """Channels of elastic stage `number` (from 1; 0 is what stands before the first) at a width."""
        if number == 0 and self.stem_widths:
            return int(width)
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
        """One elastic block; the first of a stage takes its stride, and has a shortcut only where every block has one."""
        stage, out = self.stages[number - 1], self.stage_out(number, width)
        inputs = out if index else self.stage_out(number - 1, width_before)
        expands = stage.expands != (1,)
        hidden = self.hidden(inputs, expand) if expands else inputs
        return BlockSpec(
            kernel,
            hidden,
            out,
            1 if index else stage.stride,
            stage.act,
            make_divisible(hidden // 4, 8) if stage.se else 0,
            expand=expands,
            shortcut=index > 0 or self.shortcuts,
            shortcut_conv=self.shortcuts and inputs != out,
        )

    def decode(self, resolution: int, width: list[float], kernel: list[list[int]], expand: list[list[int]]) -> Arch:
        """The arch of explicit choices: widths as `width_places`, kernels and expansions one list per stage."""
        widths = dict(zip(self.width_places(), width, strict=True))
        stages, before = list(self.base.stages), widths.get("stem.width", 1.0)
        for i, (kernels, expands) in enumerate(zip(kernel, expand, strict=True), 1):
            own = widths[f"stage{i}.width"]
            specs = [
                self.block_spec(i, j, k, e, own, before) for j, (k, e) in enumerate(zip(kernels, expands, strict=True))
            ]
            stages.append((f"stage{i}", tuple(specs)))
            before = own
        return replace(
            self.base,
            resolution=resolution,
            stem_out=widths.get("stem.width", self.base.stem_out),
            stages=tuple(stages),
            head_conv=self.head_conv(before),
            head_features=widths.get("head.width", self.base.head_features),
        )

    def whole(self, largest: Arch) -> Arch:
        """The largest arch with every shortcut convolution that some subnet has, though the largest may do without."""
        stages = list(largest.stages)
        for i in range(1, len(self.stages) + 1):
            before, own = ({self.stage_out(n, w) for w in self.choices(n, "widths")} for n in (i - 1, i))
            name, (first, *others) = stages[i - 1 - len(self.stages)]
            first = replace(first, shortcut_conv=len(before | own) > 1)
            stages[i - 1 - len(self.stages)] = (name, (first, *others))
        return replace(largest, stages=tuple(stages))


def genes(template: Template) -> tuple[Gene, ...]:
    """The template's choices as genes; a choice with one value is none."""
    found = [Gene("resolution", template.resolutions), Gene("stem.width", template.stem_widths)]
    for i, stage in enumerate(template.stages, 1):
        # Widths merge where they give the same channels, of the head too if it follows this stage.
        widths = template.choices(i, "widths")
        heads = [template.head_conv(width) if i == len(template.stages) else 0 for width in widths]
        outs = [(template.stage_out(i, width), head) for width, head in zip(widths, heads, strict=True)]
        found.append(Gene(f"stage{i}.width", widths, merged=(first_equal(outs),)))
        found.append(Gene(f"stage{i}.depth", stage.depths))
        found += _alike_genes(template, i) if template.alike else _block_genes(template, i)
    found.append(Gene("head.width", template.head_widths))
    real = tuple(gene for gene in found if len(gene.choices) > 1)
    names = {gene.name for gene in real}
    real = tuple(gene if gene.parent in names else gene._replace(parent=None) for gene in real)
    if not any(row != tuple(range(len(row))) for gene in real for row in gene.merged or ()):
        real = tuple(gene._replace(parent=None, merged=None) for gene in real)
    return real


def _block_genes(template: Template, i: int) -> list[Gene]:
    """Kernel and expansion of every block of elastic stage `i`; expansions merge by the width of the block's input."""
    found, stage = [], template.stages[i - 1]
    for j in range(max(stage.depths)):
        gate = next((n for n, depth in enumerate(stage.depths) if depth > j))
        needs = (f"stage{i}.depth", gate) if gate else None
        number = i if j else i - 1
        inputs = [template.stage_out(number, width) for width in template.choices(number, "widths")]
        expands = template.choices(i, "expands")
        merged = tuple(first_equal([template.hidden(c, e) for e in expands]) for c in inputs)
        found.append(Gene(template.gene(i, j, "kernel"), template.choices(i, "kernels"), needs))
        found.append(Gene(template.gene(i, j, "expand"), expands, needs, template.width_gene(number), merged))
    return found


def _alike_genes(template: Template, i: int) -> list[Gene]:
    """One kernel and one expansion for elastic stage `i`; expansions merge where they do at every width."""
    expands = template.choices(i, "expands")
    inputs = [template.stage_out(n, width) for n in (i - 1, i) for width in template.choices(n, "widths")]
    merged = (first_equal([tuple(template.hidden(c, e) for c in inputs) for e in expands]),)
    kernel, expand = template.gene(i, 0, "kernel"), template.gene(i, 0, "expand")
    return [Gene(kernel, template.choices(i, "kernels")), Gene(expand, expands, merged=merged)]


@dataclass(frozen=True)
class Decoder:
    """From genomes and arch files to archs: what a supernet of this file has as its `arch`."""

    template: Template
    space: SearchSpace

    def __call__(self, genome: np.ndarray) -> Arch:
        """The arch of a genome. Raises ValueError for one that is not of this space."""
        return self.template.decode(**self._choices(genome))

    def file(self, genome: np.ndarray) -> dict[str, Any]:
        """A genome as the content of an arch file: resolution, and width, kernel and expansion by stage."""
        content, named = self._choices(genome), self.template.named_width
        return content if named is None else {**content, "width": named}

    def _choices(self, genome: np.ndarray) -> dict[str, Any]:
        """What `Template.decode` takes."""
        template, values = self.template, self.space.values(genome)
        content: dict[str, Any] = {"resolution": values.get("resolution", template.resolutions[0])}
        content["width"] = [values.get(name, choices[0]) for name, choices in template.width_places().items()]
        content |= {"kernel": [], "expand": []}
        for i, stage in enumerate(template.stages, 1):
            depth = values.get(f"stage{i}.depth", stage.depths[0])
            for what in ("kernel", "expand"):
                only = template.choices(i, f"{what}s")[0]
                content[what].append([values.get(template.gene(i, j, what), only) for j in range(depth)])
        return content

    def from_file(self, content: dict) -> Arch:
        """The arch an arch file describes; its resolution is free, everything else among the template's choices.

        Raises:
          ValueError: for a missing key, a list too many or too few, or a value the network does not have.
        """
        return self.template.decode(**arch_files.read(self.template, content))


def _blocks(template: Template, space: SearchSpace, arch: Arch) -> tuple[Block, ...]:
    """The arch's chain, each block with the genes that size it."""
    sized = []
    specs = {f"{stage}_block{j}": spec for stage, specs in arch.stages for j, spec in enumerate(specs)}
    for block in counting_blocks(arch):
        wanted, depth = [], None
        if block.name == "stem":
            wanted = ["stem.width"]
        elif block.name == "head":
            wanted = [f"stage{len(template.stages)}.width", "head.width"]
        elif not block.name.startswith("stage0"):
            stage, j = (int(part) for part in block.name.removeprefix("stage").split("_block"))
            if specs[block.name].groups > 1:
                raise ValueError(f"the arch has groups in {block.name}, which no part of the supernet's block computes")
            wanted = [] if j else [template.width_gene(stage - 1)]
            wanted += [f"stage{stage}.width", template.gene(stage, j, "kernel"), template.gene(stage, j, "expand")]
            depths = template.stages[stage - 1].depths if stage <= len(template.stages) else (0,)
            if j >= depths[-1]:
                raise ValueError(f"the arch has a {block.name}, the supernet has none")
            gate = next(n for n, d in enumerate(depths) if d > j)
            depth = (f"stage{stage}.depth", gate) if gate else None
        sized.append(block._replace(genes=tuple(name for name in wanted if name in space), depth=depth))
    return tuple(sized)


def form_here(depthwise: str) -> str:
    """The form of depthwise convolutions; the faster one on this backend for "auto". Raises ValueError for an unknown one."""
    if depthwise == "auto":
        return "shifts" if jax.default_backend() == "cpu" else "conv"
    if depthwise not in DEPTHWISE_FORMS:
        raise ValueError(f"depthwise is {depthwise!r}, choose from {['auto', *DEPTHWISE_FORMS]}")
    return depthwise


def build(template: Template, depthwise: str = "conv", kernel_transforms: bool = False) -> Supernet:
    """The supernet of a template; `depthwise` is the form its nets compute depthwise convolutions in, "auto" the faster one here.

    With `kernel_transforms` smaller kernels are learned transforms of larger ones (`dynnas_jax.kernel_transforms`).
    """
    depthwise = form_here(depthwise)
    # How images are normalised does not change what a genome is.
    fixed = {name: value for name, value in vars(template.base).items() if name not in ("mean", "std")}
    shared = (template.kernels, template.expands, template.widths)  # a choice with one value is no gene
    meaning = repr((fixed, template.stages, shared)) + _own_meaning(template)
    space = SearchSpace(genes(template), template.divisor, meaning)
    arch = Decoder(template, space)
    whole = template.whole(arch(space.largest)) if template.shortcuts else None
    net = functools.partial(Net, depthwise=depthwise)
    return Supernet(space, arch, net, functools.partial(_blocks, template, space), whole, kernel_transforms)


def in_training(supernet: Supernet, precision: str = "float32", remat: str = "none") -> Supernet:
    """The supernet as training computes it: its nets' activations in `precision`, and `remat` done again for the gradient.

    Same space, same float32 variables; what is counted, evaluated and exported is the supernet itself.

    Raises:
      ValueError: for an unknown precision or remat.
    """
    for name, value, known in (("precision", precision, PRECISIONS), ("remat", remat, REMATS)):
        if value not in known:
            raise ValueError(f"train.{name} is {value!r}, choose from {list(known)}")
    if (precision, remat) == ("float32", "none"):
        return supernet  # itself, since what is known of a supernet is kept by it
    return supernet._replace(net=lambda arch: supernet.net(arch).clone(dtype=precision, remat=remat))


def _own_meaning(template: Template) -> str:
    """What a genome means beyond the stages; empty for a template that leaves all of it out."""
    own = [(stage.widths, stage.kernels, stage.expands) for stage in template.stages]
    rest = (template.stem_widths, template.head_widths, template.alike, template.shortcuts)
    return repr((own, rest)) if any(map(any, own)) or any(rest) else ""
