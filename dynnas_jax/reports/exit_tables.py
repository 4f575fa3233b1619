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
        told = {"network": name(row), "target_macs": net["target_macs"], "accuracy": net["accuracy"]}
        told |= {"accuracy_low": low, "accuracy_high": high, "macs": net["average_macs"]}
        told |= {f"macs_exit{exit}": macs for exit, macs in enumerate(net["macs"], 1)}
        rows.append(told | {"single_accuracy": single.get("accuracy", ""), "single_macs": single.get("macs", "")})
    return rows


def summary_columns(rows: Sequence[dict]) -> tuple[Column, ...]:
    """The columns of `summary`; those of single nets where there are any."""
    exits = [key for key in rows[0] if key.startswith("macs_exit")] if rows else []
    spent = tuple(Column(key, f"up to exit {key.removeprefix('macs_exit')}", number(key, 3, 1e6)) for key in exits)
    alone = SINGLE if any(row["single_macs"] for row in rows) else ()
    return (*SUMMARY, *spent, *alone)


def in_short(artifacts: Artifacts) -> tuple[list[dict], tuple[Column, ...]]:
    """The rows of `summary` and their columns: what a run says at its end."""
    rows = summary(artifacts)
    return rows, summary_columns(rows)


def exits(artifacts: Artifacts) -> list[dict]:
    """One row for each exit of each net: what it costs, which part of the test images it answers, and how well."""
    found = []
    for row, net in enumerate((artifacts.evaluation or {}).get("nets", ())):
        limits = [*net["thresholds"], ""]
        columns = zip(
            net["macs"], limits, net["exit_rate"], net["exit_accuracy"], net["all_images_accuracy"], strict=True
        )
        for exit, (macs, threshold, rate, accuracy, all_images) in enumerate(columns, 1):
            told = {"network": name(row), "exit": exit, "macs": macs, "threshold": threshold, "exit_rate": rate}
            found.append(told | {"accuracy": tables.known(accuracy), "all_images_accuracy": all_images})
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


def predictors(artifacts: Artifacts) -> list[dict]:
    """One row for each target: how well the reward of a net is predicted, on records that were not learned from."""
    told, found = artifacts.predictor or {}, []
    for row, target in enumerate(told.get("targets", ())):
        entry = {"predicts": f"reward of {name(row)}", "target_macs": target["target_macs"]}
        found.append(entry | {key: target[key] for key in ("kendall_tau", "rmse", "fitted", "held_out")})
    if "single" in told:
        found.append({"predicts": "accuracy of a single net", "target_macs": "", **told["single"]})
    return found


SUMMARY = (
    Column("network", "network", plain("network"), numeric=False),
    Column("target_macs", "target (M MACs)", number("target_macs", 3, 1e6)),
    Column("accuracy", "accuracy", percent("accuracy")),
    Column(
        "accuracy_low", "95 % interval", lambda row: f"{100 * row['accuracy_low']:.1f}–{100 * row['accuracy_high']:.1f}"
    ),
    Column("macs", "average MACs (M)", number("macs", 3, 1e6)),
)
SINGLE = (
    Column("single_accuracy", "single net: accuracy", percent("single_accuracy")),
    Column("single_macs", "its MACs (M)", number("single_macs", 3, 1e6)),
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
    Column("threshold", "threshold", number("threshold", 4)),
    Column("exit_rate", "images it answers", percent("exit_rate", 1)),
    Column("accuracy", "accuracy on these", percent("accuracy")),
    Column("all_images_accuracy", "on all images", percent("all_images_accuracy")),
)
PREDICTORS = (
    Column("predicts", "predicts", plain("predicts"), numeric=False),
    Column("target_macs", "target (M MACs)", number("target_macs", 3, 1e6)),
    Column("kendall_tau", "Kendall's tau", number("kendall_tau", 3)),
    Column("rmse", "RMSE (points)", number("rmse", 2, 0.01)),
    Column("fitted", "records learned from", number("fitted")),
    Column("held_out", "records held out", number("held_out")),
)
