"""Supernets of nets of several exits, made of spaces of MBConv nets such as once-for-all's, and their arch files and costs.

The hidden channels of any exit are leading ones of the largest block's, so that all subnets have one set of weights: an exit
computes those that the exits before it have not.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dynnas_jax.elastic import Block, Part, Supernet
from dynnas_jax.networks import arch_files, multi_space, ofa
from dynnas_jax.networks.exits import ExitNet
from dynnas_jax.networks.mbconv import Numerics
from dynnas_jax.networks.multi_exit import Arch, block_name, check_number
from dynnas_jax.networks.multi_space import BlockChoices, ExitSpace, StageChoices, gene
from dynnas_jax.networks.multi_stage import REUSE
from dynnas_jax.networks.template import Template
from dynnas_jax.search_space import Gene

EXITS = 3
RATIOS = (1 / 2, 2 / 3, 1.0)
RESOLUTIONS = tuple(range(128, 225, 16))
# Modules of an exit's part of a block, and the axis of their leaves along which its channels begin where they do in the block.
_SHARED = (
    (("expand_conv",), -1),
    (("expand_norm",), -1),
    (("depthwise_conv",), -1),
    (("depthwise_norm",), -1),
    (("se", "expand_conv"), -1),
    (("project_conv",), -2),
)
_WHOLE = (("se", "reduce_conv"),)  # read all channels so far
_SAID_OTHERWISE = ("image_size", "resolutions", "depthwise", "kernel_transforms")
BASES = {"ofa_mobilenet_v3": ofa.ofa_mobilenet_v3, "small_images": ofa.small_images}


@dataclass(frozen=True)
class Decoder:
    """From genomes and arch files to archs: what a supernet of this file has as its `arch`."""

    template: Template
    space: ExitSpace
    ratios: tuple[float, ...]
    reuse: tuple[str, ...] = ()

    def __call__(self, genome: np.ndarray) -> Arch:
        """The arch of a genome. Raises ValueError for one that is not of this space."""
        return self.from_file(self.file(genome))

    def file(self, genome: np.ndarray) -> dict[str, Any]:
        """A genome as the content of an arch file: of each exit, by stage, the kernels and ratios of the blocks it has."""
        values = self.space.values(genome)
        content: dict[str, Any] = {"kernel": [], "ratio": []}
        for exit in range(1, self.space.exits + 1):
            for what, lists in content.items():
                lists.append([self._chosen(values, exit, stage, what) for stage in self.space.stages])
        return {"resolution": values.get("resolution", self.template.resolutions[-1]), **content}

    def _chosen(self, values: dict[str, float], exit: int, stage: StageChoices, what: str) -> list[float]:
        depth = values.get(gene(exit, stage.name, "depth"), stage.depths[-1])
        return [
            values.get(gene(exit, stage.name, what, i), getattr(block, f"{what}s")[-1])
            for i, block in enumerate(stage.blocks[:depth])
        ]

    def from_file(self, content: dict[str, Any]) -> Arch:
        """The arch of {"resolution", "kernel", "ratio"}; the resolution is free, all else among the choices.

        Raises:
          ValueError: as `arch_files.read_exits`, for lists that do not fit the stages, a value that is no choice, or what
            decreases from exit to exit.
        """
        resolution, kernels, ratios = arch_files.read_exits(content, self.space.exits)
        made = enumerate(zip(kernels, ratios, strict=True), 1)
        exits = tuple(self._exit(resolution, exit, *both) for exit, both in made)
        there = {name for name, _ in exits[-1].named_blocks()}
        return Arch(exits, tuple(name for name in self.reuse if name in there))

    def _exit(self, resolution: int, exit: int, kernels: list, ratios: list) -> Any:
        """One exit's arch, an MBConv net's."""
        stages, chosen, expands = self.space.stages, [], []
        if not len(kernels) == len(ratios) == len(stages):
            raise ValueError(f"exit {exit} must have {len(stages)} lists of kernels and of ratios, one per stage")
        for i, (stage, own, parts) in enumerate(zip(stages, kernels, ratios, strict=True), 1):
            if len(own) not in stage.depths or len(parts) != len(own):
                raise ValueError(
                    f"exit {exit} has {len(own)} kernels and {len(parts)} ratios in {stage.name}, choose a depth from "
                    f"{list(stage.depths)}"
                )
            known = stage.blocks[0].kernels
            if unknown := [kernel for kernel in own if kernel not in known]:
                raise ValueError(f"exit {exit}: kernel {unknown[0]!r} in {stage.name}, choose from {list(known)}")
            chosen.append([known[known.index(kernel)] for kernel in own])  # 3 for a file's 3.0
            largest = max(self.template.choices(i, "expands"))
            expands.append([largest * self._ratio(exit, stage.name, part) for part in parts])
        return self.template.decode(resolution, largest_widths(self.template), chosen, expands)

    def _ratio(self, exit: int, stage: str, value: float) -> float:
        """The choice that a file's ratio means: 0.667 is two thirds."""
        near = min(self.ratios, key=lambda ratio: abs(ratio - value))
        if not abs(near - value) <= 0.005:  # neither is a NaN a choice
            known = ", ".join(f"{ratio:.3g}" for ratio in self.ratios)
            raise ValueError(f"exit {exit}: ratio {value!r} in {stage}, choose from {known}")
        return near


def largest_widths(template: Template) -> list[float]:
    """The greatest choice of every width, which all nets of several exits have."""
    return [choices[-1] for choices in template.width_places().values()]


def build(
    supernet: Supernet, *, exits: int = EXITS, ratios: tuple[float, ...] = RATIOS, reuse: tuple[str, ...] = ()
) -> Supernet:
    """The supernet of nets of several exits on the blocks of a space of MBConv nets, in their largest width and expansion.

    Kernels, depths and resolutions are the space's; `ratios` are those of a block's hidden channels that an exit has with those
    before it. Its form of depthwise convolutions and its learning of kernel transforms are kept.

    Args:
      reuse: blocks, such as "stage2_block0", whose expansion in each exit reads the maps of the exits before it too, by weights
        of its own, of which an exit has those for its channels.

    Raises:
      ValueError: for no exit or more than five, ratios that do not ascend to 1, a space whose blocks exits cannot share, or a
        block that is none.
    """
    check_number(exits)
    if isinstance(reuse, str):
        raise ValueError(f"reuse is {reuse!r}, must be a tuple of blocks, such as ({reuse!r},)")
    if not hasattr(supernet.arch, "template"):
        raise ValueError(
            "multi_exit.network is of residual nets, on which no nets of several exits are made; choose another"
        )
    ratios, template, reuse = tuple(float(ratio) for ratio in ratios), supernet.arch.template, tuple(reuse)
    if not ratios or ratios[-1] != 1 or ratios[0] <= 0 or list(ratios) != sorted(set(ratios)):
        raise ValueError(f"ratios is {ratios}, must ascend from above 0 to 1")
    if template.alike or template.shortcuts:
        raise ValueError("exits share plain inverted-residual blocks only, and this space has others")
    stages = tuple(_stage_choices(template, number, ratios) for number in range(1, len(template.stages) + 1))
    # How images are normalised does not change what a genome is.
    fixed = {name: value for name, value in vars(template.base).items() if name not in ("mean", "std")}
    meaning = repr((fixed, template.stages, largest_widths(template), *((reuse,) if reuse else ())))
    space = multi_space.space(exits, stages, template.resolutions, template.divisor, meaning)
    arch = Decoder(template, space, ratios, reuse)
    largest = replace(arch(space.largest), reuse=reuse)  # which refuses a block that there is not
    names = [
        f"{stage.name}_block{i}"
        for stage in stages
        for i, block in enumerate(stage.blocks)
        if len(set(block.hidden)) > 1 or stage.gate(i)
    ]
    spread = replace(largest, spread=tuple(names)) if names and exits > 1 else None
    net = functools.partial(ExitNet, depthwise=supernet.largest_net().depthwise)
    blocks = functools.partial(_blocks, space)
    names = tuple(block_name(exit, "head") for exit in range(1, exits + 1))
    whole = replace(largest, held=reuse) if reuse and exits > 1 else None
    return Supernet(space, arch, net, blocks, whole, supernet.transforms, spread=spread, exits=names)


def _stage_choices(template: Template, number: int, ratios: tuple[float, ...]) -> StageChoices:
    """What exits choose of elastic stage `number`, from 1."""
    stage, largest = template.stages[number - 1], max(template.choices(number, "expands"))
    before, own = (template.stage_out(n, template.choices(n, "widths")[-1]) for n in (number - 1, number))
    kernels = template.choices(number, "kernels")
    blocks = []
    for i in range(max(stage.depths)):
        hidden = tuple(template.hidden(own if i else before, largest * ratio) for ratio in ratios)
        blocks.append(BlockChoices(kernels, ratios, hidden))
    return StageChoices(f"stage{number}", stage.depths, tuple(blocks))


def _blocks(space: ExitSpace, arch: Arch) -> tuple[Block, ...]:
    """The arch's chain, exit after exit, each block with the genes that size it and where its leaves are in the supernet."""
    stages, found = {stage.name: stage for stage in space.stages}, []
    for exit, segment in enumerate(arch.segments(Numerics(epsilon=arch.epsilon, padding=arch.padding)), 1):
        starts = {name: start for name, _, start in arch.parts(exit)}
        for block in (*segment.blocks, segment.exit):
            name = block.name.removeprefix(f"exit{exit}_")
            stage, _, index = name.partition("_block")
            if stage in stages:
                block = _sized(block, space, exit, stages[stage], int(index))
            if exit > 1 and name in starts:
                home = block_name(1, name)
                parts = [Part(path, home, starts[name], axis) for path, axis in _SHARED]
                parts.append(Part((REUSE,), block.name, starts[name], channels=(home, "expand_conv")))
                block = block._replace(parts=(*parts, *(Part(path, home) for path in _WHOLE)))
            found.append(block)
    return tuple(found)


def _sized(block: Block, space: ExitSpace, exit: int, stage: StageChoices, index: int) -> Block:
    """A block with its genes: its own kernel and ratio, and what tells where the channels of the exit before end."""
    if index >= stage.depths[-1]:
        raise ValueError(f"the arch has a {stage.name}_block{index}, the supernet has none")
    gate, own = stage.gate(index), [gene(exit, stage.name, what, index) for what in ("kernel", "ratio")]
    if exit > 1:
        own.append(gene(exit - 1, stage.name, "ratio", index))
        own += [gene(exit - 1, stage.name, "depth")] if gate else []
    depth = (gene(exit, stage.name, "depth"), gate) if gate else None
    return block._replace(genes=tuple(name for name in own if name in space), depth=depth)


def once_for_all(
    *,
    width: float = 1.0,
    classes: int = 1000,
    resolutions: tuple[int, ...] = RESOLUTIONS,
    exits: int = EXITS,
    ratios: tuple[float, ...] = RATIOS,
    reuse: tuple[str, ...] = (),
    depthwise: str = "conv",
    kernel_transforms: bool = False,
    **options,
) -> Supernet:
    """ENAS4D's space, on once-for-all's MobileNetV3: per exit depths {2, 3, 4}, kernels {3, 5, 7} and cumulative ratios.

    Raises:
      ValueError: as `ofa.ofa_mobilenet_v3` and `build`.
    """
    of_one = ofa.ofa_mobilenet_v3(
        width=width,
        classes=classes,
        resolutions=resolutions,
        depthwise=depthwise,
        kernel_transforms=kernel_transforms,
        **options,
    )
    return build(of_one, exits=exits, ratios=ratios, reuse=reuse)


def multi_exit(
    *,
    network: str = "ofa_mobilenet_v3",
    resolution: int = 0,
    classes: int = 0,
    exits: int = EXITS,
    ratios: tuple[float, ...] = RATIOS,
    kernel: tuple[tuple[tuple[int, ...], ...], ...] = (),
    ratio: tuple[tuple[tuple[float, ...], ...], ...] = (),
    reuse: tuple[str, ...] = (),
    width: float | None = None,
    **options,
) -> ExitNet:
    """A net of several exits on a space's blocks: of each exit, by stage, kernels and cumulative ratios of the blocks it has.

    By default depths, kernels and ratios grow evenly from the least, of the first exit, to the greatest, of the last.

    Args:
      network: "ofa_mobilenet_v3", as in ENAS4D, or "small_images".
      resolution: in pixels; 0 for the network's largest.
      classes: 0 for as many as the network has.
      ratios: that the lists of `ratio` choose from.
      reuse: blocks, such as "stage2_block0", whose expansion in each exit reads the feature maps of the exits before it too.
      width: of "ofa_mobilenet_v3", by default its least.
      options: of the network's function (see `passed_on`), and of any MBConv net.

    Raises:
      ValueError: for what the space does not have, or what decreases from exit to exit.
    """
    check_number(exits)
    supernet = build(
        _base(network, resolution, classes, width, options), exits=exits, ratios=ratios, reuse=tuple(reuse)
    )
    if not kernel and not ratio:
        genes = supernet.space.genes
        genome = [len(one.choices) - 1 if one.name == "resolution" else _grown(one, exits) for one in genes]
        return supernet.net(supernet.arch(np.asarray(genome, np.int32)))
    resolution = supernet.arch.template.resolutions[-1]
    return supernet.net(supernet.arch.from_file({"resolution": resolution, "kernel": kernel, "ratio": ratio}))


def passed_on(options: Any) -> dict[str, inspect.Parameter]:
    """Parameters of the space that options of `multi_exit` name which these may hold too; none where there is no such space.

    What it says itself is not among them, nor how small kernels come out of large ones, which a net has no use for.
    """
    own = inspect.signature(multi_exit).parameters
    network = options.get("network", own["network"].default) if isinstance(options, dict) else None
    if network not in list(BASES):
        return {}
    found = inspect.signature(BASES[network], eval_str=True).parameters.values()
    kept = [one for one in found if one.kind is one.KEYWORD_ONLY and one.name not in {*own, *_SAID_OTHERWISE}]
    return {one.name: one for one in kept}


def _base(network: str, resolution: int, classes: int, width: float | None, options: dict) -> Supernet:
    """The space of MBConv nets that `multi_exit` names. Raises ValueError for one there is not."""
    if network not in BASES:
        raise ValueError(f"network is {network!r}, choose from {list(BASES)}")
    of_once_for_all = network == "ofa_mobilenet_v3"
    if width is not None and not of_once_for_all:
        raise ValueError(f"width is {width!r}, but {network} comes in one; give its options")
    given = {"classes": classes} if classes else {}
    given |= {} if width is None else {"width": width}
    if resolution:
        given |= {"resolutions": (resolution,)} if of_once_for_all else {"image_size": resolution}
    return BASES[network](**given, **options)


def _grown(one: Gene, exits: int) -> int:
    """The index of a gene's choice where all grow evenly from exit to exit."""
    exit, last = int(one.name.removeprefix("exit").partition(".")[0]), len(one.choices) - 1
    return last * (exit - 1) // (exits - 1) if exits > 1 else last
