"""How far the stage is that runs now: a line about once a minute, and a file that `dynnas status` reads. No JAX here.

A stage may be in one long call, so a thread of its own tells; what counts its work calls `counted`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dynnas_jax import processes
from dynnas_jax.workdir import write_json

FILE = "progress.json"  # in the folder of a stage
TIMES = "times.jsonl"  # there too: how long each call was at it
LINE_EVERY_S, FILE_EVERY_S = 60.0, 5.0
_NUMBERS = ("done", "of", "per_s", "time_left_s")  # null while nothing is counted, or not known yet


class _Count:
    """Work of which it is known how much there is."""

    def __init__(self, what: str, total: int, unit: str, done: int):
        self.what, self.total, self.unit = what, total, unit
        self.done, self._first, self._begin_s = done, done, time.monotonic()

    def facts(self) -> dict[str, Any]:
        moved, elapsed_s = self.done - self._first, time.monotonic() - self._begin_s
        known = moved > 0 and elapsed_s > 0
        return {
            "what": self.what,
            "unit": self.unit,
            "done": self.done,
            "of": self.total,
            "per_s": round(moved / elapsed_s, 3) if known else None,
            "time_left_s": round((self.total - self.done) * elapsed_s / moved, 1) if known else None,
        }


_stages: list[list[_Count]] = []  # what the stage that runs now counts, outermost first; empty where none runs


@contextlib.contextmanager
def of_stage(
    name: str, folder: Path, *, line_every_s: float = LINE_EVERY_S, file_every_s: float = FILE_EVERY_S
) -> Iterator[None]:
    """Tells about a stage while it runs, of several processes the first; the file stays where the stage fails.

    The line goes to standard error, but not to a terminal.
    """
    if not processes.is_first():
        yield
        return
    counts, over, begin_s = [], threading.Event(), time.monotonic()

    def tell() -> None:
        line_due_s = begin_s + line_every_s
        while not over.wait(min(file_every_s, line_every_s)):
            facts = _facts(name, counts, begin_s)
            with contextlib.suppress(OSError):  # a full disk is the stage's to notice
                write_json(folder / FILE, facts)
            if time.monotonic() >= line_due_s:
                line_due_s += line_every_s
                if not sys.stderr.isatty():
                    print(f"dynnas: {name}: {line(facts)}", file=sys.stderr, flush=True)

    write_json(folder / FILE, _facts(name, counts, begin_s))
    thread = threading.Thread(target=tell, name="progress", daemon=True)
    _stages.append(counts)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _stages.remove(counts)
    (folder / FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def counted(what: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """`advance(n)`: n more of `total` are done. Told with the stage; of counts within counts the outermost is."""
    count = _Count(what, total, unit, done)

    def advance(more: int = 1) -> None:
        count.done += more

    counts = _stages[-1] if _stages else []
    counts.append(count)
    try:
        yield advance
    finally:
        counts.remove(count)


def _facts(name: str, counts: list[_Count], begin_s: float) -> dict[str, Any]:
    outermost = counts[:1]  # at once: another thread may take it off the list
    told = outermost[0].facts() if outermost else {"what": None, "unit": None, **dict.fromkeys(_NUMBERS)}
    elapsed_s = round(time.monotonic() - begin_s, 1)
    return {"stage": name, **told, "elapsed_s": elapsed_s, "updated": round(time.time(), 1), "process": os.getpid()}


def line(facts: dict[str, Any]) -> str:
    """What the file of a stage holds, in words."""
    if facts["what"] is None:
        return f"for {duration(facts['elapsed_s'])}"
    parts = [f"{facts['what']}: {facts['done']} of {facts['of']} {facts['unit']}"]
    if facts["per_s"] is not None:
        parts += [f"{facts['per_s']:.3g} {facts['unit']}/s", f"{duration(facts['time_left_s'])} left"]
    return ", ".join([*parts, f"for {duration(facts['elapsed_s'])}"])


def duration(seconds: float) -> str:
    """Such as "45 s", "12 min" or "3 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def timed(folder: Path) -> Iterator[None]:
    """Adds how long the block took, to its end or its failure, to what the stage of this folder has taken before."""
    begin_s = time.monotonic()
    try:
        yield
    finally:
        if processes.is_first() and folder.is_dir():
            with contextlib.suppress(OSError), (folder / TIMES).open("a") as file:
                file.write(json.dumps({"seconds": round(time.monotonic() - begin_s, 3)}) + "\n")


def spent_s(folder: Path) -> float | None:
    """Seconds that the stage of this folder has taken in all, interrupted calls too; None where nothing tells."""
    try:
        return sum(json.loads(line)["seconds"] for line in (folder / TIMES).read_text().splitlines())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read(folder: Path) -> dict[str, Any] | None:
    """What the stage in this folder said last, None where it said nothing yet.

    Raises:
      ValueError: for a file that is damaged.
    """
    return read_file(folder / FILE, ("elapsed_s", "updated", "process"), ("what", "unit", *_NUMBERS))


def read_file(file: Path, numbers: tuple[str, ...], others: tuple[str, ...]) -> dict[str, Any] | None:
    """The object in a file with these numbers; `others` that it lacks are None. None where there is no file.

    Raises:
      ValueError: for a file that is damaged.
    """
    try:
        found = json.loads(file.read_text())
        if not all(isinstance(found[name], (int, float)) for name in numbers):
            raise TypeError("a value is no number")
        return {**dict.fromkeys(others), **found}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); its stage writes it anew") from error
