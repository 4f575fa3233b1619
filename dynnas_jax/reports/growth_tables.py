"""Rows of numbers of a run that grew stage by stage, in the manner of `tables`."""

from __future__ import annotations

from dynnas_jax.reports import tables
from dynnas_jax.reports.artifacts import Artifacts
from dynnas_jax.reports.tables import Column, number, percent, plain

_NAMES = {"initial": "initial", "candidate": "iteration {}", "uniform": "uniform depth"}
SCORED = "scored_accuracy"  # on held-out images, before candidates are trained further
TESTED = "scored_test_accuracy"  # the same on the test images
ENSEMBLES = {"ensemble": "candidates together", "joint_ensemble": "with the other runs' nets"}


def name(entry: dict) -> str:
    """What a net is called: by its role and its iteration."""
    return _NAMES[entry["role"]].format(entry["iteration"])


def modules(depths: list[int]) -> str:
    """The modules of the stages, such as "6, 8, 6"."""
    return ", ".join(map(str, depths))


def networks(artifacts: Artifacts) -> list[dict]:
    """One row for each net that is kept: what it costs, what its training took, and its accuracy; then the ensembles."""
    growth, evaluation = artifacts.growth or {}, artifacts.evaluation or {}
    tested = {row["name"]: row for row in evaluation.get("networks", ())}
    times = artifacts.exports.get(tables.main_target(artifacts.exports), {}).get("networks", {})
    further = (artifacts.config or {}).get("grow", {}).get("further")
    entries = [growth[key] for key in ("initial",) if key in growth]
    rows = []
    for entry in [*entries, *growth.get("candidates", ()), *growth.get("controls", ())]:
        row = {"network": name(entry), "modules": modules(entry["depths"])}
        row |= {key: entry[key] for key in ("depth", "params_with_statistics", "params", "macs", "memory_bytes")}
        row["latency_ms"] = times.get(entry["name"], {}).get("latency_ms")
        row |= {"energy_j": entry["training"]["energy_j"], "carbon_g": entry["training"]["carbon_g"]}
        held_out = entry["holdout_accuracy"]
        row |= {
            "seconds": entry["training"]["seconds"],
            SCORED: held_out["scored"],
            "holdout_accuracy": held_out["final"],
        }
        measured = tested.get(entry["name"], {})
        row |= {"accuracy": measured.get("accuracy"), tables.TOP5: measured.get(tables.TOP5, "")}
        row[TESTED] = measured.get(TESTED, "") if further and measured else row["accuracy"]
        rows.append(row)
    return [*rows, *_ensembles(evaluation)] if rows else []


def _ensembles(evaluation: dict) -> list[dict]:
    """Rows of what answers together."""
    found, absent = [], dict.fromkeys((column.key for column in NETWORKS), "")
    for key, words in ENSEMBLES.items():
        if told := evaluation.get(key):
            own = {"network": words, "params_with_statistics": told["params_with_statistics"]}
            own |= {"macs": told.get("macs", ""), "accuracy": told["accuracy"], tables.TOP5: told.get(tables.TOP5, "")}
            found.append({**absent, **own})
    return found


def decisions(artifacts: Artifacts) -> list[dict]:
    """One row for each stage in each iteration: its importance in both nets, and whether it grew."""
    found = []
    for count, iteration in enumerate((artifacts.growth or {}).get("iterations", ()), 1):
        columns = zip(
            iteration["initial"],
            iteration["initial_scores"],
            iteration["temporary_scores"],
            iteration["grown"],
            iteration["candidate"],
            strict=True,
        )
        for stage, (before, initial, temporary, grown, after) in enumerate(columns, 1):
            row = {"iteration": count, "stage": stage, "modules_before": before, "initial_score": initial}
            row |= {"temporary_score": temporary, "difference": temporary - initial}
            found.append(row | {"grown": grown, "modules_after": after})
    return found


def choices(artifacts: Artifacts) -> list[dict]:
    """One row for each choice of the criterion's parameters that was tried."""
    growth = artifacts.growth or {}
    return [
        {
            "options": ", ".join(f"{key} {value}" for key, value in tried["option"].items()),
            "modules": modules(tried["candidate"]),
            "holdout_accuracy": tried["worth"],
            "used": tried["option"] == growth["options"],
        }
        for tried in growth.get("tried", ())
    ]


NETWORKS = (
    Column("network", "network", plain("network"), numeric=False),
    Column("modules", "modules", plain("modules"), numeric=False),
    Column("depth", "depth", number("depth")),
    Column("params_with_statistics", "params with statistics (k)", number("params_with_statistics", 1, 1e3)),
    Column("params", "params (k)", number("params", 1, 1e3)),
    Column("macs", "MACs (M)", number("macs", 3, 1e6)),
    Column("memory_bytes", "memory (MiB)", number("memory_bytes", 3, 2**20)),
    Column("latency_ms", "CPU, fp32 (ms)", number("latency_ms", 3)),
    Column("seconds", "training (s)", number("seconds", 1)),
    Column("energy_j", "energy (kJ)", number("energy_j", 2, 1e3)),
    Column("carbon_g", "kgCO2eq", number("carbon_g", 5, 1e3)),
    Column(SCORED, "held-out after equal training", percent(SCORED)),
    Column("holdout_accuracy", "held-out accuracy", percent("holdout_accuracy")),
    Column(TESTED, "accuracy after equal training", percent(TESTED)),
    Column("accuracy", "accuracy", percent("accuracy")),
    Column(tables.TOP5, "among the five likeliest", percent(tables.TOP5)),
)
DECISIONS = (
    Column("iteration", "iteration", number("iteration")),
    Column("stage", "stage", number("stage")),
    Column("modules_before", "modules", number("modules_before")),
    Column("initial_score", "importance", number("initial_score", 5)),
    Column("temporary_score", "in the temporary net", number("temporary_score", 5)),
    Column("difference", "difference", lambda row: f"{row['difference']:+.5f}"),
    Column("grown", "grown", plain("grown"), numeric=False),
    Column("modules_after", "modules then", number("modules_after")),
)
CHOICES = (
    Column("options", "options", plain("options"), numeric=False),
    Column("modules", "first candidate", plain("modules"), numeric=False),
    Column("holdout_accuracy", "held-out accuracy", percent("holdout_accuracy")),
    Column("used", "used", plain("used"), numeric=False),
)
