"""The page of a study, its tables and figures, all from the artifacts of its runs."""

from __future__ import annotations

import functools
import html as markup
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from dynnas_jax import kinds
from dynnas_jax.reports import (
    growth_plots,
    growth_study,
    page,
    routing_plots,
    sections,
    study_devices,
    study_figures,
    study_rows,
    study_settings,
    study_tables,
    tables,
)
from dynnas_jax.reports.source import Source, figure
from dynnas_jax.reports.spreads import Table
from dynnas_jax.reports.study_rows import Asked, Row
from dynnas_jax.workdir import write_bytes

_WIDE = "main { max-width: 90rem; }\n"  # tables of many columns
_ABSENT = f'<p class="absent">{tables.NOT_RUN}</p>'


def write(folder: Path, title: str, asked: Sequence[Asked], made_by: str) -> Path:
    """Writes `study.html`, `tables/*.csv`, `tables/*.md` and `figures/*.png`; what has not been run says so.

    Args:
      folder: of the study.
      asked: its rows; made_by: the command that makes them.

    Returns:
      The path of `study.html`.

    Raises:
      ValueError: for a corrupt artifact (named); what was written before is as it was.
    """
    rows = [study_rows.read(one) for one in asked]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".study.") as made:
        where = Path(made)
        parts = [f"<h1>{markup.escape(title)}</h1>", _headline(rows)]
        for name, build in study_tables.TABLES.items():
            mine = [row for row in rows if name in row.asked.tables]
            if mine:
                parts.append(_of_table(build(mine), where, made_by))
            if name in _BESIDE and mine:
                parts.append(_BESIDE[name](mine, where))
            if name == "main" and mine:
                parts.append(_of_table(study_devices.table(mine), where, made_by))
        for row in rows:
            if study_tables.BEHAVIOUR in row.asked.tables:
                parts.append(_behaviour(row, where))
        parts.append(_learning(rows, where))
        parts += [
            _of_table(table(rows), where, made_by) for table in (study_settings.runs, study_settings.hyper_parameters)
        ]
        for part in ("tables", "figures"):
            shutil.rmtree(folder / part, ignore_errors=True)
            if (where / part).is_dir():
                (where / part).rename(folder / part)
    content = page.PAGE.format(title=markup.escape(title), css=page.CSS + _WIDE, body="\n".join(parts))
    write_bytes(folder / "study.html", content.encode())
    return folder / "study.html"


def _headline(rows: Sequence[Row]) -> str:
    done = sum(found.evaluation is not None for row in rows for found in row.runs.values())
    asked = sum(len(row.asked.paths) for row in rows)
    return (
        f'<p class="headline"><b>{done}</b> of {asked} runs are evaluated.</p>'
        "<p>Numbers are means over seeds ± the standard deviation of the sample (n − 1).</p>"
    )


def _of_table(table: Table, where: Path, made_by: str) -> str:
    table.write(where / "tables", made_by)
    notes = "".join(f"<p>{markup.escape(note)}</p>" for note in table.notes)
    return _section(table.heading, table.explanation, table.html() + notes)


def _section(heading: str, explanation: str, body: str) -> str:
    told = f"<p>{markup.escape(explanation)}</p>" if explanation else ""
    return f"<section><h2>{markup.escape(heading)}</h2>\n{told}\n{body}</section>"


def _fronts(rows: Sequence[Row], where: Path) -> str:
    measures, body = study_tables.of_networks(rows), ""
    for cost, (axis, _) in study_figures.COSTS.items():
        drawn = study_figures.front(rows, measures, cost)
        caption = f"Means over the seeds, with standard deviations, against the {axis}."
        body += figure(_source(where), f"front_{cost}", drawn, caption) if drawn else f"<h3>{axis}</h3>{_ABSENT}"
    return _section("Accuracy against cost", "Every network of the main table; a line joins those of one row.", body)


def _growth_fronts(rows: Sequence[Row], where: Path, table: str) -> str:
    axis, scale = study_figures.COSTS["macs"]
    series, body = growth_study.fronts(rows, table), _ABSENT
    if series:
        drawn = study_figures.lines(series, axis, scale)
        body = figure(_source(where), table, drawn, "Means over the seeds, with standard deviations.")
    return _section(
        "Accuracy against MACs", "A line joins the nets of one row, each grown out of the one before.", body
    )


def _modules(rows: Sequence[Row], where: Path) -> str:
    found, body = growth_study.modules(rows), _ABSENT
    if found:
        drawn = growth_plots.modules(found)
        body = figure(_source(where), "growth_modules", drawn, "Modules of each stage, means over the seeds.")
    return _section("Where each criterion adds modules", "Of the last candidates.", body)


_BESIDE: dict[str, Callable[[Sequence[Row], Path], str]] = {  # figures below a table, by its name
    "main": _fronts,
    "growth_criteria": _modules,
    **{name: functools.partial(_growth_fronts, table=name) for name in ("growth_residual", "growth_cells")},
}


def _source(where: Path, row: Row | None = None, seed: int = 0) -> Source:
    """What figures are made from; of the study, or of one run."""
    return Source(where, where, None) if row is None else Source(row.asked.paths[seed], where, row.runs[seed])


def _learning(rows: Sequence[Row], where: Path) -> str:
    """How far each training has come with its steps."""
    curves = {row.asked.name: study_figures.learning_curves(row) for row in study_figures.trainings(rows)}
    curves, body = {name: roles for name, roles in curves.items() if roles}, _ABSENT
    if curves:
        points = [
            {"row": name, "net": role, "step": int(step), **{f"seed_{i}": v for i, v in enumerate(seeds.tolist())}}
            for name, roles in curves.items()
            for role, (steps, values) in roles.items()
            for step, seeds in zip(steps, values.T, strict=True)
        ]
        tables.write_csv(where / "tables" / "learning.csv", points)
        caption = "Means over the seeds, with standard deviations, of averaged weights. Supernets: by their subnets."
        body = figure(_source(where), "learning", study_figures.learning(curves), caption)
    told = "Whether more steps would help: each training once, by the first row that it is of."
    return _section("How far the trainings have come", told, body)


def _behaviour(row: Row, where: Path) -> str:
    name = row.asked.tables[study_tables.BEHAVIOUR]
    parts = {
        "Which images leave early": _exits(row, where),
        "Thresholds": _thresholds(row, where),
        "How far the probabilities can be trusted": _reliability(row, where),
        "Images routed rightly and wrongly": _cases(row, where),
        "The architectures found": _archs(row, where),
    }
    told = {heading: part for heading, part in parts.items() if part != ""}
    body = "".join(f"<h3>{heading}</h3>{part or _ABSENT}" for heading, part in told.items())
    return _section(f"How it decides: {name}", "", body)


def _exits(row: Row, where: Path) -> str | None:
    drawn = study_figures.exits(row)
    caption = (
        "Test images, means over the seeds. The third of the images whose label big gives the most probability is easy, "
        "the third where it gives the least hard."
    )
    return drawn and figure(_source(where), f"exits_{row.asked.name}", drawn, caption)


def _thresholds(row: Row, where: Path) -> str | None:
    at, curves = study_figures.threshold_curves(row)
    if not len(curves["accuracy"]):
        return None
    rows = [
        {
            "threshold": float(one),
            **{f"{key}_seed_{i}": float(v[t]) for key, of in curves.items() for i, v in enumerate(of)},
        }
        for t, one in enumerate(at)
    ]
    tables.write_csv(where / "tables" / f"thresholds_{row.asked.name}.csv", rows)
    caption = (
        f"Test images, {len(curves['accuracy'])} seeds: mean and standard deviation, and on the right a line for each."
    )
    drawn = study_figures.threshold_figure(at, curves)
    return figure(_source(where), f"thresholds_{row.asked.name}", drawn, caption)


def _reliability(row: Row, where: Path) -> str | None:
    bins = study_figures.pooled_bins(row)
    caption = "Test answers of all seeds together, in bins by their probability. Below the line: surer than right."
    drawn = routing_plots.reliability(bins) if bins else None
    return drawn and figure(_source(where), f"reliability_{row.asked.name}", drawn, caption)


def _cases(row: Row, where: Path) -> str | None:
    seed = next((seed for seed, found in row.runs.items() if found.evaluation), None)
    if seed is None:
        return None
    body = sections.BUILDERS["cases"](_source(where, row, seed))
    for part in ("tables/cases.csv", "figures/cases.png"):  # as a run names them; another row has its own
        if (where / part).exists():
            (where / part).rename((where / part).with_stem(f"cases_{row.asked.name}"))
    return body and f"<p>Of seed {seed}:</p>{body}"


def _archs(row: Row, where: Path) -> str | None:
    """The pairs that were searched; "" where the nets were not, as those of a cascade of published ones."""
    if row.asked.kind is kinds.CASCADE:
        return ""
    drawn = study_figures.archs(row)
    caption = "Colour and width of a box: depthwise kernel. Height: expansion of the channels inside the block."
    return drawn and figure(_source(where), f"archs_{row.asked.name}", drawn, caption)
