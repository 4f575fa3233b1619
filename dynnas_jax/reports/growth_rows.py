"""What the runs of a study of growth say of each of their nets, of nets that grew and of fixed networks alike."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from dynnas_jax import kinds
from dynnas_jax.costs import energy, training_energy
from dynnas_jax.networks import fixed, growing
from dynnas_jax.reports import growth_tables, study_rows, tables
from dynnas_jax.reports.spreads import Number
from dynnas_jax.reports.study_rows import Row
from dynnas_jax.search.stage_growth import CANDIDATE, INITIAL, UNIFORM
from dynnas_jax.workdir import read_json

_SPENT = ("seconds", "energy_j")
_WORLD = energy.GRID_G_PER_KWH["world"]


def nets(row: Row, seed: int, grid_g_per_kwh: float = _WORLD) -> dict[str, dict[str, Any]]:
    """What one run says of each net that it kept, by what the net is called; a fixed network has no name of its own.

    Args:
      grid_g_per_kwh: of the electricity that fixed networks are trained with, whose configs do not tell.
    """
    if row.asked.kind is kinds.GROWTH:
        return {told["network"]: told for told in growth_tables.networks(row.runs[seed])}
    return {"": _fixed(row, seed, grid_g_per_kwh)} if row.asked.kind is kinds.NETWORK else {}


def grid(rows: Sequence[Row]) -> float:
    """The intensity that nets beside these rows are told at: that of the first that grows, else the world's."""
    told = (row.asked.settings.get("grow.grid_g_per_kwh") for row in rows if row.asked.kind is kinds.GROWTH)
    return next((one for one in told if one is not None), _WORLD)


def training(row: Row, seed: int) -> dict:
    """What a run says of its training: seconds, energy and its source, the devices; of its last net's, where several grew.

    {} where it says nothing.
    """
    if (growth := row.runs[seed].growth) is not None:
        return growth["candidates"][-1]["training"]
    file = row.asked.paths[seed] / "train" / training_energy.FILE
    return read_json(file) if file.is_file() else {}


def names(row: Row) -> tuple[str, ...]:
    """What the nets are called that a row's runs are to leave."""
    if row.asked.kind is not kinds.GROWTH:
        return ("",) if row.asked.kind is kinds.NETWORK else ()
    iterations = range(1, row.asked.settings["grow.iterations"] + 1)
    uniform = (called(UNIFORM),) if row.asked.settings.get("grow.uniform") else ()
    return (called(INITIAL), *(called(CANDIDATE, number) for number in iterations), *uniform)


def called(role: str, iteration: int = 0) -> str:
    """What a net of a growth is called."""
    return growth_tables.name({"role": role, "iteration": iteration})


def _fixed(row: Row, seed: int, grid_g_per_kwh: float = _WORLD) -> dict[str, Any]:
    """A fixed network: counted from its config and its images, as what grows is."""
    found, path = row.runs[seed], row.asked.paths[seed]
    told: dict[str, Any] = {
        key: study_rows.at(found, f"evaluation.net.{key}") for key in ("macs", "params", "accuracy")
    }
    told |= dict.fromkeys((growth_tables.SCORED, growth_tables.TESTED, "holdout_accuracy"), "")  # it does not tell
    told[tables.TOP5] = study_rows.at(found, f"evaluation.net.{tables.TOP5}")
    export = found.exports.get(tables.main_target(found.exports), {})
    told["latency_ms"] = study_rows.at(export, f"files.net_{study_rows.PRECISION}.latency_ms")
    if content := training(row, seed):
        spent = {key: content[key] for key in _SPENT}
        energy_j = spent["energy_j"]  # None where nothing told it
        told |= spent | {"carbon_g": None if energy_j is None else energy.carbon_g(energy_j, grid_g_per_kwh)}
    if (data := kinds.data_file(path, kinds.NETWORK)).is_file():
        facts = read_json(data)
        told |= _counted(json.dumps([found.config["network"], facts])) | {"image_side": facts["image_shape"][0]}
    return told


@functools.cache
def _counted(described: str) -> dict[str, Any]:
    """The costs of a fixed network, from its section of a config and what a run leaves of its data, as JSON."""
    section, facts = json.loads(described)
    net = fixed.build(section, facts).largest_net()
    if section["name"] not in growing.FAMILIES:
        return dict.fromkeys(("depth", "params_with_statistics", "memory_bytes"), "")
    return {"modules": growth_tables.modules(growing.depths(net))} | growing.costs(section["name"], net)._asdict()


def last(row: Row) -> str:
    """What the net is called that a run ends with."""
    return next((name for name in reversed(names(row)) if name != called(UNIFORM)), "")


def accuracy(row: Row, seed: int) -> Number:
    """Of the net that a run ends with, on the test images; None where it is not known."""
    return nets(row, seed).get(last(row), {}).get("accuracy")


def search(row: Row, seed: int) -> dict[str, Number]:
    """networks, seconds and energy_j of a run's search; apart_s, the seconds without any further training; scoring_s.

    Of a training that searches nothing, its own.
    """
    found = row.runs[seed]
    if row.asked.kind is kinds.NETWORK:
        own = {key: value for key, value in _fixed(row, seed).items() if key in _SPENT}
        return {"networks": 1, **own, "apart_s": own.get("seconds"), "scoring_s": ""}
    if row.asked.kind is not kinds.GROWTH:
        told = training(row, seed) or {"seconds": found.times.get("train"), "energy_j": ""}
        own = {key: told[key] for key in _SPENT}
        return {"networks": "", **own, "apart_s": own["seconds"], "scoring_s": ""}
    if found.growth is None:
        return {}
    controls, trained = [one["training"] for one in found.growth["controls"]], found.growth["trained"]
    spent = {key: trained[key] - sum(one[key] for one in controls) for key in _SPENT}
    scoring_s = found.growth.get("scoring", {}).get("seconds", "")  # runs of an earlier form do not tell
    networks, apart_s = trained["networks"] - len(controls), _apart_s(row, trained, controls)
    return {"networks": networks, **spent, "apart_s": apart_s, "scoring_s": scoring_s}


def _apart_s(row: Row, trained: dict, controls: Sequence[dict]) -> Number:
    """Seconds of a search without further training; "" where a run of an earlier form does not tell them apart."""
    parts = [trained, *controls]
    if not trains_further(row):
        further = [0.0] * len(parts)
    elif all("further" in part for part in parts):
        further = [part["further"]["seconds"] for part in parts]
    else:
        return ""
    first, *others = (part["seconds"] - more for part, more in zip(parts, further, strict=True))
    return first - sum(others)


def trains_further(row: Row) -> bool:
    """Whether candidates are trained further after the training that all nets have alike."""
    return any(key.startswith("grow.further") for key in row.asked.settings)
