"""Rows of numbers of a run of nets of several exits, in the manner of `tables`; the nets of its targets are A, B and so on."""

from __future__ import annotations

import string
from collections.abc import Sequence

from dynnas_jax.reports import tables
from dynnas_jax.reports.artifacts import Artifacts
from dynnas_jax.reports.tables import Column, number, percent, plain


def name(number: int) -> str:
    """What the net of a target is called: A, B, ..., Z, A1, B1, ..."""
    letters = string.ascii_uppercase
    return letters[number % len(letters)] + (str(number // len(letters)) if number >= len(letters) else "")


def summary(artifacts: Artifacts) -> list[dict]:
    """One row for each target: the net at its thresholds on the test split, and the single net of at most its average cost."""
    rows = []
    for row, net in enumerate((artifacts.evaluation or {}).get("nets", ())):
        low, high = tables.interval(net["accuracy"], net["images"])
        single = net.get("single", {})
        told = {"network": name(row), "target": net["target"], "accuracy": net["accuracy"]}
        told |= {"accuracy_low": low, "accuracy_high": high, "macs": net["average_macs"]}
        told |= {"latency_ms": tables.known(net.get("average_latency_ms"))}
        told |= {f"macs_exit{exit}": macs for exit, macs in enumerate(net["macs"], 1)}
        alone = {f"single_{key}": tables.known(single.get(key)) for key in ("accuracy", "macs", "latency_ms")}
        rows.append(told | alone | {"single_is_dearer": single.get("feasible") is False})
    return rows


def unit(artifacts: Artifacts) -> str:
    """What the targets are told in: "macs" or "latency_ms"."""
    return (artifacts.found or artifacts.evaluation or {}).get("cost", "macs")


def summary_columns(rows: Sequence[dict], unit: str) -> tuple[Column, ...]:
    """The columns of `summary`, for targets in a unit; latencies and single nets where there are any."""
    exits = [key for key in rows[0] if key.startswith("macs_exit")] if rows else []
    spent = tuple(Column(key, f"up to exit {key.removeprefix('macs_exit')}", number(key, 3, 1e6)) for key in exits)
    alone = SINGLE if any(row["single_macs"] for row in rows) else ()
    return with_latency((SUMMARY[0], target_column(unit), *SUMMARY[1:], *spent, *alone), rows)


def target_column(unit: str) -> Column:
    """The column of targets in a unit."""
    if unit == "macs":
        return Column("target", "target (M MACs)", number("target", 3, 1e6))
    return Column("target", "target (ms)", number("target", 4))


def with_latency(columns: Sequence[Column], rows: Sequence[dict]) -> tuple[Column, ...]:
    """Columns without those of latencies that no row has."""
    known = any(row["latency_ms"] != "" for row in rows)
    return tuple(column for column in columns if known or "latency" not in column.key)


def in_short(artifacts: Artifacts) -> tuple[list[dict], tuple[Column, ...]]:
    """The rows of `summary` and their columns: what a run says at its end."""
    rows = summary(artifacts)
    return rows, summary_columns(rows, unit(artifacts))


def exits(artifacts: Artifacts) -> list[dict]:
    """One row for each exit of each net: what it costs, which part of the test images it answers, and how well."""
    found = []
    for row, net in enumerate((artifacts.evaluation or {}).get("nets", ())):
        limits = [*net["thresholds"], ""]
        latency = net.get("latency_ms", [""] * len(limits))
        columns = zip(
            *(net["macs"], latency, limits, net["exit_rate"], net["exit_accuracy"], net["all_images_accuracy"]),
            strict=True,
        )
        for exit, (macs, spent_ms, threshold, rate, accuracy, all_images) in enumerate(columns, 1):
            told = {"network": name(row), "exit": exit, "macs": macs, "latency_ms": spent_ms, "threshold": threshold}
            told |= {"exit_rate": rate, "accuracy": tables.known(accuracy), "all_images_accuracy": all_images}
            found.append(told)
    return found


def rivals(artifacts: Artifacts) -> list[dict]:
    """One row for each operating point of the runs taken in as baselines: accuracy on the test split, and average MACs."""
    found = []
    for run, taken in artifacts.baselines.items():
        told = taken.get("evaluation") or {}
        for row, net in enumerate(told.get("nets", ())):
            found.append({"run": run, "network": name(row), "accuracy": net["accuracy"], "macs": net["average_macs"]})
        for network in ("net", "little", "dynamic", "big"):
            if network in told:
                found.append(
                    {"run": run, "network": network, **{key: told[network][key] for key in ("accuracy", "macs")}}
                )
    return found


def published(config: dict | None) -> dict[str, list[tuple[float, float]]]:
    """By label, (MACs, accuracy in [0, 1]) of the points that a config gives as others have published them.

    Points whose `data` names another dataset than the run's are left out.

    Raises:
      ValueError: for a point without a label, MACs or an accuracy.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    points = ((config or {}).get("report") or {}).get("published") or ()
    name = ((config or {}).get("data") or {}).get("name")
    if not isinstance(points, Sequence):
        raise ValueError(f"report.published is {points!r}, must be a tuple of points")
    for point in points:
        try:
            label, macs, accuracy = str(point["label"]), float(point["macs"]), float(point["accuracy"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"report.published: {point!r} is no point of label, macs and accuracy") from error
        if not (macs > 0 and 0 <= accuracy <= 1):
            raise ValueError(f"report.published: {point!r} must have macs above 0 and an accuracy from 0 to 1")
        if point.get("data", name) == name:
            found.setdefault(label, []).append((macs, accuracy))
    return found


def predictors(artifacts: Artifacts) -> list[dict]:
    """One row for each target: how well the reward of a net is predicted, on records that were not learned from."""
    told, found = artifacts.predictor or {}, []
    for row, target in enumerate(told.get("targets", ())):
        entry = {"predicts": f"reward of {name(row)}", "target": target["target"]}
        found.append(entry | {key: target[key] for key in ("kendall_tau", "rmse", "fitted", "held_out")})
    if "single" in told:
        found.append({"predicts": "accuracy of a single net", "target": "", **told["single"]})
    return found


SUMMARY = (
    Column("network", "network", plain("network"), numeric=False),
    Column("accuracy", "accuracy", percent("accuracy")),
    Column(
        "accuracy_low", "95 % interval", lambda row: f"{100 * row['accuracy_low']:.1f}–{100 * row['accuracy_high']:.1f}"
    ),
    Column("macs", "average MACs (M)", number("macs", 3, 1e6)),
    Column("latency_ms", "average latency (ms)", number("latency_ms", 4)),
)
SINGLE = (
    Column("single_accuracy", "single net: accuracy", percent("single_accuracy")),
    Column("single_macs", "its MACs (M)", number("single_macs", 3, 1e6)),
    Column("single_latency_ms", "its latency (ms)", number("single_latency_ms", 4)),
)
RIVALS = (
    Column("run", "run", plain("run"), numeric=False),
    Column("network", "network", plain("network"), numeric=False),
    Column("accuracy", "accuracy", percent("accuracy")),
    Column("macs", "average MACs (M)", number("macs", 3, 1e6)),
)
EXITS = (
    Column("network", "network", plain("network"), numeric=False),
    Column("exit", "exit", number("exit")),
    Column("macs", "MACs up to it (M)", number("macs", 3, 1e6)),
    Column("latency_ms", "latency up to it (ms)", number("latency_ms", 4)),
    Column("threshold", "threshold", number("threshold", 4)),
    Column("exit_rate", "images it answers", percent("exit_rate", 1)),
    Column("accuracy", "accuracy on these", percent("accuracy")),
    Column("all_images_accuracy", "on all images", percent("all_images_accuracy")),
)
PREDICTORS = (
    Column("predicts", "predicts", plain("predicts"), numeric=False),
    Column("kendall_tau", "Kendall's tau", number("kendall_tau", 3)),
    Column("rmse", "RMSE (points)", number("rmse", 2, 0.01)),
    Column("fitted", "records learned from", number("fitted")),
    Column("held_out", "records held out", number("held_out")),
)
