"""What the runs of a study's rows have measured, seed by seed, and its mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynnas_jax import kinds
from dynnas_jax.dynamic import quality
from dynnas_jax.export import bench
from dynnas_jax.reports import artifacts, devices, tables
from dynnas_jax.reports.artifacts import Artifacts
from dynnas_jax.reports.spreads import ROUNDING, Number, Spread, spread
from dynnas_jax.workdir import read_arrays

ALONE = ("net", "little", "big")  # networks that decide nothing
PRECISION = "fp32"  # of the files whose latency, memory, energy and size are told
# What targets of nets of several exits are told in: a factor, and words.
_TARGETS = {"macs": (1e-6, "M MACs"), "latency_ms": (1, "ms"), "macs_fractions": (100, "% of the MACs")}
_TARGETS |= {"latency_fractions": (100, "% of the latency")}
_ROUTED = ("router", "little_after_stem", "big_after_stem")  # files of a pair whose router comes first


Average = Callable[[str, Number], float | None]  # (network, exit rate) -> what an image takes on average


class Asked(NamedTuple):
    """A row of a study as its config describes it."""

    name: str
    tables: Mapping[str, str]  # name of a table -> what the row is called there
    paths: Mapping[int, Path]  # working directory of its run, by seed
    settings: Mapping[str, Any]  # every key of its config by its dotted name, defaults included
    trained: Sequence[Mapping[str, Any]]  # those of the runs that trained its nets
    command: str  # what `dynnas run` is given for its first seed, but for the working directory

    @property
    def kind(self) -> kinds.Kind:
        """The kind of its runs."""
        return kinds.of(dict.fromkeys(key.partition(".")[0] for key in self.settings))


class Row(NamedTuple):
    """A row with what its runs have left."""

    asked: Asked
    runs: dict[int, Artifacts]  # by seed, those that were begun
    outputs: dict[int, dict[str, np.ndarray]]  # by seed, what every net answers on the test images

    def spread(self, measure: Callable[[int], Number]) -> Spread | str | None:
        """Mean and standard deviation over the seeds of what `measure(seed)` says of each begun run."""
        return spread([measure(seed) for seed in self.runs], len(self.asked.paths))

    def of(self, dotted: str) -> Spread | str | None:
        """`spread` of one number of the artifacts, such as "evaluation.dynamic.accuracy"."""
        return self.spread(lambda seed: at(self.runs[seed], dotted))


def read(asked: Asked) -> Row:
    """A row with the artifacts of its runs. Raises ValueError where one is corrupt, naming it."""
    begun = {seed: path for seed, path in asked.paths.items() if (path / "config.json").is_file()}
    outputs = {seed: path / "evaluate" / "outputs.npz" for seed, path in begun.items()}
    return Row(
        asked,
        {seed: artifacts.read(path) for seed, path in begun.items()},
        {seed: read_arrays(file) for seed, file in outputs.items() if file.is_file()},
    )


def at(found: Any, dotted: str) -> Any:
    """What stands at a dotted name, of attributes and keys; None where it is absent."""
    for key in dotted.split("."):
        if isinstance(found, dict):
            found = found.get(key)
        elif isinstance(found, (list, tuple)) and key.isdigit():
            found = found[int(key)] if int(key) < len(found) else None
        else:
            found = getattr(found, key, None)
    return found


def paired(row: Row, base: Row, measure: Callable[[Row, int], Number]) -> tuple[Spread | str | None, str | None]:
    """What a row is above another in the seeds that both have: the spread of the differences, and in how many it is above."""
    both = [(measure(row, seed), measure(base, seed)) for seed in row.runs if seed in base.runs]
    return compared(both, len(row.asked.paths))


def compared(both: Sequence[tuple[Number, Number]], asked: int) -> tuple[Spread | str | None, str | None]:
    """The spread of the differences of pairs, one of each seed, and in how many the first is above the second, or level."""
    differences = [mine - its for mine, its in both if isinstance(mine, (int, float)) and isinstance(its, (int, float))]
    if not differences:
        return None, None
    above = sum(difference > ROUNDING for difference in differences)
    level = sum(abs(difference) <= ROUNDING for difference in differences)
    return spread(differences, asked), f"{above} of {len(differences)}" + (f", {level} level" if level else "")


def networks(row: Row) -> dict[str, str]:
    """The networks of a row by their keys in `measured`, and what each is called beside the row's name."""
    if row.asked.kind in kinds.OF_NET:
        return {"net": ""}
    if row.asked.kind in kinds.OF_EXITS:
        asked = {unit: row.asked.settings.get(f"dynamic.target_{key}") for key, unit in _TARGETS.items()}
        (scale, words), values = next((unit, values) for unit, values in asked.items() if values)
        return {f"target {number}": f"dynamic for {value * scale:g} {words}" for number, value in enumerate(values)}
    fixed = {f"at {threshold}": f"dynamic at {threshold}" for threshold in quality.THRESHOLDS}
    return {"little": "little", "big": "big", **fixed, "dynamic": "dynamic, chosen threshold"}


def measured(row: Row, seed: int) -> dict[str, dict[str, Number]]:
    """By network: top1, top5, ece, macs, params, exit_rate, latency_ms, energy_mj, memory_bytes, size_bytes of one run."""
    found, known = row.runs[seed], {}
    if row.asked.kind in kinds.OF_EXITS:
        return {network: _of_exits(found, int(network.split()[1])) for network in networks(row)}
    export = found.exports.get(tables.main_target(found.exports), {})
    latency, energy = _spent(_latencies(export)), _spent(_energies(found))
    points = {network: _point(found, network) for network in networks(row)}
    decision = at(export, f"cascade.{PRECISION}.latency_mean_ms")
    if "dynamic" in points and decision is not None:
        latency = _moved(latency, points["dynamic"]["exit_rate"], decision)
    for network, point in points.items():
        own = {name: of(network, point["exit_rate"]) for name, of in (("latency_ms", latency), ("energy_mj", energy))}
        known[network] = {**point, **own, **_of_files(found, network)}
    return known


def _of_exits(found: Artifacts, number: int) -> dict[str, Number]:
    """`measured` of the net for one target of a run of nets of several exits; devices know the one that is deployed."""
    net, dynamic = (at(found, f"evaluation.nets.{number}{part}") or {} for part in ("", ".dynamic"))
    deployed = number == at(found, "evaluation.deployed")
    export = found.exports.get(tables.main_target(found.exports), {}) if deployed else {}
    files = _of_files(found, "dynamic") if deployed else dict.fromkeys(("size_bytes", "memory_bytes"))
    return {
        "top1": net.get("accuracy"),
        "top5": dynamic.get("top5_accuracy"),
        "ece": dynamic.get("expected_calibration_error"),
        "macs": net.get("average_macs"),
        "params": (at(found, f"found.nets.{number}.params") or [None])[-1],
        "exit_rate": (net.get("exit_rate") or [None])[0],
        "latency_ms": at(export, f"cascade.{PRECISION}.latency_mean_ms"),
        "energy_mj": at(_bench(found), f"sections.{bench.DECISION}.energy.energy_mj") if deployed else None,
        **files,
    }


def _moved(latency: Average, exit_rate: Number, decision_ms: float) -> Average:
    """The latency of a decision with another exit rate: that of the decision itself, and what the files take more or less."""
    here = latency("dynamic", exit_rate)

    def average(network: str, other: Number) -> float | None:
        alone = latency(network, other)
        return alone if network in ALONE or alone is None or here is None else decision_ms + alone - here

    return average


def _point(found: Artifacts, network: str) -> dict[str, Number]:
    """What the evaluation says of a network, or of dynamic at another threshold."""
    measures, params = at(found, f"evaluation.{network}") or {}, at(found, "evaluation.dynamic.params")
    if network.startswith("at "):
        points = at(found, "evaluation.operating_points") or ()
        measures = next((one for one in points if one["threshold"] == float(network[3:]) and not one["chosen"]), {})
        measures = {**measures, "params": params if measures else None}
    exits = measures.get("exit_rate")
    return {
        "top1": measures.get("accuracy"),
        "top5": measures.get("top5_accuracy"),
        "ece": measures.get("expected_calibration_error"),
        "macs": measures.get("macs"),
        "params": measures.get("params"),
        "exit_rate": "" if network in ALONE else exits[0] if isinstance(exits, list) else exits,
    }


def _spent(of: Mapping[str, float]) -> Average:
    """(network, exit rate) -> what is spent on an image on average, from what each file spends; None where one is unknown."""
    router, routed = of.get(_ROUTED[0]), _ROUTED[0] in of
    second = of.get("big_after_stem", None if routed else of.get("big"))
    first = of.get(_ROUTED[1]) if routed else of.get("little")

    def average(network: str, exit_rate: Number) -> float | None:
        if network in ALONE:
            return of.get(network)
        if first is None or second is None or not isinstance(exit_rate, (int, float)):
            return None
        return (router + exit_rate * first if routed else first) + (1 - exit_rate) * second

    return average


def _latencies(export: dict) -> dict[str, float]:
    """Mean milliseconds of each file of the precision, by its function."""
    files = {name: file.get("latency_mean_ms") for name, file in export.get("files", {}).items()}
    found = {name.removesuffix(f"_{PRECISION}"): ms for name, ms in files.items() if name.endswith(f"_{PRECISION}")}
    return {name: ms for name, ms in found.items() if ms is not None}


def _bench(found: Artifacts) -> dict:
    """The results of `dynnas bench` in the precision, {} without any."""
    return next((each for each in found.benches.values() if each["model"]["precision"] == PRECISION), {})


def _energies(found: Artifacts) -> dict[str, float]:
    """Millijoules of each file, by its function."""
    content = _bench(found)
    each = {name: at(section, "energy.energy_mj") for name, section in content.get("sections", {}).items()}
    if content and len(content["model"]["steps"]) == 1:
        each["net"] = each.get(bench.DECISION)
    return {name: value for name, value in each.items() if value is not None and math.isfinite(value)}


def _of_files(found: Artifacts, network: str) -> dict[str, Number]:
    """Bytes on disk, and in memory at most while the whole decision is made."""
    name = "dynamic" if network.startswith("at ") else network
    wanted = {"run": devices.OWN, "target": tables.main_target(found.exports), "precision": PRECISION, "network": name}
    rows = [row for row in devices.rows(found) if {key: row[key] for key in wanted} == wanted]
    memory = _bench(found).get("peak_memory_bytes") if name in ("net", "dynamic") else ""
    files = found.exports.get(wanted["target"], {}).get("files", {})
    path = files.get(f"{name}_{PRECISION}", {}).get("path")
    shared = sum(file["path"] == path for file in files.values()) > 1  # then no net has a size of its own
    size = "" if shared else next((row["size_bytes"] for row in rows), None)
    return {"size_bytes": size, "memory_bytes": memory}
