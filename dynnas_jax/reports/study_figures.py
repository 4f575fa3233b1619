"""The figures of a study: fronts of all networks, how each training went, how the pair of a row behaves, over its seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynnas_jax.dynamic import thresholds
from dynnas_jax.reports import artifacts, plots, routing_plots, study_rows
from dynnas_jax.reports.spreads import Spread
from dynnas_jax.reports.study_rows import Row

MOST_NINES, POINTS = 6, 121  # of a threshold curve: up to 0.999999, so many thresholds
COSTS = {  # a key of `study_rows.measured`: the axis, and its scale
    "macs": ("average MACs of one image (millions)", 1e6),
    "latency_ms": ("average latency of one image (ms)", 1.0),
    "energy_mj": ("average energy of one image (mJ)", 1.0),
}
_NETS = ("little", "big", "dynamic")
_TRAINING = ("train", "grow")  # the stages that train a row's nets
_HELD_OUT = "holdout_accuracy"  # in what a training logs, behind it the role of a subnet
_ACROSS = 4  # trainings side by side


def front(rows: Sequence[Row], measures: Mapping[tuple[str, str], Mapping], cost: str):
    """Accuracy against a cost, a line for each row through its networks, means with standard deviations; None without any.

    Args:
      measures: of `study_tables.of_networks`; cost: of `COSTS`.
    """
    series = {}
    for row in rows:
        known = [measures[row.asked.name, network] for network in study_rows.networks(row)]
        points = [(one[cost], one["top1"]) for one in known]
        points = [(x, y) for x, y in points if isinstance(x, Spread) and isinstance(y, Spread)]
        if points:
            series[row.asked.tables["main"]] = sorted(points, key=lambda point: point[0].mean)
    return lines(series, *COSTS[cost]) if series else None


@plots.styled
def lines(series: Mapping[str, Sequence[tuple[Spread, Spread]]], axis: str, scale: float):
    """A line for each name through its (cost, accuracy in [0, 1]); the cost is divided by `scale`."""
    from matplotlib.ticker import LogLocator

    figure, (axes,) = plots.panels(1, height=4.3)
    # Yellow last, which is pale on white.
    colours = (*(plots.COLOURS[name] for name in ("dynamic", "little", "big")), *plots.EXTRA[:3])
    colours += (plots.INK, plots.GREY, plots.EXTRA[3])
    for index, (name, points) in enumerate(series.items()):
        x, y = ([point[which].mean for point in points] for which in (0, 1))
        across, along = ([point[which].deviation or 0.0 for point in points] for which in (0, 1))
        again, colour = divmod(index, len(colours))  # more names than colours: dashed from then on
        style = {"color": colours[colour], "linestyle": "--" if again else "-", "marker": "osD^vP*X"[index % 8]}
        errors = {"xerr": np.asarray(across) / scale, "yerr": 100 * np.asarray(along), "elinewidth": 0.9, "capsize": 2}
        axes.errorbar(np.asarray(x) / scale, 100 * np.asarray(y), **errors, **style, markersize=5, label=name)
    axes.set(xlabel=axis, ylabel="top-1 on the test images (%)", xscale="log")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter("{x:.2g}")
    axes.legend(loc="best")
    return figure


def trainings(rows: Sequence[Row]) -> list[Row]:
    """The rows whose runs train something; of those that train the same, as all of one supernet's searches do, the first."""
    found: dict[str, Row] = {}
    for row in rows:
        reads = next((stage.reads for stage in row.asked.kind.stages if stage.name in _TRAINING), ())
        of_it = tuple(f"{name}." for name in reads)
        own = {key: value for key, value in row.asked.settings.items() if key in reads or key.startswith(of_it)}
        if "train.steps" in own:
            found.setdefault(json.dumps(own, sort_keys=True, default=list), row)
    return list(found.values())


def learning_curves(row: Row) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By the role of a subnet ("net" of a fixed network): (steps [k], accuracies on held-out images [seeds, k]).

    Of seeds that are not equally far, the steps that all of them have.
    """
    curves: dict[str, list[dict[int, float]]] = {}
    for found in row.runs.values():
        entries = found.metrics or []
        for name in dict.fromkeys(key for entry in entries for key in entry if key.startswith(_HELD_OUT)):
            steps, values = artifacts.series(entries, name)
            role = name.removeprefix(_HELD_OUT).removeprefix("_") or "net"
            curves.setdefault(role, []).append(dict(zip(steps.tolist(), values, strict=True)))
    known = {}
    for role, seeds in curves.items():
        steps = sorted(set.intersection(*map(set, seeds)))
        known[role] = np.asarray(steps), np.asarray([[seed[step] for step in steps] for seed in seeds])
    return {role: curve for role, curve in known.items() if len(curve[0])}


@plots.styled
def learning(curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]):
    """A panel for each training: accuracy on held-out images by step, mean and standard deviation over the seeds.

    Args: curves: by the name of a row, as `learning_curves` returns them. The accuracies of the first half of the steps may lie
      below the panels, so that the rest shows whether more steps would help.
    """
    from matplotlib.figure import Figure

    lines = -(-len(curves) // _ACROSS)
    figure = Figure(figsize=(plots.WIDTH, 0.4 + 1.75 * lines), layout="constrained")
    grid = figure.subplots(lines, _ACROSS, squeeze=False, sharey=True).ravel()
    colours = {"largest": "big", "smallest": "little", "net": "dynamic"}
    drawn = {}
    for axes, (name, roles) in zip(grid, curves.items(), strict=False):
        axes.set_title(name, fontsize=9)
        for role, (steps, values) in roles.items():
            mean, spread = 100 * values.mean(axis=0), 100 * values.std(axis=0, ddof=1) if len(values) > 1 else 0.0
            colour = plots.COLOURS[colours.get(role, "dynamic")]
            drawn[role] = axes.errorbar(steps, mean, yerr=spread, color=colour, marker="o", markersize=3, linewidth=1.2)
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    late = [v[:, len(steps) // 2 :].mean(axis=0).min() for roles in curves.values() for steps, v in roles.values()]
    grid[0].set_ylim(100 * min(late) - 1, 100.4)
    figure.supxlabel("training step", fontsize=9)
    figure.supylabel("accuracy on held-out images (%)", fontsize=9)
    figure.legend(drawn.values(), drawn, loc="outside upper center", ncols=len(drawn))
    return figure


def threshold_curves(row: Row) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(thresholds [t], accuracy, average_macs and exit_rate [seeds, t]) of a row's pairs, over the seeds that are evaluated."""
    at = 1 - 10.0 ** -np.linspace(0, MOST_NINES, POINTS)
    known = {"accuracy": [], "average_macs": [], "exit_rate": []}
    for seed, outputs in row.outputs.items():
        cost = study_rows.at(row.runs[seed], "found.pair.cost")
        if cost is None:
            continue
        points = [thresholds.evaluate(outputs["score"], outputs["correct"], np.asarray(cost), [each]) for each in at]
        known["accuracy"].append([point.accuracy for point in points])
        known["average_macs"].append([point.average_cost for point in points])
        known["exit_rate"].append([point.exit_rate[0] for point in points])
    return at, {name: np.asarray(values) for name, values in known.items()}


@plots.styled
def threshold_figure(at: np.ndarray, curves: Mapping[str, np.ndarray]):
    """Accuracy and exit rate by threshold, mean and standard deviation over the seeds; accuracy by average MACs, a line a seed.

    Args: as `threshold_curves` returns them.
    """
    figure, (left, middle, right) = plots.panels(3, height=3.1)
    nines = -np.log10(1 - at)
    for axes, name, label in ((left, "accuracy", "top-1 (%)"), (middle, "exit_rate", "answered by little (%)")):
        mean = 100 * curves[name].mean(axis=0)
        spread = 100 * curves[name].std(axis=0, ddof=1) if len(curves[name]) > 1 else np.zeros_like(mean)
        axes.plot(nines, mean, color=plots.COLOURS["dynamic"])
        axes.fill_between(nines, mean - spread, mean + spread, color=plots.COLOURS["dynamic"], alpha=0.2, linewidth=0)
        ticks = range(0, MOST_NINES + 1, 2)
        axes.set_xticks(list(ticks), [f"{1 - 10.0**-n:.{n}f}" if n < 4 else f"$1-10^{{-{n}}}$" for n in ticks])
        axes.set(xlabel="threshold", ylabel=label)
    for macs, accuracy in zip(curves["average_macs"], curves["accuracy"], strict=True):
        right.plot(macs / 1e6, 100 * accuracy, color=plots.COLOURS["dynamic"], alpha=0.6)
    right.set(xlabel="average MACs (millions)", ylabel="top-1 (%)")
    return figure


def exits(row: Row):
    """Which share of easy, medium and hard images, and of each class, little answers, and how often each net is right on them.

    None where no run tells.
    """
    told = [found.evaluation for found in row.runs.values() if found.evaluation and "by_difficulty" in found.evaluation]
    if not told:
        return None
    names = next((found.classes for found in row.runs.values() if found.classes), ())
    groups = []
    for title, key in (("by difficulty", "by_difficulty"), ("by class", "by_class")):
        mean = {name: mean_of([one[key][name] for one in told]) for name in (*_NETS, "exit_rate")}
        labels = told[0][key].get("names") or list(names) or list(map(str, range(len(mean["exit_rate"]))))
        right = {name: mean[name] for name in _NETS}
        groups.append({"title": title, "names": labels, "exit_rate": mean["exit_rate"], "right": right})
    return routing_plots.exits(groups)


def mean_of(lists: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The means of numbers at the same places, of those that are not None."""
    columns = ([value for value in column if value is not None] for column in zip(*lists, strict=True))
    return [float(np.mean(column)) if column else None for column in columns]


def pooled_bins(row: Row) -> dict[str, dict[str, list]]:
    """The bins of the reliability diagrams of all seeds as one, by net, each weighing as many answers as it has."""
    told = [study_rows.at(found, "evaluation.calibration") for found in row.runs.values()]
    told = [one for one in told if one]
    return {name: _pooled([one[name] for one in told]) for name in (told[0] if told else ())}


def _pooled(each: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    images = np.asarray([one["images"] for one in each])
    total, found = images.sum(axis=0), {"images": images.sum(axis=0).tolist()}
    for key in ("probability", "accuracy"):
        values = np.nan_to_num(np.asarray([one[key] for one in each], np.float64))
        weighed = (images * values).sum(axis=0)
        found[key] = [float(sum_ / count) if count else None for sum_, count in zip(weighed, total, strict=True)]
    return found


def archs(row: Row):
    """The pairs that were found, little and big of every seed; None where none is."""
    drawn = {}
    for seed, found in row.runs.items():
        for which in ("little", "big"):
            if arch := study_rows.at(found, f"found.pair.{which}.arch"):
                drawn[f"seed {seed}, {which}"] = arch
    return plots.archs(drawn) if drawn else None
