"""Numbers that several seeds gave, as mean and standard deviation, and tables of them: HTML, Markdown, CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynnas_jax.reports import tables
from dynnas_jax.reports.tables import Column
from dynnas_jax.workdir import write_bytes

Number = float | str | None  # None: not run; "": without a meaning here


ROUNDING = 1e-9  # differences that cancel need not come to 0


class Spread(NamedTuple):
    """Some numbers of one kind, one from each seed that has it."""

    mean: float
    deviation: float | None  # of the sample (n - 1); None of a single number
    count: int
    asked: int  # seeds there are to be

    def text(self, scale: float = 1.0, digits: int = 2, *, sign: bool = False) -> str:
        """Such as "98.77 ± 0.47", with the number of seeds where some are missing."""
        found = f"{self.mean / scale:{'+' if sign else ''},.{digits}f}"
        found += "" if self.deviation is None else f" ± {self.deviation / scale:,.{digits}f}"
        return found if self.count == self.asked else f"{found} ({self.count} of {self.asked} seeds)"


def spread(values: Iterable[Number], asked: int) -> Spread | str | None:
    """The spread of those that are numbers; where none is: "" if the number has no meaning, else None."""
    values = list(values)
    numbers = np.asarray([value for value in values if isinstance(value, (int, float))], np.float64)
    if not len(numbers):
        return "" if "" in values else None
    deviation = float(numbers.std(ddof=1)) if len(numbers) > 1 else None
    return Spread(float(numbers.mean()), deviation, len(numbers), asked)


def verdict(differences: Mapping[str, Spread | str | None], what: str) -> tuple[str, ...]:
    """Who is above or below what it is compared with, in a sentence; () where nobody tells.

    Only where the mean of at least two seeds is further from 0 than their standard deviation; else the two are not told apart.
    Of one seed nothing is judged.
    """
    known = {name: difference for name, difference in differences.items() if isinstance(difference, Spread)}
    beyond = {name: _beyond(difference) for name, difference in known.items() if difference.deviation is not None}
    said = {f"Above {what}, by more than the seeds differ": 1, "Not told apart from it": 0, "Below it": -1}
    named = {words: [name for name, side in beyond.items() if side == wanted] for words, wanted in said.items()}
    parts = [f"{words}: {', '.join(names) or 'none'}" for words, names in named.items()] if beyond else []
    if alone := [name for name in known if name not in beyond]:
        parts.append(f"Beside {what}, of one seed and not judged: {', '.join(alone)}")
    return (". ".join(parts) + ".",) if parts else ()


def _beyond(difference: Spread) -> int:
    """1 or -1 where the seeds tell that it is above or below 0, else 0."""
    if abs(difference.mean) <= max(difference.deviation, ROUNDING):
        return 0
    return 1 if difference.mean > 0 else -1


class Table(NamedTuple):
    """Rows whose cells are a `Spread`, a word, "" (no meaning) or None (not run), with what is to be said about them."""

    name: str  # of its files
    heading: str
    explanation: str
    columns: tuple[Column, ...]
    rows: list[dict]
    notes: tuple[str, ...] = ()

    def html(self) -> str:
        """As an HTML table."""
        return tables.html(self.rows, self.columns)

    def markdown(self) -> str:
        """As a Markdown page: heading, table, what is to be said."""
        lines = [[column.header for column in self.columns], ["---"] * len(self.columns)]
        lines += [[_cell(row, column).replace("|", "\\|") for column in self.columns] for row in self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"# {self.heading}", self.explanation, table, *self.notes]) + "\n"

    def write(self, folder: Path, made_by: str) -> None:
        """Writes NAME.csv and NAME.md, which ends with the command that made it; in CSV a spread is three columns."""
        tables.write_csv(folder / f"{self.name}.csv", [_flat(row) for row in self.rows])
        write_bytes(folder / f"{self.name}.md", f"{self.markdown()}\n```\n{made_by}\n```\n".encode())


def _cell(row: dict, column: Column) -> str:
    value = row[column.key]
    return tables.NOT_RUN if value is None else "–" if value == "" else column.form(row)


def _flat(row: dict) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Spread):
            found |= {key: value.mean, f"{key}_sd": value.deviation, f"{key}_n": value.count}
        else:
            found[key] = value
    return found


def numbers(key: str, header: str, digits: int = 2, scale: float = 1.0, *, sign: bool = False) -> Column:
    """A column of spreads, divided by `scale`."""
    return Column(key, header, lambda row: row[key].text(scale, digits, sign=sign))


def words(key: str, header: str) -> Column:
    return Column(key, header, tables.plain(key), numeric=False)
