"""Latency tables: what each distinct block of a space takes on a device, and a genome's latency as a gather and a sum.

A table is a JSON file: the device it was measured on, one row a block (shapes it reads, spec, milliseconds) and one overhead.
The latency of a net is the sum of its blocks' rows plus the overhead.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from dynnas_jax.costs import macs
from dynnas_jax.elastic import Supernet, Traced
from dynnas_jax.workdir import read_json, write_json

VERSION = 2
DEVICE = {"board": str, "runtime": str, "threads": int, "precision": str, "versions": dict}
_KEYS = ("version", "target", "device", "space", "overhead_ms", "fit", "rows")


class Row(NamedTuple):
    """One block that stands somewhere in the space."""

    inputs: tuple[tuple[int, ...], ...]  # shapes of the arrays that it reads, the batch of 1 included
    block: dict  # see `spec`
    latency_ms: float  # what it adds to a net
    spread_ms: float  # standard deviation of the measurements
    resolution: int | None = None  # of the images of the nets it was measured for, where that makes a difference


class LatencyTable(NamedTuple):
    """What the blocks of one space take on one device."""

    target: str  # name of the target it serves
    device: dict  # the entries of `DEVICE`
    space: str  # fingerprint
    overhead_ms: float  # of a net, besides its blocks
    fit: dict  # how the rows came from what was measured; JSON-able
    rows: tuple[Row, ...]

    def check_space(self, supernet: Supernet) -> None:
        """Raises ValueError if the table is of another space."""
        if self.space != supernet.space.fingerprint:
            raise ValueError(
                f"the latency table is of space {self.space!r}, but this space is {supernet.space.fingerprint!r}; "
                "`dynnas table` with the run's own config, --config.target with it, builds one for it"
            )

    def of(self, supernet: Supernet) -> macs.CostTable:
        """The latency of every genome in ms: like the table of MACs, float32 under jit and vmap, `exact` a Python float.

        Raises:
          ValueError: if the table is of another space, or lacks a block.
        """
        self.check_space(supernet)
        latency_ms = {(row.resolution, identity(row.inputs, row.block)): row.latency_ms for row in self.rows}

        def cost(built: macs.Built) -> float:
            name = of_block(built)
            for resolution in (None, getattr(built.arch, "resolution", None)):
                if (resolution, name) in latency_ms:
                    return latency_ms[resolution, name]
            raise ValueError(f"the latency table has no row for {built.block.name}, {name}: build it anew")

        return macs.position_table(supernet, cost, self.overhead_ms)

    def router_ms(self, shape: tuple[int, ...], router: dict) -> float | None:
        """What a router adds to a decision, in ms; None where the table was built without it.

        Args:
          shape: of the feature map that it looks at, the batch of 1 included; router: `router_spec`.
        """
        wanted = identity((shape,), router)
        return next((row.latency_ms for row in self.rows if identity(row.inputs, row.block) == wanted), None)


def router_spec(fields: dict) -> dict:
    """All that a router's time depends on besides what it looks at, from its JSON: the confidence is none of it."""
    return {"kind": "Router", **{name: fields[name] for name in ("name", "statistics", "units")}}


def spec(module: Any) -> dict:
    """All that a block's time depends on besides its input, JSON-able: its class and those of its fields that are set.

    Fields at their default are left out, and so are tuples of floats: the constants of a normalisation.
    """
    return {"kind": type(module).__name__, **_fields(module)}


def _fields(module: Any) -> dict:
    found = {}
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        constants = isinstance(value, tuple) and all(isinstance(item, float) for item in value)
        if field.name in ("parent", "name") or constants or value == field.default:
            continue
        found[field.name] = _fields(value) if dataclasses.is_dataclass(value) else value
    return {name: value for name, value in found.items() if value != {}}


def input_shapes(traced: Traced) -> tuple[tuple[int, ...], ...]:
    """Shapes of the arrays that a block reads: the leaves of its carry."""
    return tuple(tuple(leaf.shape) for leaf in traced.jaxpr.in_avals)


def identity(shapes: tuple[tuple[int, ...], ...], block: dict) -> str:
    """What tells the rows of a table apart."""
    return json.dumps([[list(shape) for shape in shapes], block], sort_keys=True)


def of_block(built: macs.Built) -> str:
    """A block's `identity`."""
    return identity(input_shapes(built.traced), spec(built.block.module))


def distinct(supernet: Supernet) -> dict[str, macs.Built]:
    """Every block that stands somewhere in the space, once, by its identity; in the order of the chain."""
    found: dict[str, macs.Built] = {}
    for _, everywhere in macs.every_block(supernet):
        for built in everywhere:
            found.setdefault(of_block(built), built)
    return found


def save(table: LatencyTable, path: Path) -> None:
    """Writes a table, whole or not at all."""
    rows = [{name: value for name, value in row._asdict().items() if value is not None} for row in table.rows]
    content = {"version": VERSION, **table._asdict(), "rows": rows}
    write_json(Path(path), content)


def load(path: str | Path) -> LatencyTable:
    """Reads a table. Raises ValueError for a file that is absent or no whole latency table."""
    path, remedy = Path(path), "`dynnas table` builds one"
    content = read_json(path, remedy)
    if set(content) != set(_KEYS) or content["version"] != VERSION:
        raise ValueError(f"{path} is no latency table of version {VERSION}; {remedy}")
    if wrong := _first_wrong(content):
        raise ValueError(f"{path} is no whole latency table ({wrong}); {remedy}")
    rows = tuple(Row(**{**row, "inputs": tuple(map(tuple, row["inputs"]))}) for row in content["rows"])
    fields = ("target", "device", "space", "overhead_ms", "fit")
    return LatencyTable(*(content[name] for name in fields), rows)


def _first_wrong(content: dict) -> str | None:
    """What is wrong with the content of a table's file, None if nothing is."""
    for name, kind in (("target", str), ("space", str), ("device", dict), ("fit", dict), ("rows", list)):
        if not isinstance(content[name], kind):
            return f"{name} is {content[name]!r}"
    for name, kind in DEVICE.items():
        if not isinstance(content["device"].get(name), kind):
            return f"device.{name} is {content['device'].get(name)!r}"
    if not _is_time(content["overhead_ms"]):
        return f"overhead_ms is {content['overhead_ms']!r:.40}"
    if not content["rows"]:
        return "it has no rows"
    bad = next((i for i, row in enumerate(content["rows"]) if not _is_row(row)), None)
    return None if bad is None else f"row {bad} is {json.dumps(content['rows'][bad])[:80]}"


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or {*row, "resolution"} != set(Row._fields) or not isinstance(row["block"], dict):
        return False
    if type(row.get("resolution", 1)) is not int:
        return False
    shapes = row["inputs"]
    whole = isinstance(shapes, list) and shapes and all(map(_is_shape, shapes))
    return bool(whole) and _is_time(row["latency_ms"]) and _is_time(row["spread_ms"])


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and bool(shape) and all(type(size) is int and size > 0 for size in shape)


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max  # an integer may be beyond all floats
