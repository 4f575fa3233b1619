"""Multi-stage networks of several exits: each exit goes on from what those before it computed (ENAS4D, arXiv 2009.09182).

An arch is one MBConv arch an exit: what the exit's net would be if it computed all of it alone. Exits of one arch differ in their
kernels and, from exit to exit no smaller, in the channels of the stem, the hidden channels of every block and the depth of every
stage. An exit computes the channels that those before it have not, from its own maps, adds them up with theirs, and has norms and
a head of its own. A block that an exit skips is left, all its channels, to the next exit that has it.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

from dynnas_jax.elastic import Block
from dynnas_jax.networks import mbconv
from dynnas_jax.networks.chains import check_counts
from dynnas_jax.networks.exits import Segment, unchanged
from dynnas_jax.networks.mbconv import BlockSpec, Numerics
from dynnas_jax.networks.multi_stage import Left, MBConvPart, StemPart

MOST_EXITS = 5


def block_name(exit: int, name: str) -> str:
    """The name, in a net's variables, of exit `exit`'s (from 1) part of a block of an MBConv net; its head is the exit itself."""
    return f"exit{exit}" if name == "head" else f"exit{exit}_{name}"


def _common(name: str) -> property:
    """A field that every exit's arch has alike."""
    return property(lambda arch: getattr(arch.exits[-1], name))


@dataclass(frozen=True)
class Arch:
    """A whole net of several exits; hashable, static under jit.

    Where an exit computes no channels of a block, its kernel there is that of the exit before: the same net is one arch.

    Raises:
      ValueError: for no exit or more than five, for depths, hidden channels or stems that decrease, or exits that differ in
        what they must have in common.
    """

    exits: tuple[mbconv.Arch, ...]
    # Blocks, by their names in an MBConv net:
    reuse: tuple[str, ...] = ()  # whose expansion reads the maps of earlier exits too
    spread: tuple[str, ...] = ()  # of which every exit computes all channels, for a supernet's masked variables
    held: tuple[str, ...] = ()  # that have the weights of their input reuse, though nothing is computed with them

    def __post_init__(self):
        check_number(len(self.exits))
        _check_images(self.exits[-1])
        for number, (arch, before) in enumerate(zip(self.exits, (None, *self.exits), strict=False), 1):
            _check_exit(number, arch, before)
        object.__setattr__(self, "exits", tuple(itertools.accumulate(self.exits, _settled)))
        known = {name for name, spec in self.exits[-1].named_blocks() if spec.expand}
        if unknown := sorted(set(self.reuse) - known):
            raise ValueError(f"there is no block {unknown[0]!r} whose inputs could be reused, only {', '.join(known)}")
        for number, arch in enumerate(self.exits, 1):
            if empty := [name for name, specs in arch.stages if not specs and f"{name}_block0" in self.reuse]:
                raise ValueError(f"exit {number} has no block in {empty[0]}, whose first one is to reuse its maps")

    # What all exits have in common.
    resolution, classes, channels = map(_common, ("resolution", "classes", "channels"))
    epsilon, padding, mean, std = map(_common, ("epsilon", "padding", "mean", "std"))

    def parts(self, exit: int) -> list[tuple[str, BlockSpec, int]]:
        """(name in an MBConv net, spec, first of the hidden channels it computes) of the blocks of an exit, from 1."""
        before = dict(self.exits[exit - 2].named_blocks()) if exit > 1 else {}
        found = []
        for name, spec in self.exits[exit - 1].named_blocks():
            start = before[name].hidden if name in before and name not in self.spread else 0
            found.append((name, spec, start))
        return found

    def live_exits(self) -> dict[str, int]:
        """By stage, how many of the exits, from the first on, compute in it what some answer hangs on.

        An exit that adds nothing to a stage's first block, where that has no shortcut, goes on from sums that are there already:
        its own maps of the stages before are read by nobody, unless a later exit adds up with them.
        """
        live, found = len(self.exits), {}
        for place in reversed(range(len(self.exits[-1].stages))):
            name, specs = self.exits[-1].stages[place]
            found[name] = live
            if not specs or specs[0].shortcut:
                continue
            hidden = [arch.stages[place][1][0].hidden for arch in self.exits[:live]]
            live = max(exit for exit in range(1, live + 1) if exit == 1 or hidden[exit - 1] > hidden[exit - 2])
        return found

    def segments(self, numerics: Numerics) -> tuple[Segment, ...]:
        """Per exit its parts of the stem and the blocks, and its head."""
        return tuple(self._segment(exit, numerics) for exit in range(1, len(self.exits) + 1))

    def chain(self, numerics: Numerics) -> tuple[Block, ...]:
        """The blocks from images to the logits of the last exit, without the exits before it."""
        segments = self.segments(numerics)
        return (*(block for segment in segments for block in segment.blocks), segments[-1].exit)

    def _segment(self, exit: int, numerics: Numerics) -> Segment:
        arch, name, made = self.exits[exit - 1], block_name(exit, "stem"), []
        stem, part, head = (numerics.remade(module) for module in (StemPart, MBConvPart, mbconv.Head))
        own = arch.stem_out - (self.exits[exit - 2].stem_out if exit > 1 else 0)
        if own:
            last = arch.stem_out == self.exits[-1].stem_out
            module = stem(own, arch.stem_stride, arch.stem_act, arch.mean, arch.std, numerics, name=name)
            made.append(Block(name, module, reads=_images, leaves=functools.partial(_behind_stem, last)))
        for i, (block, spec, start) in enumerate(self.parts(exit)):
            name, reused = block_name(exit, block), (block in self.reuse, block in self.held)
            # Equal parts must be told to be: without channels of its own a part has no kernel.
            spec = spec if spec.hidden > start else replace(spec, kernel=1)
            module = part(spec, start, *reused, arch.se_act, arch.se_gate, numerics, name=name)
            reads = functools.partial(_inputs, block, "maps" if i else "stem")
            leaves = functools.partial(_behind_part, block, self._passed_by(exit, block))
            made.append(Block(name, module, reads=reads, leaves=leaves))
        name = block_name(exit, "head")
        features = (arch.head_features, arch.head_features_bias)
        module = head(arch.head_conv, *features, arch.head_act, arch.classes, numerics, name=name)
        return Segment(tuple(made), Block(name, module, reads=_maps, leaves=unchanged))

    def _passed_by(self, exit: int, block: str) -> tuple[str, ...]:
        """The blocks behind this one that an exit skips, and whose later parts read the maps it has there."""
        stage, _, last = block.partition("_block")
        own, whole = (len(dict(self.exits[of].stages)[stage]) for of in (exit - 1, -1))
        skipped = range(own, whole) if int(last) == own - 1 else ()
        return tuple(name for i in skipped if (name := f"{stage}_block{i}") in self.reuse)


# The carry: the images, then {"stem": what every exit starts from, "maps": the running exit's, a block's name: what is left of
# it, "images": while a later exit still reads them}.


def _images(carry: Any) -> tuple:
    return (carry["images"], carry["stem"]) if isinstance(carry, dict) else (carry, None)


def _behind_stem(last: bool, carry: Any, stem: Any) -> dict:
    kept = carry if isinstance(carry, dict) else {"images": carry}
    return {name: value for name, value in kept.items() if name != "images" or not last} | {"stem": stem}


def _inputs(name: str, source: str, carry: dict) -> tuple:
    return carry[source], carry.get(name)


def _behind_part(name: str, skipped: tuple[str, ...], carry: dict, given: tuple) -> dict:
    maps, left = given
    others = {other: carry.get(other) or Left(None) for other in skipped}
    others = {other: rest._replace(inputs=(*rest.inputs, maps)) for other, rest in others.items()}
    return {**carry, "maps": maps, name: left, **others}


def _maps(carry: dict) -> Any:
    return carry["maps"]


def _settled(before: mbconv.Arch, arch: mbconv.Arch) -> mbconv.Arch:
    """An exit's arch with the kernels of the one before in blocks to which it adds nothing."""
    known, stages = dict(before.named_blocks()), []
    for stage, specs in arch.stages:
        first = [known.get(f"{stage}_block{i}") for i in range(len(specs))]
        pairs = zip(specs, first, strict=True)
        stages.append((stage, tuple(old if old and old.hidden == spec.hidden else spec for spec, old in pairs)))
    return replace(arch, stages=tuple(stages))


# What no such net has.


def check_number(exits: int) -> None:
    """Raises ValueError for a number of exits that no net has."""
    if type(exits) is not int or not 1 <= exits <= MOST_EXITS:
        raise ValueError(f"exits is {exits!r}, choose from 1 to {MOST_EXITS}")


def _check_images(arch: mbconv.Arch) -> None:
    """Raises ValueError for images smaller than the strides, or no classes."""
    least = math.prod(spec.stride for _, spec in arch.named_blocks()) * arch.stem_stride
    if type(arch.resolution) is not int or arch.resolution < least:
        raise ValueError(f"resolution is {arch.resolution!r}, must be an integer of at least {least}")
    check_counts(classes=arch.classes)


def _check_exit(number: int, arch: mbconv.Arch, before: mbconv.Arch | None) -> None:
    """Raises ValueError for blocks that have no parts, or an exit that does not go on from the one before."""
    channels = arch.stem_out
    if not any(specs for _, specs in arch.stages):
        raise ValueError(f"exit {number} has no blocks")
    for name, spec in arch.named_blocks():
        if spec.groups > 1 or spec.depthwise > 1 or spec.shortcut_conv or (spec.shortcut and spec.stride > 1):
            raise ValueError(
                f"{name} has groups, several depthwise convolutions, or a shortcut over a stride or through a convolution; "
                "exits share plain inverted-residual blocks only"
            )
        if not spec.expand and spec.hidden != channels:
            raise ValueError(f"exit {number}: {name} expands nothing and reads {channels} channels, not {spec.hidden}")
        channels = spec.out
    if before is None:
        return
    own = {"stages": (), "stem_out": 0}
    if replace(arch, **own) != replace(before, **own) or [s for s, _ in arch.stages] != [s for s, _ in before.stages]:
        raise ValueError(f"exits {number - 1} and {number} differ in more than kernels, depths and channels")
    _check_growth(number, "channels in the stem", arch.stem_out, before.stem_out, "channels")
    for (stage, specs), (_, earlier) in zip(arch.stages, before.stages, strict=True):
        _check_growth(number, f"blocks in {stage}", len(specs), len(earlier), "depths")
        for i, (spec, first) in enumerate(zip(specs, earlier, strict=False)):
            where = f"{stage}_block{i}"
            _check_growth(number, f"hidden channels in {where}", spec.hidden, first.hidden, "ratios")
            if replace(spec, kernel=first.kernel, hidden=first.hidden, se=first.se) != first or bool(spec.se) != bool(
                first.se
            ):
                raise ValueError(f"{where} of exits {number - 1} and {number} differs in more than kernel and channels")
        for i, spec in list(enumerate(specs))[len(earlier) :]:
            if not spec.shortcut:
                raise ValueError(f"exit {number - 1} skips {stage}_block{i}, which has no shortcut around it")


def _check_growth(number: int, what: str, count: int, before: int, plural: str) -> None:
    if count < before:
        raise ValueError(
            f"exit {number} has {count} {what}, exit {number - 1} {before}: {plural} must not decrease from exit to exit"
        )
