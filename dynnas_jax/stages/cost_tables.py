"""What the stages read of costs: tables over the genomes of a space, those of latencies from a file that the config names."""

from __future__ import annotations

from pathlib import Path

from dynnas_jax.costs import latency, macs, once_for_all
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import targets


def cost_tables(supernet: Supernet, latency_table: str | Path | None, target: str) -> dict[str, macs.CostTable]:
    """What a genome costs, by unit: "macs", "params", and "latency_ms" where a table of latencies is named.

    Raises:
      ValueError: for a table that cannot be read, or is of another space or target.
    """
    tables = {"macs": macs.table(supernet), "params": macs.params_table(supernet)}
    if latency_table:
        tables["latency_ms"] = read_latency_table(latency_table, supernet, target).of(supernet)
    return tables


def read_latency_table(path: str | Path, supernet: Supernet, target: str) -> latency.LatencyTable:
    """The latency table of a file of ours, or of a folder of once-for-all's, which serves whatever target is asked for.

    Raises:
      ValueError: as their readers do, and for a table of another space, target or board.
    """
    path, wanted = Path(path).expanduser(), targets.target(target).name
    if path.is_dir():  # its device is in the table, and beside what is found with it
        return once_for_all.read(path, supernet, wanted)
    table = latency.load(path)
    if table.target != wanted:
        raise ValueError(
            f"{path} was measured for target {table.target!r}, not for {target!r}; `dynnas table` builds one"
        )
    if targets.of_board(board := table.device["board"]) not in (None, wanted):
        raise ValueError(f"{path} says target {wanted!r}, but was measured on a {board}; `dynnas table` builds one")
    table.check_space(supernet)
    return table
