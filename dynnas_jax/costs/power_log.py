"""Reads what power meters log: INA3221 sensors by way of jtop, USB meters, or any CSV of times and watts.

Standard library only: a copy of this module lies in every export folder.
"""

from __future__ import annotations

import csv
import datetime
import math
import re
from pathlib import Path
from typing import NamedTuple

_UNITS = {
    "time": {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "min": 60.0, "h": 3600.0},
    "power": {"uw": 1e-6, "µw": 1e-6, "mw": 1e-3, "w": 1.0, "watt": 1.0, "watts": 1.0},
    "volts": {"uv": 1e-6, "µv": 1e-6, "mv": 1e-3, "v": 1.0, "volt": 1.0, "volts": 1.0},
    "amperes": {"ua": 1e-6, "µa": 1e-6, "ma": 1e-3, "a": 1.0, "amp": 1.0, "amps": 1.0, "ampere": 1.0, "amperes": 1.0},
}
_NAMES = {
    "time": {"time", "timestamp", "datetime", "date", "elapsed", "uptime", "t", "unixtime", "epoch"},
    "power": {"power", "p", "watt", "watts", "w", "pwr"},
    "volts": {"voltage", "volt", "volts", "v", "u", "vbus"},
    "amperes": {"current", "amp", "amps", "ampere", "amperes", "a", "i", "ibus"},
}
_TOTALS = ({"tot", "total", "sum"}, {"in"})  # of the names of several powers, the one that holds the others
_JTOP = {"nvp model", "jetson_clocks"}  # columns by which a log of jtop is known: its powers are in mW


class Log(NamedTuple):
    """Power over time, as a meter wrote it."""

    time_s: tuple[float, ...]  # since 1970, none before the one in front: a meter may write several a second
    power_w: tuple[float, ...]  # none below zero
    source: str  # the file and the columns that were read


class _Column(NamedTuple):
    place: int
    kind: str
    name: str
    unit: float | None  # in s, W, V or A; None where the name has none


def read_log(
    path: str | Path, *, start_s: float | None = None, utc_offset_s: float = 0.0, column: str | None = None
) -> Log:
    """Power over time from a CSV file: a column of time, and one of power or two of volts and amperes.

    Names are taken as meters write them (`Power [mW]`, `voltage_v`, `Current(A)`, `timestamp`); the unit must be in the name,
    but for dates, for seconds or milliseconds since 1970, and for logs of jtop (mW).

    Args:
      path: comma, semicolon or tab between the columns; lines before the header are skipped.
      start_s: when the log began, seconds since 1970: for times that count from its start.
      utc_offset_s: of dates that name no time zone.
      column: the name of the power column, where there are several.

    Raises: ValueError naming the line or the column that cannot be understood.
    """
    path = Path(path)
    rows, delimiter = _rows(path)
    header, first = _header(path, rows, column)
    clock, *values = header
    times, powers, places = [], [], []
    for number, row in rows[first:]:
        if not any(cell.strip() for cell in row):
            continue
        where = f"{path}, line {number}"
        if len(row) <= max(each.place for each in header):
            raise ValueError(f"{where} has {len(row)} columns, fewer than the header")
        times.append(_time(row[clock.place], clock, where, utc_offset_s))
        places.append(where)
        powers.append(math.prod(_number(row[each.place], delimiter, where) * each.unit for each in values))
        if not 0 <= powers[-1] < math.inf:
            raise ValueError(f"{where} has a power of {powers[-1]:g} W: give none below zero")
    times = _since_1970(times, start_s, path)
    if len(times) < 2:
        raise ValueError(f"{path} has {len(times)} rows, which must be two or more")
    if (late := next((i for i in range(1, len(times)) if times[i] < times[i - 1]), None)) is not None:
        raise ValueError(f"{places[late]} is earlier than the row before it: rows must be in the order of time")
    return Log(tuple(times), tuple(powers), f"{path.name} ({', '.join(each.name for each in values)})")


def _rows(path: Path) -> tuple[list[tuple[int, list[str]]], str]:
    """Numbered rows, and what stands between their cells."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no CSV file: it is not text") from error
    lines = text.splitlines()
    delimiter = max("\t;,", key=lambda mark: sum(line.count(mark) > 0 for line in lines))
    try:
        return [(i + 1, row) for i, row in enumerate(csv.reader(lines, delimiter=delimiter))], delimiter
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file: {error}") from error


def _header(path: Path, rows: list, column: str | None) -> tuple[list[_Column], int]:
    """(the column of time, then those whose product is the power; the row after the header)."""
    for place, (_, row) in enumerate(rows):
        jtop = _JTOP.issubset(cell.strip().lower() for cell in row)
        columns = [_column(i, cell, jtop) for i, cell in enumerate(row)]
        times = [each for each in columns if each and each.kind == "time"]
        others = [each for each in columns if each and each.kind != "time"]
        if times and others:
            # A date says more than an uptime.
            dated = [each for each in times if not {"uptime", "elapsed"} & _words(each.name)]
            return [(dated or times)[0], *_factors(path, others, column)], place + 1
    raise ValueError(f"{path} has no header with a time and a power (or volts and amperes), such as time_s,power_w")


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-zµ]+", name.lower()))


def _column(place: int, cell: str, jtop: bool) -> _Column | None:
    """What a cell of the header names, or None. Its last word may be a unit; whatever is in watts is a power."""
    words = [word for word in re.split(r"[^0-9A-Za-zµ]+", cell.strip().lower()) if word]
    if not words:
        return None
    of_unit = next((kind for kind, units in _UNITS.items() if words[-1] in units), None)
    naming = words[:-1] if of_unit and len(words) > 1 else words
    named = next((kind for word in naming[:2] for kind, names in _NAMES.items() if word in names), None)
    if of_unit == "power" or (of_unit is not None and of_unit == named):
        return _Column(place, of_unit, cell.strip(), _UNITS[of_unit][words[-1]])
    if named is None or of_unit is not None:
        return None
    return _Column(place, named, cell.strip(), 1e-3 if jtop and named == "power" else None)


def _factors(path: Path, columns: list[_Column], wanted: str | None) -> list[_Column]:
    """The one column of power, or the two of volts and amperes."""
    powers = [each for each in columns if each.kind == "power"]
    if wanted is not None:
        powers = [each for each in powers if each.name == wanted]
        if not powers:
            raise ValueError(f"{path} has no column {wanted!r} of power")
    for words in _TOTALS:
        powers = [each for each in powers if words & _words(each.name)] or powers
    found = [powers] if powers else [[each for each in columns if each.kind == kind] for kind in ("volts", "amperes")]
    for choices in found:
        if len(choices) != 1:
            names = ", ".join(each.name for each in choices) or "none"
            raise ValueError(
                f"{path}: one column of power is needed, or one of volts and one of amperes; there are {names}: "
                "name the power with --energy_column"
            )
    factors = [choices[0] for choices in found]
    for each in factors:
        if each.unit is None:
            units = ", ".join(list(_UNITS[each.kind])[2:4])
            raise ValueError(f"{path}: column {each.name!r} names no unit: rename it ({each.name} [...], of {units})")
    return factors


def _number(cell: str, delimiter: str, where: str) -> float:
    text = cell.strip().replace(",", ".") if delimiter != "," else cell.strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise ValueError(f"{where} has {cell.strip()!r} where a number is expected")
    return value


class _Moment(NamedTuple):
    seconds: float
    absolute: bool  # since 1970, not since the log began


def _time(cell: str, column: _Column, where: str, utc_offset_s: float) -> _Moment:
    text = cell.strip()
    if re.fullmatch(r"[0-9.eE+,-]*", text) and not re.match(r"\d{4}-\d", text):
        value = _number(text, ";", where)
        if column.unit is not None:
            return _Moment(value * column.unit, value * column.unit > 1e8)  # more than three years: since 1970
        for scale in (1.0, 1e-3, 1e-6, 1e-9):  # between 2001 and 2096 these cannot be confused
            if 1e9 <= value * scale < 4e9:
                return _Moment(value * scale, True)
        raise ValueError(f"{where}: {text!r} of column {column.name!r} has no unit: rename it to time_s or time_ms")
    if {"uptime", "elapsed"} & _words(column.name):
        return _Moment(_elapsed(text, where), False)
    iso = re.sub(r"\.(\d{1,6})\d*", lambda digits: f".{digits[1]:0<6}", text)  # Python 3.9 reads just 3 or 6 digits
    try:
        date = datetime.datetime.fromisoformat(iso.replace("/", "-").replace("Z", "+00:00"))
    except ValueError as error:
        raise ValueError(f"{where} has {text!r} where a date or a time in seconds is expected") from error
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.timezone(datetime.timedelta(seconds=utc_offset_s)))
    return _Moment(date.timestamp(), True)


def _elapsed(text: str, where: str) -> float:
    """Seconds of `1 day, 2:03:04.5` or `2:03:04.5`."""
    match = re.fullmatch(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)
    if not match:
        raise ValueError(f"{where} has {text!r} where hours:minutes:seconds are expected")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _since_1970(moments: list[_Moment], start_s: float | None, path: Path) -> list[float]:
    if all(moment.absolute for moment in moments):
        return [moment.seconds for moment in moments]
    if any(moment.absolute for moment in moments):
        raise ValueError(f"{path} mixes times since its start with times since 1970")
    if start_s is None:
        raise ValueError(f"{path} counts time from its start: say when that was (--energy_log_start)")
    return [start_s + moment.seconds - moments[0].seconds for moment in moments]
