"""What the rows of a study are: what their runs are given, and every key of their configs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dynnas_jax.reports.spreads import Table, words
from dynnas_jax.reports.study_rows import Row


def hyper_parameters(rows: Sequence[Row]) -> Table:
    """Every key that any row's config uses, as the first row has it, and which rows have it otherwise."""
    listed, first = [], rows[0].asked
    for key in dict.fromkeys(key for row in rows for key in row.asked.settings):
        others: dict[str, list[str]] = {}
        for row in rows[1:]:
            value = _plain(row.asked.settings.get(key))
            if key != "seed" and key in row.asked.settings and value != _plain(first.settings.get(key)):
                others.setdefault(value, []).append(row.asked.name)
        told = "; ".join(f"{', '.join(names)}: {value}" for value, names in others.items())
        value = ", ".join(map(str, first.paths)) if key == "seed" else _plain(first.settings.get(key))
        listed.append({"key": key, "value": value, "others": told or ""})
    columns = (words("key", "key"), words("value", first.name), words("others", "rows with another value"))
    explanation = (
        "Keys of the configs, defaults included; – where a row has no such key, or all have the value of the first."
    )
    return Table("hyper_parameters", "Hyper-parameters", explanation, columns, listed)


def runs(rows: Sequence[Row]) -> Table:
    """Every row of the study: what its runs are given, and how many of them are evaluated."""
    listed = []
    for row in rows:
        done = sum(found.evaluation is not None for found in row.runs.values())
        told = {"command": row.asked.command, "tables": ", ".join(row.asked.tables) or "none"}
        listed.append({"name": row.asked.name, **told, "done": f"{done} of {len(row.asked.paths)}"})
    columns = (words("name", "row"), words("tables", "tables"), words("done", "evaluated"))
    columns += (words("command", "what `dynnas run` is given for the first seed"),)
    return Table("runs", "Rows of the study", "Each row is run once for each of its seeds.", columns, listed)


def _plain(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, default=list)
