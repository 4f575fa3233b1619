"""What nets of several exits cost, exit by exit, as tables over their genomes; and genomes without what costs for nothing."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.elastic import Supernet
from dynnas_jax.networks.multi_space import ExitSpace, gene


@functools.lru_cache(maxsize=16)
def exit_tables(supernet: Supernet) -> tuple[macs.CostTable, ...]:
    """Of every exit the table of all MACs of a genome up to its answer, the heads of the exits before it too."""
    whole, found = macs.table(supernet), []
    names = [row.position.name for row in whole.rows]
    for exit in range(1, supernet.space.exits + 1):
        first = {f"exit{number}" for number in range(1, exit + 1)}
        found.append(whole.only({name for name in names if name.partition("_")[0] in first}))
    return tuple(found)


def spent(supernet: Supernet) -> Callable[[np.ndarray], list[int]]:
    """genome -> all MACs spent up to each exit, by its `settled` net."""
    tables = exit_tables(supernet)

    def cost(genome: np.ndarray) -> list[int]:
        genome = settled(supernet, genome)
        return [table.exact(genome) for table in tables]

    return cost


def settled(supernet: Supernet, genome: np.ndarray) -> np.ndarray:
    """int32[genes]: the genome of the same answers without what no answer hangs on (see `multi_exit.Arch.live_exits`).

    Exits beyond the live ones of a stage have there what the last live one has, and so add nothing.
    """
    space: ExitSpace = supernet.space
    genome, live = np.array(genome, np.int32), supernet.arch(genome).live_exits()
    for stage in space.stages:
        last = live[stage.name]
        places = [("depth", None), *((what, i) for what in ("kernel", "ratio") for i in range(len(stage.blocks)))]
        for exit, (what, block) in itertools.product(range(last + 1, space.exits + 1), places):
            if (name := gene(exit, stage.name, what, block)) in space:
                genome[space.index(name)] = genome[space.index(gene(last, stage.name, what, block))]
    return genome
