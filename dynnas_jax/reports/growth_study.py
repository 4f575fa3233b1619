"""The tables of a study of nets that grow stage by stage, as the paper has them (Jordao et al. 2020, tables I to VI).

Each is made of the rows that its config puts there: runs that grew, and fixed networks beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dynnas_jax import kinds
from dynnas_jax.networks import growing
from dynnas_jax.reports import growth_rows, growth_tables, study_rows, tables
from dynnas_jax.reports.spreads import Spread, Table, numbers, verdict, words
from dynnas_jax.reports.study_rows import Row
from dynnas_jax.reports.tables import Column
from dynnas_jax.search.stage_growth import CANDIDATE, UNIFORM

RANDOM = "random"  # the criterion that the others are compared with
_COUNTED = ("depth", "params_with_statistics", "params", "macs", "memory_bytes")
_KEYS = (
    *_COUNTED,
    "image_side",
    "latency_ms",
    "seconds",
    "energy_j",
    "carbon_g",
    growth_tables.SCORED,
    "holdout_accuracy",
    growth_tables.TESTED,
    "accuracy",
    tables.TOP5,
)
_TOGETHER = tuple(growth_tables.ENSEMBLES.values())
_SEARCH = ("networks", "apart_s", "scoring_s", "seconds", "energy_j")


def _lines(rows: Sequence[Row], table: str, wanted: Callable[[Row], Iterable[str]] = growth_rows.names) -> list[dict]:
    """One line for each net of each row."""
    listed, grid_g_per_kwh = [], growth_rows.grid(rows)
    for row in rows:
        known = {seed: growth_rows.nets(row, seed, grid_g_per_kwh) for seed in row.runs}
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
_SPLITS = (
    (growth_tables.SCORED, "held-out after equal training"),
    ("holdout_accuracy", "held-out"),
    (growth_tables.TESTED, "test after equal training"),
    ("accuracy", "test"),
)
_SCORED, _HELD, _TESTED, _ACCURACY = (numbers(key, f"{split} (%)", scale=0.01) for key, split in _SPLITS)
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


def _trained_further(rows: Sequence[Row]) -> bool:
    return any(map(growth_rows.trains_further, rows))


def _held_out(rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns of held-out accuracy: where candidates are trained further, before it too."""
    return (_SCORED, _HELD) if _trained_further(rows) else (_HELD,)


def _initial(rows: Sequence[Row]) -> Table:
    rows = sorted(rows, key=_begun)
    listed = _lines(rows, "growth_initial", lambda row: (growth_rows.called(CANDIDATE, 1),))
    listed = [{"initial": str(_begun(row) or "–"), **line} for row, line in zip(rows, listed, strict=True)]
    tested = (_TESTED, _ACCURACY) if _trained_further(rows) else (_ACCURACY,)
    columns = (words("initial", "modules at first"), _LABEL, _MODULES, *_COSTS, *_held_out(rows), *tested)
    explanation = f"The first candidate, by the modules that every stage begins with. {_TOLD}"
    return Table("growth_initial", "Initial depth", explanation, columns, listed)


def _begun(row: Row) -> int:
    """The modules of every stage that a row's runs begin with; 0 where they do not grow."""
    settings = row.asked.settings
    if row.asked.kind is not kinds.GROWTH:
        return 0
    modules = settings.get("grow.initial_modules")
    return growing.family(settings["growth.name"]).initial_modules if modules is None else modules


def _criteria(rows: Sequence[Row]) -> Table:
    listed, most = [], 0
    before = () if _trained_further(rows) else (growth_tables.SCORED, growth_tables.TESTED)
    splits = [(split, key) for key, split in _SPLITS if key not in before]
    for row in rows:
        every = [
            name for name in growth_rows.names(row) if name.startswith(growth_rows.called(CANDIDATE, 1).split()[0])
        ]
        most = max(most, len(every))
        known = {seed: growth_rows.nets(row, seed) for seed in row.runs}
        for split, key in splits:
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
    explanation = "Accuracy of the candidates, by what tells the importance of a stage."
    return Table("growth_criteria", "Criteria of importance", explanation, columns, listed, _parameters(rows))


def _parameters(rows: Sequence[Row]) -> tuple[str, ...]:
    """With which parameters the criteria were taken, where none of a row's runs chose them."""
    start, told = "grow.criterion_options.", []
    for row in rows:
        options = {key.removeprefix(start): value for key, value in row.asked.settings.items() if key.startswith(start)}
        if options and not any((run.growth or {}).get("tried") for run in row.runs.values()):
            listed = ", ".join(f"{key} {value}" for key, value in options.items())
            told.append(f"{row.asked.tables['growth_criteria']} ({listed})")
    said = "Parameters as they stand in the recipe, which these runs did not choose"
    return (f"{said}: {'; '.join(told)}.",) if told else ()


def _networks(name: str, heading: str, explanation: str, *notes: str) -> Callable[[Sequence[Row]], Table]:
    """What makes the table of nets with all their costs."""

    def build(rows: Sequence[Row]) -> Table:
        columns = (_LABEL, _NET, _MODULES, *_COSTS, *_SPENT, *_held_out(rows), _ACCURACY)
        said = (*notes, *_begun_elsewhere(rows, name), *_sources(rows, name))
        return Table(name, heading, explanation, columns, _lines(rows, name), said)

    return build


def _begun_elsewhere(rows: Sequence[Row], table: str) -> tuple[str, ...]:
    """Whose nets another run has trained before."""
    named = [row.asked.tables[table] for row in rows if row.asked.settings.get("grow.source")]
    said = "begin with the weights of another run, whose training is not in their minutes and carbon"
    return (f"The nets of these rows {said}: {'; '.join(named)}.",) if named else ()


def _sources(rows: Sequence[Row], table: str) -> tuple[str, ...]:
    """How the energy of the trainings is known; where in several ways, of which rows in each."""
    told: dict[str, list[str]] = {}
    for row in rows:
        for source in {growth_rows.training(row, seed).get("source"): None for seed in row.runs}:
            told.setdefault(source or "", []).append(row.asked.tables[table])
    told.pop("", None)
    several = len(told) > 1
    named = [f"{source} ({'; '.join(labels)})" if several else source for source, labels in told.items()]
    return (f"Energy of training: {'; '.join(named)}.",) if named else ()


def _cost(rows: Sequence[Row]) -> Table:
    listed = []
    for row in rows:
        search = {seed: growth_rows.search(row, seed) for seed in row.runs}
        for name in _answering(row):
            told = {seed: growth_rows.nets(row, seed).get(name, {}) for seed in row.runs}
            whole, known = name not in _TOGETHER, growth_rows.names(row)
            line = {
                "label": row.asked.tables["growth_cost"],
                "network": name,
                "devices": _devices(row) if whole else "",
            }
            for key in _SEARCH:
                line[key] = row.spread(lambda seed, key=key, of=search: of[seed].get(key)) if whole else ""
            for key in ("params_with_statistics", "accuracy"):
                line[key] = row.spread(lambda seed, key=key, of=told: of[seed].get(key)) if known else ""
            listed.append(line)
    columns = (
        *(_LABEL, _NET, _count("networks", "networks evaluated"), words("devices", "devices")),
        numbers("seconds", "their training (hours)", 3, 3600),
        numbers("apart_s", "without further training (hours)", 3, 3600),
        numbers("scoring_s", "importances (hours)", 3, 3600),
        *(numbers("energy_j", "energy (kJ)", 1, 1e3), _PARAMS, _ACCURACY),
    )
    explanation = (
        "What the search took: every network that was trained or read off for it, the temporary ones too, without those "
        "trained for comparison, and without the source of weights, which has a line of its own. A search ends before the "
        "further training of the networks that are kept, which hours and energy of their training hold too; it takes the "
        "hours without it, and those of the importances by which networks are compared. Energy is of training alone. Of runs "
        "that name others to answer with there is that answer alone."
    )
    return Table("growth_cost", "Cost of the search", explanation, columns, listed, _sources(rows, "growth_cost"))


def _devices(row: Row) -> str | None:
    """What a row's runs were trained on; "" where they do not tell."""
    told = [growth_rows.training(row, seed).get("devices") for seed in row.runs]
    return "; ".join(dict.fromkeys(filter(None, told))) if told else None


def _answering(row: Row) -> tuple[str, ...]:
    """The last candidate, and the ensembles that runs tell of; of a run that names others what all answer together, alone."""
    if row.asked.settings.get("evaluate.also"):
        return (growth_tables.ENSEMBLES["joint_ensemble"],)
    every = [name for name in growth_rows.names(row) if name != growth_rows.called(UNIFORM)]
    told = {name for seed in row.runs for name in growth_rows.nets(row, seed)}
    return (*every[-1:], *(name for name in _TOGETHER if name in told)) if every else ("",)


def _elsewhere(rows: Sequence[Row]) -> Table:
    top5 = numbers(tables.TOP5, "among the five likeliest, test (%)", scale=0.01)
    columns = (_LABEL, _count("image_side", "image (pixels a side)"), _MODULES, *_COSTS, top5, _ACCURACY)
    explanation = f"Nets of depths that were found elsewhere, trained from scratch, and nets of uniform depth. {_TOLD}"
    return Table("growth_elsewhere", "Depths found elsewhere", explanation, columns, _lines(rows, "growth_elsewhere"))


def _controls(rows: Sequence[Row]) -> Table:
    listed = _lines(rows, "growth_controls", lambda row: (growth_rows.last(row),))
    coins = next((row for row in rows if row.asked.settings.get("grow.criterion") == RANDOM), None)
    for row, line in zip(rows, listed, strict=True):
        line |= _above_uniform(row) | _above_coins(row, coins)
    columns = (_LABEL, _MODULES, _MACS, _ACCURACY, numbers("uniform_macs", "MACs of uniform depth (M)", 3, 1e6))
    columns += (numbers("macs_ratio", "MACs, of those of uniform depth (%)", 1, 0.01),)
    notes: tuple[str, ...] = ()
    for name, called in (("uniform", "uniform depth"), ("coins", "coins")):
        columns += (numbers(f"above_{name}", f"above {called} (points)", scale=0.01, sign=True),)
        columns += (words(f"wins_{name}", f"seeds above {called}"),)
        notes += verdict({line["label"]: line[f"above_{name}"] for line in listed}, called)
    explanation = (
        "The last candidate beside the net of the same depth in all stages whose MACs are nearest to its own, and beside what "
        "as many trainings come to where coins say which stages grow; on the test images, seed by seed. Uniform depth comes in "
        "whole modules: its MACs are near to the candidate's, not the same."
    )
    return Table("growth_controls", "Uniform depth, and coins", explanation, columns, listed, notes)


def _above_uniform(row: Row) -> dict[str, Spread | str | None]:
    """The last candidate beside the control of the same run."""
    if not row.asked.settings.get("grow.uniform"):
        return dict.fromkeys(("uniform_macs", "macs_ratio", "above_uniform", "wins_uniform"), "")
    nets = {seed: growth_rows.nets(row, seed) for seed in row.runs}
    control = {seed: told.get(growth_rows.called(UNIFORM), {}) for seed, told in nets.items()}
    own = {seed: told.get(growth_rows.last(row), {}) for seed, told in nets.items()}
    both = [(growth_rows.accuracy(row, seed), told.get("accuracy")) for seed, told in control.items()]
    above, wins = study_rows.compared(both, len(row.asked.paths))
    macs = row.spread(lambda seed: control[seed].get("macs"))
    ratio = row.spread(lambda seed: own[seed]["macs"] / control[seed]["macs"] if control[seed] and own[seed] else None)
    return {"uniform_macs": macs, "macs_ratio": ratio, "above_uniform": above, "wins_uniform": wins}


def _above_coins(row: Row, coins: Row | None) -> dict[str, Spread | str | None]:
    """The last candidate beside that of coins with the same seed."""
    known = ("", "") if coins in (None, row) else study_rows.paired(row, coins, growth_rows.accuracy)
    return dict(zip(("above_coins", "wins_coins"), known, strict=True))


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
            alone = line["network"] == growth_rows.called(UNIFORM)
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
