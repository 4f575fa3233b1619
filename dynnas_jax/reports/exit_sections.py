"""The sections of the report on nets of several exits; each returns None where the stage that it shows has not run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dynnas_jax.reports import artifacts, exit_plots, exit_tables, plots
from dynnas_jax.reports.exit_plots import Line
from dynnas_jax.reports.source import Source, figure, table


def headline(evaluation: dict) -> str:
    """The first sentence of the page."""
    net = evaluation["nets"][evaluation["deployed"]]
    share = 100 * net["average_macs"] / net["macs"][-1]
    return (
        f"The network of {len(net['macs'])} exits answers <b>{100 * net['accuracy']:.1f} %</b> of {evaluation['images']:,} test "
        f"images rightly at {net['average_macs'] / 1e6:.3f} million MACs on average, <b>{share:.0f} %</b> of what its last exit "
        f"takes; that one alone reaches {100 * net['all_images_accuracy'][-1]:.1f} %."
    )


def _summary(source: Source) -> str | None:
    rows = exit_tables.summary(source.found)
    if not rows:
        return None
    body = table(source, "summary", rows, exit_tables.summary_columns(rows, exit_tables.unit(source.found)))
    nets = {row["network"]: (row["macs"], row["accuracy"]) for row in rows}
    single = [(row["single_macs"], row["single_accuracy"]) for row in rows if row["single_macs"]]
    lines = (
        [Line("single nets of the same supernet", single)]
        if single
        else [_anytime("each exit alone", source.found.evaluation)]
    )
    caption = "Each letter is the net, with its thresholds, that was found for one target."
    if single:
        caption += (
            " Single nets: the most accurate of one exit that the same search finds within the same average cost."
        )
    if dearer := [row["network"] for row in rows if row["single_is_dearer"]]:
        caption += f" Within that of {', '.join(dearer)} it found none: the one shown costs more."
    rivals = exit_tables.rivals(source.found)
    for name, taken in source.found.baselines.items():
        points = [(row["macs"], row["accuracy"]) for row in rivals if row["run"] == name]
        lines += [Line(name, points, "s", "-")] if points else []
        lines += (
            [_anytime(f"{name}, each exit alone", taken["evaluation"])] if "nets" in taken.get("evaluation", {}) else []
        )
    for label, points in exit_tables.published(source.found.config).items():
        lines.append(exit_plots.published(label, points))
    if rivals:
        body += "<p>Other runs on the same test images:</p>" + table(source, "rivals", rivals, exit_tables.RIVALS)
    body += figure(source, "accuracy_against_macs", exit_plots.front(nets, lines), caption)
    return body + _against_latency(source, rows)


def _against_latency(source: Source, rows: list[dict]) -> str:
    """The same over milliseconds, where there is a latency table."""
    if any(row["latency_ms"] == "" for row in rows):
        return ""
    nets = {row["network"]: (row["latency_ms"], row["accuracy"]) for row in rows}
    single = [(row["single_latency_ms"], row["single_accuracy"]) for row in rows if row["single_latency_ms"] != ""]
    lines = [Line("single nets of the same supernet", single)] if single else []
    caption = "Latencies by the table that the run names, every exit a call of its own."
    return figure(source, "accuracy_against_latency", exit_plots.front(nets, lines, "latency_ms"), caption)


def _anytime(label: str, evaluation: dict) -> Line:
    """What each exit of a net does where it answers every image."""
    net = evaluation["nets"][0]
    return Line(label, list(zip(net["macs"], net["all_images_accuracy"], strict=True)), "^", ":")


def _exits(source: Source) -> str | None:
    rows = exit_tables.exits(source.found)
    if not rows:
        return None
    nets = {exit_tables.name(i): net for i, net in enumerate(source.found.evaluation["nets"])}
    caption = "On the test images. Images that leave late are the hard ones: the later exits are less accurate on them."
    columns = exit_tables.with_latency(exit_tables.EXITS, rows)
    return figure(source, "exits", exit_plots.exits(nets), caption) + table(source, "exits", rows, columns)


def _samples(source: Source) -> str | None:
    outputs, images = source.found.outputs, source.found.samples
    if outputs is None or not images:
        return None
    choice, groups = outputs["choice"], {}
    for exit in range(outputs["score"].shape[1]):
        rows = [row for row in images if choice[row] == exit]
        if rows:
            groups[f"Left at exit {exit + 1}"] = [_sample(source, row) for row in rows]
    if not groups:
        return None
    caption = "Under each image: its label, what the exit says, and its score. Red: the answer is wrong."
    return figure(source, "samples", plots.samples(groups), caption)


def _sample(source: Source, row: int) -> tuple[np.ndarray, str, bool]:
    outputs, classes = source.found.outputs, source.found.classes
    exit = outputs["choice"][row]
    said, label = outputs["prediction"][row, exit], outputs["label"][row]
    caption = f"{classes[label]}:\n{classes[said]}\n{outputs['score'][row, exit]:.3f}"
    return source.found.samples[row], caption, bool(outputs["correct"][row, exit])


def _predictors(source: Source) -> str | None:
    rows = exit_tables.predictors(source.found)
    if not rows:
        return None
    panels = {}
    for number, _ in enumerate(source.found.predictor["targets"]):
        fitted = artifacts.fitted(source.workdir, number)
        panels[exit_tables.name(number)] = (fitted["predicted"], fitted["actual"])
    caption = (
        "Rewards of recorded nets that the predictor was not fitted on; on the dashed line they are guessed exactly."
    )
    body = figure(source, "predictor", exit_plots.predicted(panels), caption)
    if gap := source.found.predictor.get("quantile_gap"):
        body += (
            f"<p>Rewards are told from thresholds on quantiles of the scores. On {gap['subnets']} records the best thresholds "
            f"reach {100 * gap['mean']:.2f} points more on average, {100 * gap['most']:.2f} at most.</p>"
        )
    unit = exit_tables.unit(source.found)
    return body + table(
        source,
        "predictors",
        rows,
        (exit_tables.PREDICTORS[0], exit_tables.target_column(unit), *exit_tables.PREDICTORS[1:]),
    )


BUILDERS: dict[str, Callable[[Source], str | None]] = {
    "exit_summary": _summary,
    "exit_shares": _exits,
    "exit_samples": _samples,
    "exit_predictors": _predictors,
}
