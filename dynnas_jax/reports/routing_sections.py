"""The sections of the report on how images are shared out between the nets, and on how far probabilities can be trusted.

Each returns None where the evaluation that it shows has not run, or was made before it measured this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dynnas_jax import decisions
from dynnas_jax.dynamic import quality
from dynnas_jax.reports import plots, routing_plots, tables, threshold_control
from dynnas_jax.reports.source import Source, figure, table

PICTURES = 8  # sample images in a row
MOST_ROWS = 20  # of a table that is not folded up
# What a case is called on the page, and which of its images are shown: drawn at random, or those of the highest or lowest scores.
_CASES = {
    "kept_rightly": ("little answered, as it should", "drawn at random"),
    "kept_wrongly": ("little answered, and should not have", "the surest"),
    "passed_rightly": ("passed on to big, as it should be", "drawn at random"),
    "passed_wrongly": ("passed on to big, though little should have answered", "the least sure"),
}
_ORACLES = {
    "little_right": "oracle: little where it is right",
    "little_right_or_both_wrong": "oracle: little where it is right, or big is wrong too",
}


def sample_rows(score: np.ndarray, choice: np.ndarray) -> dict[str, np.ndarray]:
    """The images to show, in groups with a heading each: rows of score float32[m, S] and choice int32[m]."""
    early, late = np.flatnonzero(choice == 0), np.flatnonzero(choice != 0)
    groups = {
        "Answered by little, the surest": early[np.argsort(-score[early, 0], kind="stable")],
        "Answered by little, drawn at random": np.random.default_rng(0).permutation(early),
        "Passed on to big, where little was least sure": late[np.argsort(score[late, 0], kind="stable")],
    }
    return {heading: rows[:PICTURES] for heading, rows in groups.items() if len(rows)}


def case_rows(score: np.ndarray, correct: np.ndarray, choice: np.ndarray, optimal: str) -> dict[str, np.ndarray]:
    """The images to show of those routed rightly and wrongly, in groups with a heading each.

    Args:
      score: float32[m, 2]; correct: bool[m, 2], of little and big; choice: int32[m]; optimal: of `decisions.OPTIMAL`.
    """
    case, groups = quality.cases(choice, decisions.best(*correct.T, optimal)), {}
    for index, name in enumerate(quality.CASES):
        rows, (heading, which) = np.flatnonzero(case == index), _CASES[name]
        if which == "drawn at random":
            rows = np.random.default_rng(index).permutation(rows)
        else:
            sign = -1 if which == "the surest" else 1
            rows = rows[np.argsort(sign * score[rows, 0], kind="stable")]
        groups[f"{heading.capitalize()}; {which}"] = rows[:PICTURES]
    return {heading: rows for heading, rows in groups.items() if len(rows)}


def shown_rows(score: np.ndarray, correct: np.ndarray, choice: np.ndarray, optimal: str) -> np.ndarray:
    """int64[n], ascending: every image that the report shows. Arguments as in `case_rows`."""
    groups = {**sample_rows(score, choice), **case_rows(score, correct, choice, optimal)}
    return np.unique(np.concatenate(list(groups.values())))


def _samples(source: Source) -> str | None:
    outputs = source.found.outputs
    if outputs is None or not source.found.samples:
        return None
    return _pictures(source, "samples", sample_rows(outputs["score"], outputs["choice"]))


def _cases(source: Source) -> str | None:
    outputs, told = source.found.outputs, _evaluated(source, "by_case")
    if outputs is None or told is None or not source.found.samples:
        return None
    total = sum(told["images"])
    rows = [
        {"case": _CASES[row["names"]][0], "images": row["images"], "share": row["images"] / total}
        | {name: tables.known(row[name]) for name in ("little", "big", "dynamic")}
        for row in _by_row(told)
    ]
    groups = case_rows(outputs["score"], outputs["correct"], outputs["choice"], told["optimal"])
    body = table(source, "cases", rows, CASES)
    if told["optimal"] != decisions.OPTIMAL[0]:
        body += "<p>Where both nets are wrong little should answer too, as this run's router learned it.</p>"
    return body + _pictures(source, "cases", groups)


def _pictures(source: Source, name: str, groups: dict[str, np.ndarray]) -> str:
    images = source.found.samples
    if absent := [row for rows in groups.values() for row in rows.tolist() if row not in images]:
        raise ValueError(f"evaluate/samples.npz lacks the image of row {absent[0]}; pass --redo=evaluate")
    shown = {heading: [_sample(source, row) for row in rows.tolist()] for heading, rows in groups.items()}
    caption = "Under each image: its label, what little and big say, and its score. Red: the final answer is wrong."
    return figure(source, name, plots.samples(shown), caption)


def _sample(source: Source, row: int) -> tuple[np.ndarray, str, bool]:
    outputs, classes = source.found.outputs, source.found.classes
    label, little, big = (
        classes[i] if classes else str(i) for i in (outputs["label"][row], *outputs["prediction"][row])
    )
    caption = f"label {label}\nlittle {little}\nbig {big}\nscore {outputs['score'][row, 0]:.4f}"
    return source.found.samples[row], caption, bool(outputs["correct"][row, outputs["choice"][row]])


def _operating_points(source: Source) -> str | None:
    points, oracles = (_evaluated(source, name) for name in ("operating_points", "oracle"))
    if points is None or oracles is None:
        return None
    big = source.found.evaluation["big"]["macs"]
    rows = []
    for point in points:
        name = f"threshold {point['threshold']:.6g}" + (", in use" if point["chosen"] else "")
        rows.append({"routing": name, **{key: point[key] for key in point if key != "chosen"}})
    for oracle in oracles:
        row = dict.fromkeys(rows[0], "") | {"routing": _ORACLES[oracle["optimal"]]}
        rows.append(row | {key: oracle[key] for key in ("accuracy", "macs", "exit_rate")})
    latencies = threshold_control.latencies_ms(source.found) if source.found.found else {}
    for row in rows:
        row["macs_share"] = row["macs"] / big
        for by, (little, both) in latencies.items():
            row[f"latency_ms {by}"] = both + row["exit_rate"] * (little - both)
    keys = {f"latency_ms {by}": f"ms, {by}" for by in latencies}
    columns = [column for column in POINTS if column.key in rows[0]]
    columns[-2:-2] = [tables.Column(key, header, tables.number(key, 4)) for key, header in keys.items()]
    note = "<p>Latencies (ms) are expected from the means of the parts, by who answers.</p>" if latencies else ""
    return table(source, "operating_points", rows, columns) + note


def _calibration(source: Source) -> str | None:
    bins = _evaluated(source, "calibration")
    if bins is None:
        return None
    rows, listed = [], []
    for name, found in bins.items():
        images, probability = np.asarray(found["images"]), np.nan_to_num(np.asarray(found["probability"], np.float64))
        row = {"network": name, "probability": float(images @ probability / images.sum())}
        told = source.found.evaluation[name]
        rows.append(row | {key: told[key] for key in ("accuracy", "expected_calibration_error")})
        edges = np.linspace(0, 1, len(images) + 1).tolist()
        for place, one in enumerate(_by_row(found)):
            listed.append({"network": name, "above": edges[place], "up_to": edges[place + 1], **one})
    tables.write_csv(source.folder / "tables" / "reliability.csv", listed)
    caption = (
        f"Test answers in {len(listed) // len(rows)} bins of equal width by their probability. Dots below the dashed line: "
        "surer than right. Upright lines: how far chance alone could move a bin (95 %). Below: how many answers each bin has."
    )
    drawn = figure(source, "reliability", routing_plots.reliability(bins), caption)
    return drawn + table(source, "calibration", rows, CALIBRATION)


def _exits(source: Source) -> str | None:
    hardness, classes = (_evaluated(source, name) for name in ("by_difficulty", "by_class"))
    if hardness is None or classes is None:
        return None
    nets = ("little", "big", "dynamic")
    rows = [{**row, "exit_rate": tables.known(row["exit_rate"])} for row in _by_row(hardness)]
    tested = [row for row in _class_rows(source) if row["images"]]
    by_rate = sorted(tested, key=lambda row: row["exit_rate"], reverse=True)
    groups = [
        {"title": "by difficulty", **hardness, "right": {name: hardness[name] for name in nets}},
        {
            "title": "by class",
            "names": [row["class"] for row in by_rate],
            "exit_rate": [row["exit_rate"] for row in by_rate],
            "right": {name: [row[name] for row in by_rate] for name in nets},
        },
    ]
    caption = (
        "Test images. Classes are in the order of the share that little answers. That big is right on easy images and wrong on "
        "hard ones is what the words mean here; the bars and little's dots are what was found."
    )
    drawn = figure(source, "exits", routing_plots.exits(groups), caption)
    return drawn + table(source, "by_difficulty", rows, DIFFICULTY)


def _classes(source: Source) -> str | None:
    rows = _class_rows(source)
    if not rows:
        return None
    body = table(source, "by_class", rows, [column for column in CLASSES if column.key in rows[0]])
    if len(rows) <= MOST_ROWS:
        return body
    return f"<details><summary>Show the {len(rows)} classes</summary>{body}</details>"


def _class_rows(source: Source) -> list[dict]:
    told = _evaluated(source, "by_class")
    if told is None:
        return []
    names = source.found.classes or [str(index) for index in range(len(told["images"]))]
    return [
        {"class": name, **{key: tables.known(value) for key, value in row.items()}}
        for name, row in zip(names, _by_row(told), strict=True)
    ]


def _evaluated(source: Source, name: str) -> Any:
    return (source.found.evaluation or {}).get(name)


def _by_row(columns: dict) -> list[dict]:
    """The rows of those values that are lists."""
    lists = {key: values for key, values in columns.items() if isinstance(values, list)}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


_RIGHT = tuple(
    tables.Column(name, f"{name} is right", tables.percent(name, 1)) for name in ("net", "little", "big", "dynamic")
)
_EXIT_RATE = tables.Column("exit_rate", "answered by little", tables.percent("exit_rate", 1))
_IMAGES = tables.Column("images", "images", tables.number("images"))
_ERROR = tables.Column(
    "expected_calibration_error", "calibration error (points)", tables.number("expected_calibration_error", 2, 0.01)
)
POINTS = (
    tables.Column("routing", "little answers", tables.plain("routing"), numeric=False),
    tables.Column("accuracy", "accuracy", tables.percent("accuracy")),
    tables.Column(tables.TOP5, "among the five likeliest", tables.percent(tables.TOP5)),
    tables.Column("macs", "MACs (M)", tables.number("macs", 3, 1e6)),
    tables.Column("macs_share", "of big's MACs", tables.percent("macs_share", 1)),
    _EXIT_RATE,
    _ERROR,
)
CASES = (
    tables.Column("case", "routing", tables.plain("case"), numeric=False),
    _IMAGES,
    tables.Column("share", "of all", tables.percent("share", 1)),
    *_RIGHT[1:],
)
CALIBRATION = (
    tables.Column("network", "network", tables.plain("network"), numeric=False),
    tables.Column("probability", "mean probability of its answers", tables.percent("probability")),
    tables.Column("accuracy", "accuracy", tables.percent("accuracy")),
    _ERROR,
)
DIFFICULTY = (
    tables.Column("names", "difficulty", tables.plain("names"), numeric=False),
    _IMAGES,
    _EXIT_RATE,
    *_RIGHT[1:],
)
CLASSES = (tables.Column("class", "class", tables.plain("class"), numeric=False), _IMAGES, *_RIGHT, _EXIT_RATE)
# By the name that a chapter gives.
BUILDERS: dict[str, Callable[[Source], str | None]] = {
    "samples": _samples,
    "cases": _cases,
    "operating_points": _operating_points,
    "calibration": _calibration,
    "exits": _exits,
    "classes": _classes,
}
