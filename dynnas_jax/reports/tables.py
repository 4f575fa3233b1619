"""Rows of numbers from the artifacts of a workdir, and their three forms: CSV, HTML and plain text.

A row is a dict. A value `None` means that the stage which measures it has not run ("not run" in HTML and text, empty
in CSV); an empty string means that the number has no meaning for this row (a dash).
"""

import csv
import html as markup
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dynnas_jax import kinds
from dynnas_jax.reports.artifacts import Artifacts

NOT_RUN = "not run"
EXPECTED_LOSS = 0.01  # of accuracy, by quantisation
TOP5 = "top5_accuracy"  # told where there are more than five classes
_ROUTERS = ("router", "to_gate")  # a file that answers no class


class Column(NamedTuple):
    """One column of an HTML or text table: `form(row)` gives the cell, and is not called where `row[key]` is empty."""

    key: str
    header: str
    form: Callable[[dict], str]
    numeric: bool = True


def main_target(exports: dict[str, dict]) -> str | None:
    """The target whose latencies stand in the summary: x86 (where the whole network is measured), else the first."""
    return "x86" if "x86" in exports else next(iter(exports), None)


def summary(artifacts: Artifacts) -> list[dict]:
    """Three rows, little, big and dynamic, or the one of a fixed network: accuracy on the test split with its 95 % interval
    (Wilson), MACs of an image (average, for dynamic), params, mean latency, exit rate, and where dynamic and big disagree."""
    evaluation, pair = artifacts.evaluation or {}, (artifacts.found or {}).get("pair", {})
    export = artifacts.exports.get(main_target(artifacts.exports), {})
    rows = []
    for network in networks(artifacts):
        measured = evaluation.get(network, {})
        declared = pair.get(network, {}) if network != "dynamic" else {"params": pair.get("params")}
        low, high = interval(measured.get("accuracy"), evaluation.get("images"))
        row = {"network": network, "accuracy": measured.get("accuracy"), "accuracy_low": low, "accuracy_high": high}
        row |= {key: measured.get(key, declared.get(key)) for key in ("macs", "params")}
        row |= {key: measured[key] for key in (TOP5,) if key in measured}
        rows.append(row | _latencies(network, export) | _disagreement(network, evaluation))
    return rows


def networks(artifacts: Artifacts) -> tuple[str, ...]:
    """What a run has measured, by name."""
    return ("net",) if artifacts.kind in kinds.OF_NET else ("little", "big", "dynamic")


def summary_columns(artifacts: Artifacts) -> tuple[Column, ...]:
    """The columns of `summary`: of a fixed network those that compare nothing, and the five likeliest classes where told."""
    left_out = _COMPARED if artifacts.kind in kinds.OF_NET else ()
    if not all(TOP5 in (artifacts.evaluation or {}).get(network, {}) for network in networks(artifacts)):
        left_out += (TOP5,)
    return tuple(column for column in SUMMARY if column.key not in left_out)


def front(artifacts: Artifacts) -> list[dict]:
    """One row for each budget of the search, ascending: the subnet found for it."""
    keys = ("budget", "feasible", "macs", "params", "predicted_accuracy", "holdout_accuracy")
    found = artifacts.found or {"front": []}
    keys += ("latency_ms",) if found.get("cost") == "latency_ms" else ()
    return [{key: entry.get(key) for key in keys} for entry in found["front"]]


def front_columns(rows: Sequence[dict]) -> tuple[Column, ...]:
    """The columns of `front`; the budgets of a search by latency are milliseconds."""
    if not rows or "latency_ms" not in rows[0]:
        return FRONT
    latency = (
        Column("budget", "budget (ms)", number("budget", 4)),
        Column("latency_ms", "ms", number("latency_ms", 4)),
    )
    return (*latency, *FRONT[1:])


def routers(artifacts: Artifacts) -> list[dict]:
    """One row for each router of the pair, the one in use first: how well it tells images apart, what it does and costs.

    AUROC is the chance that an image which little should answer scores above one that it should not.
    """
    keys = [column.key for column in ROUTERS]
    return [{key: known(row.get(key)) for key in keys} for row in (artifacts.evaluation or {}).get("routers", ())]


def known(value: float | str | None) -> float | str:
    """What does not exist has no meaning rather than no measurement: an AUROC of decisions all alike, a mean of nothing."""
    return "" if value is None else value


def exported_files(export: dict) -> list[dict]:
    """One row for each exported net of a target: its file and that one's size, operators, latency, accuracy, distance to JAX."""
    rows = []
    for name, file in export["files"].items():
        low, high = file.get("latency_spread_ms") or (None, None)
        row = {"file": name} | {key: file.get(key) for key in ("path", "size_bytes", "macs", "latency_ms")}
        not_told = "" if file.get("function") in _ROUTERS else None
        row |= {key: file.get(key, not_told) for key in ("accuracy", "accuracy_loss")}
        distance = file.get("max_logit_difference")
        row["max_logit_difference"] = "" if distance is None and name.endswith("int8") else distance
        operators = sorted((file.get("ops") or {}).items(), key=lambda item: (-item[1], item[0]))
        row |= {"latency_p10_ms": low, "latency_p90_ms": high}
        rows.append(row | {"operators": ", ".join(f"{count}×{name}" for name, count in operators) or None})
    return rows


def lossy_files(export: dict) -> list[str]:
    """The nets of a target that lose more of JAX's accuracy than quantisation should, one phrase each."""
    found = [(name, fact.get("accuracy_loss", 0.0)) for name, fact in export["files"].items()]
    return [f"{name} loses {100 * loss:.1f} points" for name, loss in found if loss > EXPECTED_LOSS]


def cascades(export: dict) -> list[dict]:
    """One row for each precision in which the whole decision was run as exported; `exit_rate` is that of its first choice."""
    keys = ("accuracy", "agreement_with_jax", "macs", "latency_ms", "latency_mean_ms")
    return [
        {"precision": precision, "exit_rate": (cascade.get("exit_rate") or [None])[0]}
        | {key: cascade.get(key) for key in keys}
        for precision, cascade in export.get("cascade", {}).items()
        if len(cascade.get("exit_rate") or "..") > 1  # a single net decides nothing
    ]


def settings(tree: dict | None) -> list[dict]:
    """A nested dict as rows `{"key": "train.steps", "value": "100"}`, keys joined by dots, values as JSON."""
    rows = []
    for key, value in (tree or {}).items():
        if isinstance(value, dict) and value:
            rows += [{"key": f"{key}.{row['key']}", "value": row["value"]} for row in settings(value)]
        else:
            rows.append({"key": key, "value": value if isinstance(value, str) else json.dumps(value)})
    return rows


def sign_test(gained: int, lost: int) -> float:
    """Two-sided p-value of the exact sign (McNemar) test that two networks, one of them right where the other is wrong
    on `gained` images and wrong where it is right on `lost`, are equally accurate."""
    from scipy import stats

    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def write_csv(path: Path, rows: Sequence[dict]) -> Path:
    """Writes `rows` with a header line; `None` becomes an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def html(rows: Sequence[dict], columns: Sequence[Column], absent: str = NOT_RUN) -> str:
    """The rows as an HTML table, everything escaped, numbers aligned right; `absent` stands for None."""
    head = "".join(f"<th{_align(column)}>{markup.escape(column.header)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td{_align(c)}>{markup.escape(_cell(row, c, absent))}</td>' for c in columns)}</tr>\n"
        for row in rows
    )
    return f'<div class="table"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def text(rows: Sequence[dict], columns: Sequence[Column] | None = None) -> str:
    """The rows of `summary`, or others with their columns, as a short table of plain text for a terminal: no trailing newline."""
    if columns is None:
        names = ("network", "accuracy", "macs", "params", "latency_fp32_ms", "latency_int8_ms")
        columns = [next(column for column in SUMMARY if column.key == name) for name in names]
    lines = [[column.header for column in columns]] + [[_cell(row, column) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.numeric else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        for line in lines
    )


def percent(key: str, digits: int = 2) -> Callable[[dict], str]:
    """Form of a share in [0, 1]."""
    return lambda row: f"{100 * row[key]:.{digits}f} %"


def number(key: str, digits: int = 0, scale: float = 1.0) -> Callable[[dict], str]:
    """Form of a number, divided by `scale`, with thousands separated."""
    return lambda row: f"{row[key] / scale:,.{digits}f}"


def plain(key: str) -> Callable[[dict], str]:
    """Form of a word; a truth value reads yes or no."""
    return lambda row: ("yes" if row[key] else "no") if isinstance(row[key], bool) else str(row[key])


SUMMARY = (
    Column("network", "network", plain("network"), numeric=False),
    Column("accuracy", "accuracy", percent("accuracy")),
    Column(
        "accuracy_low", "95 % interval", lambda row: f"{100 * row['accuracy_low']:.1f}–{100 * row['accuracy_high']:.1f}"
    ),
    Column(TOP5, "among the five likeliest", percent(TOP5)),
    Column("macs", "MACs (M)", number("macs", 3, 1e6)),
    Column("params", "params (k)", number("params", 1, 1e3)),
    Column("latency_fp32_ms", "fp32 (ms)", number("latency_fp32_ms", 3)),
    Column("latency_int8_ms", "int8 (ms)", number("latency_int8_ms", 3)),
    Column("exit_rate", "answered by little", percent("exit_rate", 1)),
    Column("dynamic_right_big_wrong", "right, big wrong", number("dynamic_right_big_wrong")),
    Column("dynamic_wrong_big_right", "wrong, big right", number("dynamic_wrong_big_right")),
)
_COMPARED = ("exit_rate", "dynamic_right_big_wrong", "dynamic_wrong_big_right")
ROUTERS = (
    Column("router", "router", plain("router"), numeric=False),
    Column("auroc", "AUROC", number("auroc", 3)),
    Column("auroc_holdout", "AUROC, held-out", number("auroc_holdout", 3)),
    Column("routing_accuracy", "routed rightly", percent("routing_accuracy", 1)),
    Column("accuracy", "accuracy", percent("accuracy")),
    Column("average_macs", "MACs (M)", number("average_macs", 3, 1e6)),
    Column("exit_rate", "answered by little", percent("exit_rate", 1)),
    Column("threshold", "threshold", number("threshold", 4)),
    Column("macs", "its own MACs", number("macs")),
    Column("params", "its own params", number("params")),
)
FRONT = (
    Column("budget", "budget (M MACs)", number("budget", 3, 1e6)),
    Column("feasible", "feasible", plain("feasible"), numeric=False),
    Column("macs", "MACs (M)", number("macs", 3, 1e6)),
    Column("params", "params (k)", number("params", 1, 1e3)),
    Column("predicted_accuracy", "predicted accuracy", percent("predicted_accuracy")),
    Column("holdout_accuracy", "held-out accuracy", percent("holdout_accuracy")),
)
FILES = (
    Column("file", "net", plain("file"), numeric=False),
    Column("path", "file", plain("path"), numeric=False),
    Column("size_bytes", "file size (KiB)", number("size_bytes", 1, 1024)),
    Column("macs", "MACs (M)", number("macs", 3, 1e6)),
    Column("latency_ms", "latency (ms)", number("latency_ms", 3)),
    Column(
        "latency_p10_ms",
        "10th–90th percentile",
        lambda row: f"{row['latency_p10_ms']:.3f}–{row['latency_p90_ms']:.3f}",
    ),
    Column("accuracy", "accuracy", percent("accuracy")),
    Column("accuracy_loss", "points lost", number("accuracy_loss", 2, 0.01)),
    Column("max_logit_difference", "logits off by", lambda row: f"{row['max_logit_difference']:.1e}"),
    Column("operators", "operators", plain("operators"), numeric=False),
)


def _decided(spent: Column) -> tuple[Column, ...]:
    """The columns of a whole decision; what tells best how much of the network images needed differs."""
    return (
        Column("precision", "precision", plain("precision"), numeric=False),
        Column("accuracy", "accuracy", percent("accuracy")),
        Column("agreement_with_jax", "same answer as JAX", percent("agreement_with_jax")),
        spent,
        Column("latency_ms", "median latency (ms)", number("latency_ms", 3)),
        Column("latency_mean_ms", "mean latency (ms)", number("latency_mean_ms", 3)),
    )


CASCADES = _decided(Column("exit_rate", "answered by little", percent("exit_rate", 1)))
EXITS_DECIDED = _decided(Column("exit_rate", "answered by the first exit", percent("exit_rate", 1)))
GATES_DECIDED = _decided(Column("macs", "average MACs (M)", number("macs", 3, 1e6)))
SETTINGS = (Column("key", "key", plain("key"), numeric=False), Column("value", "value", plain("value"), numeric=False))


def interval(accuracy: float | None, images: int | None) -> tuple[float | None, float | None]:
    """(low, high) in which the accuracy of so many images lies, 95 % Wilson; None without both."""
    from scipy import stats

    if accuracy is None or not images:
        return None, None
    interval = stats.binomtest(round(accuracy * images), images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _latencies(network: str, export: dict) -> dict:
    row = {}
    for precision in ("fp32", "int8"):
        if network == "dynamic":
            measured = export.get("cascade", {}).get(precision, {})
        else:
            measured = export.get("files", {}).get(f"{network}_{precision}", {})
        row[f"latency_{precision}_ms"] = measured.get("latency_mean_ms")
    return row


def _disagreement(network: str, evaluation: dict) -> dict:
    exit_rate, *keys = _COMPARED
    if network != "dynamic":
        return dict.fromkeys((exit_rate, *keys), "")
    paired = evaluation.get("paired", {})
    return {"exit_rate": evaluation.get("dynamic", {}).get("exit_rate", [None])[0]} | {k: paired.get(k) for k in keys}


def _cell(row: dict, column: Column, absent: str = NOT_RUN) -> str:
    value = row[column.key]
    return absent if value is None else "–" if value == "" else column.form(row)


def _align(column: Column) -> str:
    return ' class="number"' if column.numeric else ""
