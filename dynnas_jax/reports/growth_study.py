"""The tables of a study of nets that grow stage by stage, as the paper has them (Jordao et al. 2020, tables I to VI).

Each is made of the rows that its config puts there: runs that grew, and fixed networks beside them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dynnas_jax import kinds
from dynnas_jax.costs import energy
from dynnas_jax.networks import fixed, growing
from dynnas_jax.reports import growth_tables, study_rows, tables
from dynnas_jax.reports.spreads import Number, Spread, Table, numbers, words
from dynnas_jax.reports.study_rows import Row
from dynnas_jax.reports.tables import Column
from dynnas_jax.search.stage_growth import CANDIDATE, INITIAL, UNIFORM
from dynnas_jax.workdir import read_json

RANDOM = "random"  # the criterion that the others are compared with
_COUNTED = ("depth", "params_with_statistics", "params", "macs", "memory_bytes")
_KEYS = (*_COUNTED, "latency_ms", "seconds", "energy_j", "carbon_g", "holdout_accuracy", "accuracy", tables.TOP5)
_TOGETHER = tuple(growth_tables.ENSEMBLES.values())


def nets(row: Row, seed: int) -> dict[str, dict[str, Any]]:
    """What one run says of each net that it kept, by what the net is called; a fixed network has no name of its own."""
    if row.asked.kind is kinds.GROWTH:
        return {told["network"]: told for told in growth_tables.networks(row.runs[seed])}
    return {"": _fixed(row, seed)} if row.asked.kind is kinds.NETWORK else {}


def names(row: Row) -> tuple[str, ...]:
    """What the nets are called that a row's runs are to leave."""
    if row.asked.kind is not kinds.GROWTH:
        return ("",) if row.asked.kind is kinds.NETWORK else ()
    iterations = range(1, row.asked.settings["grow.iterations"] + 1)
    uniform = (_called(UNIFORM),) if row.asked.settings.get("grow.uniform") else ()
    return (_called(INITIAL), *(_called(CANDIDATE, number) for number in iterations), *uniform)


def _called(role: str, iteration: int = 0) -> str:
    return growth_tables.name({"role": role, "iteration": iteration})


def _fixed(row: Row, seed: int) -> dict[str, Any]:
    """A fixed network: counted from its config and its images, as what grows is."""
    found, path = row.runs[seed], row.asked.paths[seed]
    told: dict[str, Any] = {
        key: study_rows.at(found, f"evaluation.net.{key}") for key in ("macs", "params", "accuracy")
    }
    told[tables.TOP5] = study_rows.at(found, f"evaluation.net.{tables.TOP5}")
    export = found.exports.get(tables.main_target(found.exports), {})
    told["latency_ms"] = study_rows.at(export, f"files.net_{study_rows.PRECISION}.latency_ms")
    if (file := path / "train" / "energy.json").is_file():
        spent = {key: read_json(file)[key] for key in ("seconds", "energy_j")}
        told |= spent | {"carbon_g": energy.carbon_g(spent["energy_j"], energy.GRID_G_PER_KWH["world"])}
    if (data := kinds.data_file(path, kinds.NETWORK)).is_file():
        told |= _counted(json.dumps([found.config["network"], read_json(data)]))
    return told


@functools.cache
def _counted(described: str) -> dict[str, Any]:
    """The costs of a fixed network, from its section of a config and what a run leaves of its data, as JSON."""
    section, facts = json.loads(described)
    net = fixed.build(section, facts).largest_net()
    if section["name"] not in growing.FAMILIES:
        return dict.fromkeys(("depth", "params_with_statistics", "memory_bytes"), "")
    return {"modules": growth_tables.modules(growing.depths(net))} | growing.costs(section["name"], net)._asdict()


def _lines(rows: Sequence[Row], table: str, wanted: Callable[[Row], Iterable[str]] = names) -> list[dict]:
    """One line for each net of each row."""
    listed = []
    for row in rows:
        known = {seed: nets(row, seed) for seed in row.runs}
        for name in wanted(row):
            own = {seed: told.get(name, {}) for seed, told in known.items()}
            spread = {key: row.spread(lambda seed, key=key, own=own: own[seed].get(key)) for key in _KEYS}
            listed.append({"label": row.asked.tables[table], "network": name, "modules": _modules(own), **spread})
    return listed


def _modules(own: Mapping[int, dict]) -> str | None:
    """The modules of each stage, of every seed where they are not the same."""
    told = [one["modules"] for one in own.values() if one.get("modules")]
    return ("; ".join(told) if len(set(told)) > 1 else told[0]) if told else None


def _count(key: str, header: str) -> Column:
    """A column of whole numbers, whose means need not be whole."""
    return Column(key, header, lambda row: row[key].text(1.0, 1 if row[key].deviation else 0))


_LABEL, _NET, _MODULES = words("label", "row"), words("network", "net"), words("modules", "modules")
_HELD, _ACCURACY = (
    numbers(key, f"{split} (%)", scale=0.01) for key, split in (("holdout_accuracy", "held-out"), ("accuracy", "test"))
)
_MACS, _PARAMS = (
    numbers("macs", "MACs (M)", 3, 1e6),
    numbers("params_with_statistics", "params with statistics (k)", 1, 1e3),
)
_COSTS = (_count("depth", "depth"), _PARAMS, _MACS, numbers("memory_bytes", "memory (MiB)", 3, 2**20))
_SPENT = (
    numbers("latency_ms", "CPU, fp32 (ms)", 3),
    numbers("seconds", "training (min)", 1, 60),
    numbers("carbon_g", "kgCO2eq", 5, 1e3),
)
_TOLD = "Depth, params and memory are counted as the paper counts them: params with running statistics."


def _initial(rows: Sequence[Row]) -> Table:
    rows = sorted(rows, key=_begun)
    listed = _lines(rows, "growth_initial", lambda row: (_called(CANDIDATE, 1),))
    listed = [{"initial": str(_begun(row) or "–"), **line} for row, line in zip(rows, listed, strict=True)]
    columns = (words("initial", "modules at first"), _LABEL, _MODULES, *_COSTS, _HELD, _ACCURACY)
    explanation = f"The first candidate, by the modules that every stage begins with. {_TOLD}"
    return Table("growth_initial", "Initial depth", explanation, columns, listed)


def _begun(row: Row) -> int:
    """The modules of every stage that a row's runs begin with; 0 where they do not grow."""
    settings = row.asked.settings
    if row.asked.kind is not kinds.GROWTH:
        return 0
    return settings.get("grow.initial_modules") or growing.family(settings["growth.name"]).initial_modules


def _criteria(rows: Sequence[Row]) -> Table:
    listed, most = [], 0
    for row in rows:
        every = [name for name in names(row) if name.startswith(_called(CANDIDATE, 1).split()[0])]
        most = max(most, len(every))
        known = {seed: nets(row, seed) for seed in row.runs}
        for split, key in (("held-out", "holdout_accuracy"), ("test", "accuracy")):
            cells = {
                f"iteration{number}": row.spread(
                    lambda seed, name=name, key=key, known=known: known[seed].get(name, {}).get(key)
                )
                for number, name in enumerate(every, 1)
            }
            last = {seed: told.get(every[-1], {}) for seed, told in known.items()} if every else {}
            listed.append(
                {"label": row.asked.tables["growth_criteria"], "split": split, **cells, "last": _modules(last)}
            )
    iterations = [numbers(f"iteration{number}", f"iteration {number} (%)", scale=0.01) for number in range(1, most + 1)]
    for line in listed:
        line |= {column.key: "" for column in iterations if column.key not in line}
    columns = (words("label", "importance by"), words("split", "images"), *iterations, words("last", "modules at last"))
    explanation = "Accuracy of the candidates, fully trained, by what tells the importance of a stage."
    return Table("growth_criteria", "Criteria of importance", explanation, columns, listed)


def _networks(name: str, heading: str, explanation: str, *notes: str) -> Callable[[Sequence[Row]], Table]:
    """What makes the table of nets with all their costs."""

    def build(rows: Sequence[Row]) -> Table:
        columns = (_LABEL, _NET, _MODULES, *_COSTS, *_SPENT, _HELD, _ACCURACY)
        return Table(name, heading, explanation, columns, _lines(rows, name), (*notes, *_sources(rows)))

    return build


def _sources(rows: Sequence[Row]) -> tuple[str, ...]:
    """How the energy of the trainings is known."""
    growths = [found.growth for row in rows for found in row.runs.values() if found.growth]
    told = dict.fromkeys(growth["candidates"][-1]["training"]["source"] for growth in growths)
    return (f"Energy of training: {'; '.join(told)}.",) if told else ()


def _cost(rows: Sequence[Row]) -> Table:
    listed = []
    for row in rows:
        search = {seed: _search(row, seed) for seed in row.runs}
        for name in _answering(row):
            told = {seed: nets(row, seed).get(name, {}) for seed in row.runs}
            whole = name not in _TOGETHER
            line = {"label": row.asked.tables["growth_cost"], "network": name}
            for key in ("networks", "seconds", "energy_j"):
                line[key] = row.spread(lambda seed, key=key, of=search: of[seed].get(key)) if whole else ""
            for key in ("params_with_statistics", "accuracy"):
                line[key] = row.spread(lambda seed, key=key, of=told: of[seed].get(key)) if names(row) else ""
            listed.append(line)
    columns = (
        *(
            _LABEL,
            _NET,
            _count("networks", "networks evaluated"),
            numbers("seconds", "their training (hours)", 3, 3600),
        ),
        *(numbers("energy_j", "energy (kJ)", 1, 1e3), _PARAMS, _ACCURACY),
    )
    explanation = (
        "What the search took: every network that was trained or read off for it, the temporary ones too, without those "
        "trained for comparison, and without the source of weights, which has a line of its own."
    )
    return Table("growth_cost", "Cost of the search", explanation, columns, listed)


def _answering(row: Row) -> tuple[str, ...]:
    """The last candidate, and the ensembles that runs tell of."""
    every = [name for name in names(row) if name != _called(UNIFORM)]
    told = {name for seed in row.runs for name in nets(row, seed)}
    return (*every[-1:], *(name for name in _TOGETHER if name in told)) if every else ("",)


def _search(row: Row, seed: int) -> dict[str, Number]:
    """networks, seconds and energy_j of a run's search; of a training that searches nothing, its own."""
    found = row.runs[seed]
    if row.asked.kind is kinds.NETWORK:
        return {"networks": 1, **{key: value for key, value in _fixed(row, seed).items() if key in _SEARCH}}
    if row.asked.kind is not kinds.GROWTH:
        return {"networks": "", "seconds": found.times.get("train"), "energy_j": ""}
    if found.growth is None:
        return {}
    controls = [one["training"] for one in found.growth["controls"]]
    trained = found.growth["trained"]
    spent = {key: trained[key] - sum(one[key] for one in controls) for key in _SEARCH}
    return {"networks": trained["networks"] - len(controls), **spent}


_SEARCH = ("seconds", "energy_j")


def _elsewhere(rows: Sequence[Row]) -> Table:
    top5 = numbers(tables.TOP5, "among the five likeliest, test (%)", scale=0.01)
    columns = (_LABEL, _MODULES, *_COSTS, top5, _ACCURACY)
    explanation = f"Nets of depths that were found elsewhere, trained from scratch, and nets of uniform depth. {_TOLD}"
    return Table("growth_elsewhere", "Depths found elsewhere", explanation, columns, _lines(rows, "growth_elsewhere"))


def _controls(rows: Sequence[Row]) -> Table:
    coins = next((row for row in rows if row.asked.settings.get("grow.criterion") == RANDOM), None)
    listed = _lines(rows, "growth_controls", lambda row: (_last(row),))
    for row, line in zip(rows, listed, strict=True):
        uniform = {seed: nets(row, seed).get(_called(UNIFORM), {}) for seed in row.runs}
        line["uniform_macs"] = row.spread(lambda seed, of=uniform: of[seed].get("macs"))
        beside = {"uniform": {seed: told.get("accuracy") for seed, told in uniform.items()}}
        beside["coins"] = {} if coins is None else {seed: _accuracy(coins, seed) for seed in coins.runs}
        absent = {"uniform": not row.asked.settings.get("grow.uniform"), "coins": row is coins or coins is None}
        for name, theirs in beside.items():
            own = [(_accuracy(row, seed), value) for seed, value in theirs.items() if seed in row.runs]
            told = ("", "") if absent[name] else study_rows.compared(own, len(row.asked.paths))
            line |= dict(zip((f"above_{name}", f"wins_{name}"), told, strict=True))
        line["uniform_macs"] = "" if absent["uniform"] else line["uniform_macs"]
    columns = (_LABEL, _MODULES, _MACS, _ACCURACY, numbers("uniform_macs", "MACs of uniform depth (M)", 3, 1e6))
    for name, called in (("uniform", "uniform depth"), ("coins", "coins")):
        columns += (numbers(f"above_{name}", f"above {called} (points)", scale=0.01, sign=True),)
        columns += (words(f"wins_{name}", f"seeds above {called}"),)
    explanation = (
        "The last candidate beside the net of the same depth in all stages whose MACs are nearest to its own, and beside what "
        "as many trainings come to where coins say which stages grow; on the test images, seed by seed."
    )
    return Table("growth_controls", "Uniform depth, and coins", explanation, columns, listed)


def _last(row: Row) -> str:
    """What the net is called that a run ends with."""
    return next((name for name in reversed(names(row)) if name != _called(UNIFORM)), "")


def _accuracy(row: Row, seed: int) -> Number:
    return nets(row, seed).get(_last(row), {}).get("accuracy")


def modules(rows: Sequence[Row]) -> dict[str, list[float]]:
    """By the name of a row, the modules of each stage of the last candidate, means over the seeds (the paper's figure 4)."""
    found = {}
    for row in rows:
        each = [one.growth["candidates"][-1]["depths"] for one in row.runs.values() if one.growth]
        if each:
            own = [round(sum(stage) / len(each), 2) for stage in zip(*each, strict=True)]
            found[row.asked.tables["growth_criteria"]] = own
    return found


def fronts(rows: Sequence[Row], table: str) -> dict[str, list[tuple[Spread, Spread]]]:
    """By the name of a row, (MACs, test accuracy) of its nets in the order of growing; uniform depth by a name of its own."""
    series: dict[str, list[tuple[Spread, Spread]]] = {}
    for line in _lines(rows, table):
        if isinstance(line["macs"], Spread) and isinstance(line["accuracy"], Spread):
            alone = line["network"] == _called(UNIFORM)
            name = f"{line['label']}: {line['network']}" if alone else line["label"]
            series.setdefault(name, []).append((line["macs"], line["accuracy"]))
    return series


TABLES: dict[str, Callable[[Sequence[Row]], Table]] = {
    "growth_initial": _initial,
    "growth_criteria": _criteria,
    "growth_residual": _networks(
        "growth_residual",
        "Residual nets, grown and of uniform depth",
        f"Every net that is kept. {_TOLD} The time of an image is LiteRT's on the machine of the study.",
    ),
    "growth_cells": _networks(
        "growth_cells",
        "Nets of cells, grown and of uniform depth",
        f"Every net that is kept. {_TOLD}",
        "The paper counts separable convolutions as dense ones; here they are counted as they are.",
    ),
    "growth_cost": _cost,
    "growth_elsewhere": _elsewhere,
    "growth_controls": _controls,
}
