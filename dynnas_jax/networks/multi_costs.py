"""What nets of several exits cost, exit by exit, as tables over their genomes; and genomes without what costs for nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.elastic import Supernet
from dynnas_jax.networks.multi_space import ExitSpace, gene
from dynnas_jax.search_space import SearchSpace


def by_exit(supernet: Supernet, blocks: Iterable[str]) -> list[list[str]]:
    """The names of the blocks of a net in order, in a list for each exit, which ends with the exit's own."""
    found: list[list[str]] = [[]]
    for name in blocks:
        found[-1].append(name)
        if name in supernet.exits:
            found.append([])
    return found[:-1]


def exit_tables(supernet: Supernet, whole: macs.CostTable | None = None) -> tuple[macs.CostTable, ...]:
    """Of every exit the table of all that a genome costs up to its answer, the heads of the exits before it too.

    Args:
      whole: of the whole net, MACs if None; every exit is a call of its own, and has its overhead.
    """
    whole, names, found = whole or macs.table(supernet), set(), []
    for exit, own in enumerate(by_exit(supernet, (row.position.name for row in whole.rows)), 1):
        names |= set(own)
        found.append(whole.only(names, exit * whole.overhead))
    return tuple(found)


def spent(supernet: Supernet, tables: Sequence[macs.CostTable] | None = None) -> Callable[[np.ndarray], list[float]]:
    """genome -> all that is spent up to each exit, by its `settled` net and the `exit_tables`, of MACs if None."""
    tables = tables or exit_tables(supernet)

    def cost(genome: np.ndarray) -> list[float]:
        genome = settled(supernet, genome)
        return [table.exact(genome) for table in tables]

    return cost


def least(supernet: Supernet, table: macs.CostTable) -> int | float:
    """The least that any genome costs by a table of the first exit, whose choices are free of each other but for the resolution.

    Of measured blocks that need not be the smallest genome's.
    """
    space, total = supernet.space, 0
    resolutions = space.sizes[space.index("resolution")] if "resolution" in space else 1
    for position, costs in table.rows:  # the resolution is the first of a row's genes
        skipped = position.depth is not None and position.depth[1] > 0
        total = total + (0 if skipped else costs.reshape(resolutions, -1).min(axis=1))
    return np.min(total).item() + table.overhead


def settled(supernet: Supernet, genome: np.ndarray) -> np.ndarray:
    """int32[genes]: the genome of the same answers without what no answer hangs on (see `multi_exit.Arch.live_exits`).

    Exits beyond the live ones of a stage have there what the last live one has, and so add nothing.
    """
    space: SearchSpace = supernet.space
    if not isinstance(space, ExitSpace):
        return np.array(genome, np.int32)  # one fixed net
    genome, live = np.array(genome, np.int32), supernet.arch(genome).live_exits()
    for stage in space.stages:
        last = live[stage.name]
        places = [("depth", None), *((what, i) for what in ("kernel", "ratio") for i in range(len(stage.blocks)))]
        for exit, (what, block) in itertools.product(range(last + 1, space.exits + 1), places):
            if (name := gene(exit, stage.name, what, block)) in space:
                genome[space.index(name)] = genome[space.index(gene(last, stage.name, what, block))]
    return genome
