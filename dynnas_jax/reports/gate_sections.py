"""The sections of the report on dynamic slimmable networks; each returns None where the stage that it shows has not run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dynnas_jax.reports import artifacts, gate_plots, plots, tables
from dynnas_jax.reports.artifacts import Artifacts
from dynnas_jax.reports.source import Source, figure, table
from dynnas_jax.reports.tables import Column, number, percent, plain

SUMMARY = (
    Column("network", "network", plain("network"), numeric=False),
    Column("accuracy", "accuracy", percent("accuracy")),
    Column(
        "accuracy_low", "95 % interval", lambda row: f"{100 * row['accuracy_low']:.1f}–{100 * row['accuracy_high']:.1f}"
    ),
    Column("macs", "average MACs (M)", number("macs", 3, 1e6)),
    Column("batch_ms", "in batches (ms an image)", number("batch_ms", 3)),
    Column("alone_ms", "alone (ms)", number("alone_ms", 3)),
)
GATES = (
    Column("gate", "gate", plain("gate"), numeric=False),
    Column("shares", "share of each ratio", plain("shares"), numeric=False),
    Column("entropy", "entropy (nats)", number("entropy", 3)),
    Column("largest_entropy", "at most", number("largest_entropy", 3)),
)
_NAMES = {
    "smallest": "narrowest path",
    "same_macs": "paths at the same MACs",
    "dynamic": "gated, test images",
    "largest": "widest path",
}
_CLOCK = {"dynamic": "gated", "largest": "largest"}  # keys of `seconds`


def in_short(found: Artifacts) -> tuple[list[dict], tuple[Column, ...]]:
    """The rows of `summary` and their columns: what a run says at its end."""
    return summary(found), SUMMARY


def summary(found: Artifacts) -> list[dict]:
    """One row for each end of the supernet, the gated network, and what the paths reach at its MACs; and the target."""
    evaluation, rows = found.evaluation or {}, []
    for key, name in _NAMES.items():
        if key in evaluation:
            told, seconds = evaluation[key], evaluation["seconds"]
            low, high = tables.interval(told["accuracy"], evaluation["images"])
            row = {"network": name, "accuracy": told["accuracy"], "accuracy_low": low, "accuracy_high": high}
            clock = _CLOCK.get(key)
            times = {"batch_ms": 1e3 * seconds[clock], "alone_ms": 1e3 * seconds[f"{clock}_alone"]} if clock else {}
            rows.append(row | {"macs": told["macs"], "batch_ms": "", "alone_ms": ""} | times)
    return [*rows, *_asked(found.gates, dict.fromkeys(rows[0], ""))] if rows else rows


def _asked(gates: dict | None, blank: dict) -> list[dict]:
    """The average MACs that were asked for and those of the held-out images, where there was a target."""
    if not gates or gates["target_macs"] is None:
        return []
    missed, held_out = ", missed" if gates.get("target_missed") else "", gates["holdout"]
    told = {"network": "gated, held-out images", "accuracy": held_out["accuracy"], "macs": held_out["average_macs"]}
    return [blank | {"network": f"asked for on average{missed}", "macs": gates["target_macs"]}, blank | told]


def warning(found: Artifacts) -> str:
    """What the page says of a target that no tilt of the gates met; empty where there is none."""
    gates = found.gates or {}
    if not gates.get("target_missed"):
        return ""
    asked, came = (f"{macs / 1e6:,.3f}" for macs in (gates["target_macs"], gates["holdout"]["average_macs"]))
    return f"The gates did not meet the {asked} M average MACs that were asked for: held-out images came to {came} M."


def headline(evaluation: dict) -> str:
    """The first sentence of the page."""
    gated, widest = evaluation["dynamic"], evaluation["largest"]
    return (
        f"The gated network answers <b>{100 * gated['accuracy']:.1f} %</b> of {evaluation['images']:,} test images rightly at "
        f"<b>{100 * gated['macs'] / widest['macs']:.0f} %</b> of the widest path's MACs; that one alone reaches "
        f"{100 * widest['accuracy']:.1f} %."
    )


def _summary(source: Source) -> str | None:
    evaluation = source.found.evaluation
    if not evaluation:
        return None
    paths = [(row["macs"], row["accuracy"]) for row in evaluation["paths"]]
    gated = {"gated": (evaluation["dynamic"]["macs"], evaluation["dynamic"]["accuracy"])}
    caption = (
        "Every path is a net of fixed widths, cut out of the same supernet. Star: the gates pick a path for each image."
    )
    in_all = evaluation.get("paths_in_all", len(paths))
    if in_all > len(paths):
        caption += (
            f" Measured are {len(paths)} of {in_all} paths, evenly by cost and those nearest to the gated network's MACs: what "
            "paths reach at its MACs is the best of these."
        )
    body = table(source, "summary", summary(source.found), SUMMARY)
    tables.write_csv(
        source.folder / "tables" / "paths.csv", [{**row, "path": str(row["path"])} for row in evaluation["paths"]]
    )
    body += _timed(evaluation["seconds"])
    alike = evaluation["one_by_one"]
    body += (
        f"<p>{alike['same_path']} of {alike['images']} images that ran alone took the path that they took in a batch; their "
        f"outputs differ by at most {alike['largest_logit_difference']:.1g}.</p>"
    )
    return figure(source, "accuracy_against_macs", gate_plots.accuracy(paths, gated, in_all), caption) + body


def _timed(seconds: dict) -> str:
    """What the times in batches are of; runs of before do not say it."""
    if "largest_chunk" not in seconds:
        return ""
    said = (
        f"<p>In batches of {seconds['batch']} images; the widest path in chunks of {seconds['largest_chunk']}, its fastest. "
        f"For each image of a batch the gated network computed {seconds['gated_rows'][-1]:.2f} behind its last gate, "
        "since groups fill up their chunks."
    )
    if "alone_images" in seconds:
        said += (
            f" Alone: {seconds['alone_images']} images, equally many of each of the {seconds['alone_paths']} paths that test "
            "images take, fewer of a rare one; each path weighs by the share of the images that take it."
        )
    return f"{said}</p>"


def _spread(source: Source) -> str | None:
    evaluation = source.found.evaluation
    if not evaluation:
        return None
    gates = evaluation["gates"]
    rows = [
        {
            "gate": gate["gate"],
            "shares": ", ".join(
                f"{ratio:g}: {100 * share:.0f} %" for ratio, share in zip(gate["ratios"], gate["share"], strict=True)
            ),
            **{key: gate[key] for key in ("entropy", "largest_entropy")},
        }
        for gate in gates
    ]
    caption = "The ratios that each gate picks on the test images, over all and by class. An entropy of 0: always the same one."
    if (drawn := len(gate_plots.drawn_classes(gates))) < len(source.found.classes):
        caption += (
            f" Of {len(source.found.classes):,} classes {drawn} are drawn: those whose images run at the lowest ratios on "
            "average, and those at the highest, in this order."
        )
    return figure(source, "gates", gate_plots.spread(gates, source.found.classes), caption) + table(
        source, "gates", rows, GATES
    )


def _training(source: Source) -> str | None:
    metrics = artifacts.json_lines(source.workdir / "gate" / "metrics.jsonl")
    evaluation = source.found.evaluation
    if not metrics or not evaluation:
        return None
    known = ("loss", "loss_classification", "loss_complexity", "loss_sandwich")
    losses = {name.removeprefix("loss_"): artifacts.series(metrics, name) for name in known}
    shares = {
        gate["gate"]: [
            artifacts.series(metrics, f"gate{number}_choice{choice}") for choice in range(1, len(gate["ratios"]) + 1)
        ]
        for number, gate in enumerate(evaluation["gates"], 1)
    }
    shares = {name: own for name, own in shares.items() if len(own[0][0])}  # runs of before have none
    drawn = gate_plots.training(
        losses, *(artifacts.series(metrics, f"{name}_share") for name in ("macs", "wide")), shares
    )
    ratios = ", ".join(f"{ratio:g}" for ratio in evaluation["gates"][0]["ratios"])
    caption = f"Of each batch of training images, with the noise of the draw. Ratios, from light to dark: {ratios}."
    return figure(source, "gate_training", drawn, caption)


def _samples(source: Source) -> str | None:
    images, outputs = source.found.samples, source.found.outputs
    if not images or outputs is None:
        return None
    with np.load(source.workdir / "evaluate" / "outputs.npz") as kept:
        macs = kept["macs"]
    rows = sorted(images, key=lambda row: macs[row])
    half = len(rows) // 2
    groups = {"Run at the least cost": rows[:half], "Run at the most": rows[half:]}
    shown = {name: [_sample(source, row, macs[row]) for row in own] for name, own in groups.items() if own}
    caption = "Under each image: its label, the answer, and its MACs (M). Red: the answer is wrong."
    return figure(source, "samples", plots.samples(shown), caption)


def _sample(source: Source, row: int, macs: float) -> tuple[np.ndarray, str, bool]:
    outputs, classes = source.found.outputs, source.found.classes
    said, label = outputs["prediction"][row, 0], outputs["label"][row]
    caption = f"{classes[label]}:\n{classes[said]}\n{macs / 1e6:.3f}"
    return source.found.samples[row], caption, bool(outputs["correct"][row, 0])


BUILDERS: dict[str, Callable[[Source], str | None]] = {
    "gate_summary": _summary,
    "gate_spread": _spread,
    "gate_training": _training,
    "gate_samples": _samples,
}
