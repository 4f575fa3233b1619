"""The space of nets of several exits: what each exit chooses, and the order that depths and ratios keep from exit to exit.

Sampling, mutating and crossing put the choices in order, so that nothing is rejected.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.search_space import Gene, SearchSpace, first_equal


class BlockChoices(NamedTuple):
    """What every exit chooses of a block."""

    kernels: tuple[int, ...]
    ratios: tuple[float, ...]  # of the hidden channels, those of the exits before included
    hidden: tuple[int, ...]  # channels that each of them gives


class StageChoices(NamedTuple):
    """What every exit chooses of a stage."""

    name: str
    depths: tuple[int, ...]
    blocks: tuple[BlockChoices, ...]  # as many as the greatest depth

    def gate(self, block: int) -> int:
        """The first of the depths that have a block."""
        return next(i for i, depth in enumerate(self.depths) if depth > block)


def gene(exit: int, stage: str, what: str, block: int | None = None) -> str:
    """The name of a gene of exit `exit`, from 1: the "depth" of a stage, the "kernel" or the "ratio" of one of its blocks."""
    return f"exit{exit}.{stage}.{what}" if block is None else f"exit{exit}.{stage}.block{block}.{what}"


class _Follower(NamedTuple):
    """Indices of genes, -1 for a choice that is none, of a block of an exit behind another one."""

    kernel: int
    ratio: int
    ratio_before: int
    depth_before: int
    gate: int  # from which index of the depth on the exit before has the block


@dataclass(frozen=True)
class ExitSpace(SearchSpace):
    """Genes of every exit, of which depths and ratios never decrease from one exit to the next.

    A genome that is out of order is not of this space. Kernels and ratios of blocks that an exit skips do not count, nor do
    kernels where its ratio is that of the exit before, so that it computes no channels.
    """

    exits: int = 1
    stages: tuple[StageChoices, ...] = ()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @functools.cached_property
    def chains(self) -> tuple[tuple[int, ...], ...]:
        """The indices, by exit, of the genes whose choices must not decrease."""
        found = []
        for stage in self.stages:
            names = [("depth", None), *(("ratio", block) for block in range(len(stage.blocks)))]
            for what, block in names:
                chain = [gene(exit, stage.name, what, block) for exit in range(1, self.exits + 1)]
                found += [tuple(map(self.index, chain))] if chain[0] in self else []
        return tuple(found)

    @functools.cached_property
    def _chain_array(self) -> np.ndarray:
        return np.asarray(self.chains, np.int32).reshape(-1, self.exits)

    def ordered(self, genome: jax.Array) -> jax.Array:
        """int32[..., genes]: the choices of each chain dealt out to the exits from the least to the greatest."""
        genome = jnp.asarray(genome, jnp.int32)
        return genome.at[..., self._chain_array].set(jnp.sort(genome[..., self._chain_array], axis=-1))

    def lowered(self, genome: np.ndarray) -> np.ndarray:
        """int32[genes]: of each chain no choice above those of later exits."""
        genome = np.array(genome, np.int32)
        backwards = genome[self._chain_array][:, ::-1]
        genome[self._chain_array] = np.minimum.accumulate(backwards, axis=1)[:, ::-1]
        return genome

    def sample(self, key: jax.Array, count: int | None = None, least: jax.Array | None = None) -> jax.Array:
        """Uniform genomes put in order: int32[count, genes], or int32[genes] without `count`.

        No index is below `least` int32[genes], a genome of this space.
        """
        return self.ordered(super().sample(key, count, least))

    def mutate(self, key: jax.Array, genome: jax.Array, probability: float | jax.Array) -> jax.Array:
        """int32[genes]: each gene drawn anew with `probability`, then put in order."""
        return self.ordered(super().mutate(key, genome, probability))

    def crossover(self, key: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        """int32[genes]: each gene from one of the two parents by a fair coin, one for all exits where they keep an order."""
        thrown = np.arange(len(self.genes))
        for chain in self.chains:
            thrown[list(chain)] = chain[0]
        coin = jax.random.bernoulli(key, 0.5, first.shape)
        return jnp.where(coin[thrown], first, second)

    @functools.cached_property
    def _followers(self) -> np.ndarray:
        """int32[n, 5]: a `_Follower` for every block of every exit behind the first whose kernel is a gene."""
        at = lambda name: self.index(name) if name in self else -1  # noqa: E731
        found = []
        for exit, stage in itertools.product(range(2, self.exits + 1), self.stages):
            for block in range(len(stage.blocks)):
                if (kernel := at(gene(exit, stage.name, "kernel", block))) >= 0:
                    ratios = (at(gene(e, stage.name, "ratio", block)) for e in (exit, exit - 1))
                    depth = at(gene(exit - 1, stage.name, "depth"))
                    found.append(_Follower(kernel, *ratios, depth, stage.gate(block)))
        return np.asarray(found, np.int32).reshape(-1, 5)

    def _resolve(self, genome: jax.Array) -> tuple[jax.Array, jax.Array]:
        merged, counts = super()._resolve(genome)
        kernel, ratio, ratio_before, depth_before, gate = self._followers.T
        there = jnp.asarray(depth_before < 0) | (merged[depth_before] >= jnp.asarray(gate))
        none = there & (jnp.asarray(ratio < 0) | (merged[ratio] == merged[ratio_before]))
        return merged, counts.at[kernel].set(counts[kernel] & ~none)

    def size(self) -> int:
        """Exact number of distinct nets: all depths in order, and for each all ratios in order, block by block."""
        first = self.genes[0] if self.genes else None
        total = len(first.choices) if first and first.name == "resolution" else 1
        for stage in self.stages:
            ways = [[_block_ways(block, exits) for exits in range(self.exits + 1)] for block in stage.blocks]
            number = 0
            for depths in itertools.combinations_with_replacement(stage.depths, self.exits):
                having = [sum(depth > block for depth in depths) for block in range(len(stage.blocks))]
                number += int(np.prod([ways[b][n] for b, n in enumerate(having)], dtype=object))
            total *= number
        return total

    def count(self, subnets: int, allowed) -> int:
        """Raises ValueError: only single nets of several exits are counted, by `size`."""
        raise ValueError(f"tuples of {subnets} nets of several exits are not counted")

    def check(self, genome: Sequence[int] | np.ndarray) -> np.ndarray:
        """The genome as int32[genes].

        Raises:
          ValueError: for a wrong length, an index out of range, or a depth or ratio below that of the exit before.
        """
        array = super().check(genome)
        for before, own in (pair for chain in self.chains for pair in itertools.pairwise(chain)):
            if array[own] < array[before]:
                values = [self.genes[i].choices[array[i]] for i in (own, before)]
                raise ValueError(
                    f"genome: {self.genes[own].name} is {values[0]}, must not be below the {values[1]} of exit "
                    f"{self.genes[before].name.removeprefix('exit').partition('.')[0]}"
                )
        return array

    def from_json(self, data: dict) -> np.ndarray:
        """int32[genes] of a genome file. Raises ValueError as that of any space, and as `check`."""
        return self.check(super().from_json(data))


def _block_ways(block: BlockChoices, exits: int) -> int:
    """Distinct ways in which so many exits, in order, share a block: kernels count where channels are added."""
    different = sorted(set(block.hidden))
    chosen = itertools.combinations_with_replacement(different, exits)
    return sum(len(block.kernels) ** len(set(hidden)) for hidden in chosen)


def space(
    exits: int, stages: tuple[StageChoices, ...], resolutions: tuple[int, ...], divisor: int, meaning: str
) -> ExitSpace:
    """The space of these choices; a choice with one value is no gene."""
    found = [Gene("resolution", resolutions)]
    for stage in stages:
        found += [Gene(gene(exit, stage.name, "depth"), stage.depths) for exit in range(1, exits + 1)]
        for number, block in enumerate(stage.blocks):
            equal = first_equal(block.hidden)
            merged = (equal,) if equal != tuple(range(len(equal))) else None
            for exit in range(1, exits + 1):
                gate = stage.gate(number)
                needs = (gene(exit, stage.name, "depth"), gate) if gate else None
                found.append(Gene(gene(exit, stage.name, "kernel", number), block.kernels, needs))
                found.append(Gene(gene(exit, stage.name, "ratio", number), block.ratios, needs, merged=merged))
    genes = tuple(one for one in found if len(one.choices) > 1)
    # Stages of which nothing is a gene mean something all the same.
    return ExitSpace(genes, divisor, repr((meaning, exits, stages)), exits, stages)
