"""What the stages read of costs: tables over the genomes of a space, those of latencies from a file that the config names."""

from __future__ import annotations

import sys
from pathlib import Path

from dynnas_jax import processes
from dynnas_jax.costs import latency, macs, once_for_all
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import machine, targets
from dynnas_jax.stages import table as table_stage


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


def tell_doubts(table: latency.LatencyTable, config: dict, target: str | None = None) -> None:
    """Says on stderr, a line each, what makes a table's milliseconds others than those of the files that a run exports.

    A search need not run on the device: none of it is an error.

    Args:
      config: of the run; target: that is searched for, the run's own if None.
    """
    if processes.is_first():
        for doubt in filter(None, (_of_another_machine(table), _of_other_files(table, config, target))):
            print(f"dynnas: {doubt}", file=sys.stderr, flush=True)


def _of_another_machine(table: latency.LatencyTable) -> str | None:
    """Whether a table of this kind of machine is of another one: computers of one target differ, boards name themselves."""
    in_jax = table.device["runtime"].startswith("JAX")
    kinds = table_stage.ARCHITECTURES.get(table.target, ())
    if machine.facts()["architecture"].lower() not in kinds or table.device["runtime"] == once_for_all.RUNTIME:
        return None
    here, measured = table_stage.device_here(in_jax), table.device
    if measured["board"] != here["board"]:
        return (
            f"the latency table was measured on {measured['board']}, this machine is {here['board']}: "
            "budgets are milliseconds of that one"
        )
    package = "jax" if in_jax else "ai-edge-litert"
    versions = [device["versions"].get(package) for device in (measured, here)]
    if None in versions or versions[0] == versions[1]:
        return None
    return "the latency table was measured with {} {}, here is {}: budgets are milliseconds of that one".format(
        package, *versions
    )


def _of_other_files(table: latency.LatencyTable, config: dict, target: str | None) -> str | None:
    """Whether a table is of a precision that the run's files for its target do not have."""
    asked = config.get("export", {}).get("precisions") if target in (None, config["target"]) else None
    written, measured = asked or targets.target(table.target).precisions, table.device["precision"]
    if measured in written:
        return None
    return f"the latency table was measured in {measured}, the run's files for {table.target} are {', '.join(written)}"
