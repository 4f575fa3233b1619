"""The sections of the report: each reads the artifacts, writes its tables (CSV) and figures (PNG), and returns HTML.

A section whose stage has not run returns None.
"""

import html as markup
from collections.abc import Callable

import numpy as np

from dynnas_jax import kinds
from dynnas_jax.costs import energy
from dynnas_jax.dynamic import thresholds
from dynnas_jax.reports import (
    artifacts,
    devices,
    edgetpu_compiler,
    exit_sections,
    gate_sections,
    growth_sections,
    plots,
    routing_sections,
    superclass_sections,
    tables,
    threshold_control,
)
from dynnas_jax.reports.source import Source
from dynnas_jax.reports.source import figure as _figure
from dynnas_jax.reports.source import table as _table
from dynnas_jax.search import pareto


def _summary(source: Source) -> str:
    body = _table(source, "summary", tables.summary(source.found), tables.summary_columns(source.found))
    evaluation = source.found.evaluation
    if evaluation and "paired" in evaluation:
        gained, lost = (evaluation["paired"][f"dynamic_{key}"] for key in ("right_big_wrong", "wrong_big_right"))
        chance = tables.sign_test(gained, lost)
        verdict = "chance alone could explain it" if chance > 0.05 else "chance alone hardly explains it"
        body += (
            f"<p>On {gained + lost} images only one of dynamic and big is right: dynamic on {gained}, big on {lost}; "
            f"{verdict} (two-sided sign test, p = {chance:.2g}).</p>"
        )
    target = tables.main_target(source.found.exports)
    if target:
        body += f"<p>Latencies were measured for the target <b>{markup.escape(target)}</b>.</p>"
    return body


def _records(source: Source) -> str | None:
    macs, accuracy = artifacts.recorded(source.workdir)
    if not len(macs):
        return None
    front = pareto.front(macs, accuracy)
    rows = [{"macs": m, "accuracy": a, "front": f} for m, a, f in zip(macs, accuracy, front, strict=True)]
    tables.write_csv(source.folder / "tables" / "records.csv", rows)
    entries, marks = tables.front(source.found), {}
    if source.found.found:
        pair = source.found.found["pair"]
        known = {str(entry.get("genome")): entry.get("holdout_accuracy") for entry in source.found.found["front"]}
        for name in ("little", "big"):
            marks[name] = (pair[name]["macs"], known.get(str(pair[name].get("genome"))))
        if "holdout" in pair:
            marks["dynamic"] = (pair["holdout"]["average_macs"], pair["holdout"]["accuracy"])
    found = [(row["macs"], row["holdout_accuracy"]) for row in entries if row["holdout_accuracy"] is not None]
    figure = plots.accuracy_against_macs(macs, accuracy, front, found=found, marks=marks)
    caption = f"{len(macs)} subnets of the supernet, none trained on its own. Stars: what was chosen."
    if (speed := source.found.speed) and speed["subnets_per_s"]:
        on = "one device" if speed["devices"] == 1 else f"{speed['devices']} devices"
        caption += f" They were evaluated at {speed['subnets_per_s']:.3g} subnets a second on {on}."
    if told := (source.found.found or {}).get("latency_device"):
        caption += f" Budgets in milliseconds are of {markup.escape(told['board'])}, {markup.escape(told['runtime'])}."
    caption += _strategy(source.found.found or {})
    if any(accuracy is None for _, accuracy in marks.values()):
        caption += " A dashed line: chosen too, but measured in another stage only."
    body = _figure(source, "accuracy_against_macs", figure, caption)
    return body + (_table(source, "front", entries, tables.front_columns(entries)) if entries else "")


def _strategy(found: dict) -> str:
    """How many nets there are, what looked for the pair, and what that took."""
    said = f" The space has {found['subnets']:,} subnets and {found['pairs']:,} pairs." if "pairs" in found else ""
    effort = found.get("effort")
    if not effort:
        return said
    name = markup.escape(found["strategy"].replace("_", "-"))
    said += f" The pair was looked for by strategy {name}: {effort['architectures']:,} evaluated"
    said += f", {effort['images']:,} images forwarded"
    if "device_s" in effort:
        hours = effort["device_s"] * effort["devices"] / 3600
        said += f", {hours:.3g} device-hours, {effort['peak_memory_bytes'] / 2**20:,.0f} MiB at most"
    return f"{said}."


def _predictor(source: Source) -> str | None:
    predictor = source.found.predictor
    if not predictor or not predictor["predicted"]:
        return None
    pairs = zip(predictor["predicted"], predictor["actual"], strict=True)
    rows = [{"predicted": guess, "actual": truth} for guess, truth in pairs]
    tables.write_csv(source.folder / "tables" / "predictor.csv", rows)
    figure = plots.predicted_against_actual(np.array(predictor["predicted"]), np.array(predictor["actual"]))
    caption = f"{len(rows)} subnets the predictor was not fitted on. Kendall's tau: {predictor['kendall_tau']:.3f}."
    return _figure(source, "predictor", figure, caption)


def _thresholds(source: Source) -> str | None:
    outputs, found = source.found.outputs, source.found.found
    if outputs is None or found is None:
        return None
    pair, correct, choice = found["pair"], outputs["correct"], outputs["choice"]
    cost = np.asarray(pair["cost"], np.float64)
    curve = thresholds.curve(outputs["score"], correct, cost)
    columns = {"threshold": curve.thresholds, "accuracy": curve.accuracy, "average_macs": curve.average_cost}
    columns["exit_rate"] = curve.exit_rate[:, 0]
    points = zip(*(column.tolist() for column in columns.values()), strict=True)
    listed = [dict(zip(columns, point, strict=True)) for point in points]
    tables.write_csv(source.folder / "tables" / "threshold_curve.csv", listed)
    accuracy = correct[np.arange(len(choice)), choice].mean()
    chosen = {"threshold": pair["thresholds"][0], "accuracy": accuracy, "macs": cost[choice].mean()}
    marks = {name: (pair[name]["macs"], correct[:, i].mean()) for i, name in enumerate(("little", "big"))}
    figure = plots.threshold_curve(*columns.values(), chosen=chosen, marks=marks)
    rows = tables.routers(source.found)
    name = markup.escape(rows[0]["router"] if rows else pair.get("score", "score"))
    used = f"the threshold in use, {chosen['threshold']:.6g} on the score {name}"
    caption = f"Test images. Star: {used}; it was chosen on images held out from the training data, not on these."
    said = "<p>What makes the score, on the test images; the one in use stands first:</p>"
    table = said + _table(source, "routers", rows, tables.ROUTERS) if rows else ""
    control = threshold_control.html(
        outputs["score"],
        correct,
        pair["thresholds"],
        names=("little", "big"),
        macs=pair["cost"],
        last_macs=pair["big"]["macs"],
        latencies_ms=threshold_control.latencies_ms(source.found),
    )
    return _figure(source, "threshold_curve", figure, caption) + control + table


def _training(source: Source) -> str | None:
    metrics = source.found.metrics
    if not metrics:
        return None
    names = list(dict.fromkeys(key for entry in metrics for key in entry))
    curves = []
    for whole in ("loss", "holdout_accuracy"):  # of one fixed network; of a supernet's subnets by their roles
        roles = {name.removeprefix(f"{whole}_"): name for name in names if name.startswith(f"{whole}_")}
        roles = roles or ({"net": whole} if whole in names else {})
        curves.append({role: artifacts.series(metrics, name) for role, name in roles.items()})
    steps, speed = artifacts.series(metrics, "images_per_s")
    caption = f"Last step recorded: {max(entry['step'] for entry in metrics):,}."
    if len(steps):
        caption += f" Median throughput: {np.median(speed):,.0f} training images a second."
    return _figure(source, "training", plots.training(*curves), caption)


def _archs(source: Source) -> str | None:
    if source.found.found is None:
        return None
    pair = source.found.found["pair"]
    drawn = {name: pair[name]["arch"] for name in ("little", "big") if "kernel" in pair[name].get("arch", ())}
    if not drawn:
        return None
    shared = f" The stem they share costs {pair['stem_macs'] / 1e6:.3f} M MACs." if "stem_macs" in pair else ""
    caption = (
        "Colour and width of a box: depthwise kernel. Height: expansion of the channels inside the block." + shared
    )
    return _figure(source, "archs", plots.archs(drawn), caption)


def _exports(source: Source) -> str | None:
    body = ""
    for target, export in source.found.exports.items():
        body += f"<h3>{markup.escape(target)}</h3>"
        body += _table(source, f"export_{target}", tables.exported_files(export), tables.FILES)
        for warning in dict.fromkeys(line for file in export["files"].values() for line in file.get("warnings", ())):
            body += f"<p>{markup.escape(warning)}</p>"
        body += _compiled(source, target, export.get("compiler", {})) + _kept(export.get("kept"))
        cascades = tables.cascades(export)
        if cascades:
            words, columns = _decision(source.found.kind)
            body += f"<p>The whole decision, {words}:</p>" + _table(source, f"cascade_{target}", cascades, columns)
    return body or None


def _decision(kind: kinds.Kind) -> tuple[str, tuple[tables.Column, ...]]:
    """How a run's exported nets decide together, and the columns of what was measured of it."""
    if kind is kinds.SLIMMABLE:
        return "each image along the way that the gates pick for it", tables.GATES_DECIDED
    if kind in kinds.OF_EXITS:
        return "exit after exit until one is sure enough", tables.EXITS_DECIDED
    return "little first and big where little is unsure", tables.CASCADES


def _kept(kept: dict | None) -> str:
    """Which paths of a gated network are in the files."""
    if kept is None:
        return ""
    return f"<p>The files hold {len(kept['paths'])} paths; {100 * kept['share']:.1f} % of the test images take one of them.</p>"


def _compiled(source: Source, target: str, compiler: dict) -> str:
    """What the Edge TPU compiler says of the nets, or the command that has not been run."""
    if "command" in compiler:
        command = markup.escape(compiler["command"])
        return f"<p>Not compiled, since the Edge TPU compiler was not there. Where it is: <code>{command}</code></p>"
    if not (rows := edgetpu_compiler.rows(compiler)):
        return ""
    said = "<p>What the Edge TPU compiler says of the nets, which share the cache:</p>"
    return said + _table(source, f"compiler_{target}", rows, edgetpu_compiler.COLUMNS)


def _devices(source: Source) -> str | None:
    rows = devices.rows(source.found)
    if not rows:
        return None
    tables.write_csv(source.folder / "tables" / "devices.csv", rows)
    notes = "".join(f"<p>{markup.escape(note)}</p>" for note in devices.notes(source.found))
    return tables.html(rows, devices.COLUMNS, "not measured") + notes


def _settings(source: Source) -> str | None:
    if source.found.config is None:
        return None
    table = _table(source, "config", tables.settings(source.found.config), tables.SETTINGS)
    return f"<details><summary>Show the configuration</summary>{table}</details>"


def _machine(source: Source) -> str | None:
    keys = ("machine", "threads", "runs", "warm_up", "versions")
    rows = [
        {"key": f"{target}.{row['key']}", "value": row["value"]}
        for target, export in source.found.exports.items()
        for row in tables.settings({key: export[key] for key in keys if key in export})
    ]
    return _table(source, "machine", rows, tables.SETTINGS) if rows else None


# By the name that a chapter gives.
def _times(source: Source) -> str | None:
    rows = [{"stage": stage, "seconds": round(spent, 1)} for stage, spent in source.found.times.items()]
    columns = (
        tables.Column("stage", "stage", tables.plain("stage"), numeric=False),
        tables.Column("seconds", "seconds", tables.number("seconds", 1)),
    )
    if trainings := source.found.trainings:
        rows = [row | _energy(trainings.get(row["stage"], {}).get("energy_j")) for row in rows]
        columns += (
            tables.Column("energy_j", "energy (kJ)", tables.number("energy_j", 2, 1e3)),
            tables.Column("carbon_g", "kgCO2eq", tables.number("carbon_g", 5, 1e3)),
        )
    return _table(source, "times", rows, columns) + _metered(trainings or {}) if rows else None


def _energy(energy_j: float | None) -> dict[str, float | str]:
    """Of a stage whose training was metered; empty of any other."""
    if energy_j is None:
        return {"energy_j": "", "carbon_g": ""}
    return {"energy_j": energy_j, "carbon_g": energy.carbon_g(energy_j)}


def _metered(trainings: dict[str, dict]) -> str:
    """How the energy of trainings is known, and what the carbon is that of."""
    keys = ("source", "devices")
    told = [", ".join(filter(None, (one.get(key) for key in keys))) for one in trainings.values()]
    named = markup.escape("; ".join(dict.fromkeys(filter(None, told))))
    grid = f"{energy.GRID_G_PER_KWH['world']:g} g a kWh, the world's in 2018"
    return f"<p>Energy of training alone: {named or 'not told'}. Carbon at {grid}.</p>" if trainings else ""


BUILDERS: dict[str, Callable[[Source], str | None]] = {
    "summary": _summary,
    "thresholds": _thresholds,
    **routing_sections.BUILDERS,
    **exit_sections.BUILDERS,
    **superclass_sections.BUILDERS,
    **gate_sections.BUILDERS,
    **growth_sections.BUILDERS,
    "archs": _archs,
    "records": _records,
    "predictor": _predictor,
    "training": _training,
    "exports": _exports,
    "devices": _devices,
    "settings": _settings,
    "times": _times,
    "machine": _machine,
}
