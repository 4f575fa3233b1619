"""The space of paths of a dynamic slimmable network: a gene for each slimming head, whose choices are its ratios.

A path is a genome of an ordinary space, its net an ordinary arch, its variables the leading channels of the widest path's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from dynnas_jax.elastic import Block, Supernet
from dynnas_jax.networks.chains import ChainNet
from dynnas_jax.networks.gate import HEADS, GateSpec
from dynnas_jax.networks.mbconv import Numerics
from dynnas_jax.networks.slimmable_blocks import Arch, BlockSpec
from dynnas_jax.networks.template import form_here
from dynnas_jax.search_space import Gene, SearchSpace


@dataclass(frozen=True)
class Width:
    """Channels of a layer: one number, or one for each choice of a gate."""

    choices: tuple[int, ...]
    gene: str = ""  # of the gate; empty for one number

    def at(self, index: dict[str, int]) -> int:
        """Channels where the gates chose these indices."""
        return self.choices[index[self.gene]] if self.gene else self.choices[0]

    def times(self, factor: int) -> Width:
        """So many times the channels."""
        return replace(self, choices=tuple(factor * channels for channels in self.choices))


@dataclass(frozen=True)
class Link:
    """One link of the chain, its widths open."""

    name: str
    spec: BlockSpec  # whose widths are filled in
    inner: Width
    out: Width
    gate: str = ""  # the gene that the gate at its start decides


@dataclass(frozen=True)
class Template:
    """What a dynamic slimmable network fixes, and what its gates leave open."""

    base: Arch  # without blocks
    links: tuple[Link, ...]
    ratios: tuple[tuple[str, tuple[float, ...]], ...]  # of each gate, in order: its gene and the choices

    def decode(self, genome: Sequence[int]) -> Arch:
        """The arch of a path."""
        index = {gene: int(choice) for (gene, _), choice in zip(self.ratios, genome, strict=True)}
        blocks = tuple(
            (link.name, replace(link.spec, inner=link.inner.at(index), out=link.out.at(index))) for link in self.links
        )
        return replace(self.base, blocks=blocks)

    def genes_of(self) -> dict[str, tuple[str, ...]]:
        """The genes that size each block of the chain, by its name."""
        found, before = {"stem": ()}, ""
        for link in self.links:
            found[link.name] = tuple(dict.fromkeys(gene for gene in (before, link.inner.gene, link.out.gene) if gene))
            before = link.out.gene
        return found | {"head": (before,) if before else ()}


class Segment(NamedTuple):
    """What runs between two gates."""

    blocks: tuple[str, ...]
    gene: int  # of the gate at its start; -1 for the first, which has none
    gate: GateSpec | None = None


@dataclass(frozen=True)
class Decoder:
    """From genomes to archs: what a supernet of this file has as its `arch`."""

    template: Template
    space: SearchSpace

    def __call__(self, genome: np.ndarray) -> Arch:
        """The arch of a genome. Raises ValueError for one that is not of this space."""
        return self.template.decode(self.space.check(genome).tolist())

    def file(self, genome: np.ndarray) -> dict[str, Any]:
        """A genome as the content of an arch file: the ratio that every gate picks."""
        return {"ratios": list(self.space.values(genome).values())}

    def from_file(self, content: dict) -> Arch:
        """The arch of an arch file. Raises ValueError for another key, or a ratio that a gate does not have."""
        ratios = content.get("ratios") if isinstance(content, dict) else None
        if not isinstance(ratios, list) or set(content) != {"ratios"} or len(ratios) != len(self.space.genes):
            raise ValueError(f'arch file: give {{"ratios": [...]}} with {len(self.space.genes)} numbers, one a gate')
        genome = []
        for gene, ratio in zip(self.space.genes, ratios, strict=True):
            if ratio not in gene.choices:
                raise ValueError(f"arch file: {gene.name} is {ratio!r}, choose from {list(gene.choices)}")
            genome.append(gene.choices.index(ratio))
        return self(np.asarray(genome, np.int32))

    @functools.cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The chain, divided at its slimming heads."""
        names, genes, gates = [["stem"]], [-1], [None]
        for link in self.template.links:
            if link.gate:
                names.append([])
                genes.append(self.space.index(link.gate))
                gates.append(link.spec.gate)
            names[-1].append(link.name)
        names[-1].append("head")
        return tuple(Segment(tuple(own), *rest) for own, *rest in zip(names, genes, gates, strict=True))


def build(template: Template, depthwise: str = "conv") -> Supernet:
    """The supernet of a template.

    Raises:
      ValueError: for no gate, ratios that not exactly one gate decides, or several gates with batch norm, whose statistics are
        kept by path.
    """
    if not template.ratios:
        raise ValueError("a dynamic slimmable network has at least one gate")
    gates = [link.gate for link in template.links]
    for gene, _ in template.ratios:
        if gates.count(gene) != 1:
            raise ValueError(f"{gene} is decided by {gates.count(gene)} gates, must be by one")
    if len(template.ratios) > 1 and not template.base.stem_group:
        raise ValueError("several gates need norm='group': batch norm has statistics of its own for every path")
    fixed = {name: value for name, value in vars(template.base).items() if name not in ("mean", "std")}
    genes = tuple(Gene(gene, choices) for gene, choices in template.ratios)
    space = SearchSpace(genes, meaning=repr((fixed, template.links)))
    net = functools.partial(ChainNet, depthwise=form_here(depthwise))
    return Supernet(space, Decoder(template, space), net, functools.partial(_blocks, template.genes_of()))


def _blocks(genes: dict[str, tuple[str, ...]], arch: Arch) -> tuple[Block, ...]:
    chain = arch.chain(Numerics(epsilon=arch.epsilon, padding=arch.padding))
    return tuple(block._replace(genes=genes[block.name]) for block in chain)


def checked_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """The ratios. Raises ValueError for fewer than two, one not finite and above 0, or an order that does not ascend."""
    given = tuple(ratios)
    if len(given) < 2 or not all(
        isinstance(r, (int, float)) and not isinstance(r, bool) and 0 < r < float("inf") for r in given
    ):
        raise ValueError(f"ratios is {given}, must be at least two finite numbers above 0")
    if list(given) != sorted(set(given)):
        raise ValueError(f"ratios is {given}, must ascend without repeats")
    return tuple(float(ratio) for ratio in given)


def sliced_width(channels: int, ratios: tuple[float, ...], gene: str, group: int, what: str) -> Width:
    """Channels at every ratio. Raises ValueError where one is not whole, or cuts a group of a group norm."""
    found = []
    for ratio in ratios:
        width = channels * ratio
        if abs(width - round(width)) > 1e-6 or round(width) < 1 or (group and round(width) % group):
            unit = f"groups of {group} channels" if group else "whole channels"
            raise ValueError(f"ratio {ratio} of the {channels} channels of {what} is {width:g}, which is not {unit}")
        found.append(round(width))
    return Width(tuple(found), gene)


def check_gates(gate_head: str, gate_shared: bool) -> None:
    """Raises ValueError for an unknown slimming head, or a layer that is neither shared nor not."""
    if gate_head not in HEADS:
        raise ValueError(f"gate_head is {gate_head!r}, choose from {list(HEADS)}")
    if not isinstance(gate_shared, bool):
        raise ValueError(f"gate_shared is {gate_shared!r}, must be True or False")
