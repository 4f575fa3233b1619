"""How far the stage is that runs now: a line about once a minute, and a file that `dynnas status` reads. No JAX here.

A stage may be in one long call, so a thread of its own tells; what counts its work calls `counted`, a training `training`.
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
from typing import Any, Protocol

from dynnas_jax import processes
from dynnas_jax.workdir import write_json

FILE = "progress.json"  # in the folder of a stage
TIMES = "times.jsonl"  # there too: how long each call was at it
LINE_EVERY_S, FILE_EVERY_S = 60.0, 5.0
_NUMBERS = ("done", "of", "per_s", "time_left_s")  # null while nothing is counted, or not known yet
_STEPS, _SPEED = (
    ("step", "steps"),
    ("images_per_s", "wait_share", "time_left_s"),
)  # of a training; null as long as not known


class Training(Protocol):
    """What tells how far a training is."""

    def facts(self) -> dict[str, Any]:
        """step, steps, images_per_s, wait_share (of the time), loss, time_left_s; from any thread."""


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


class _Stage:
    """What there is to tell of a stage that runs."""

    def __init__(self, name: str, line_every_s: float):
        self.name, self.line_every_s = name, line_every_s
        self.counts: list[_Count] = []  # outermost first
        self.trainings: list[Training] = []
        self._begin_s = time.monotonic()

    def facts(self) -> dict[str, Any]:
        count, training = self.counts[:1], self.trainings[:1]  # at once: another thread may take it off the list
        return {
            "stage": self.name,
            **(count[0].facts() if count else {"what": None, "unit": None, **dict.fromkeys(_NUMBERS)}),
            "training": training[0].facts() if training else None,
            "elapsed_s": round(time.monotonic() - self._begin_s, 1),
            "updated": round(time.time(), 1),
            "process": os.getpid(),
        }

    def say(self, words: str) -> None:
        """A line on standard error, but not to a terminal, where bars show the same."""
        if not sys.stderr.isatty():
            print(f"dynnas: {self.name}: {words}", file=sys.stderr, flush=True)


_stages: list[_Stage] = []  # the one that runs now is the last; empty where none runs


@contextlib.contextmanager
def of_stage(
    name: str, folder: Path | None, *, line_every_s: float = LINE_EVERY_S, file_every_s: float = FILE_EVERY_S
) -> Iterator[None]:
    """Tells about a stage while it runs, of several processes the first; the file stays where the stage fails.

    The line goes to standard error, but not to a terminal. Without a folder there is no file.
    """
    if not processes.is_first():
        yield
        return
    stage, over, begin_s = _Stage(name, line_every_s), threading.Event(), time.monotonic()

    def write() -> None:
        if folder is not None:
            write_json(folder / FILE, stage.facts())

    def tell() -> None:
        said_s = begin_s
        while not over.wait(min(file_every_s, stage.line_every_s)):
            with contextlib.suppress(OSError):  # a full disk is the stage's to notice
                write()
            if time.monotonic() >= said_s + stage.line_every_s:
                said_s += stage.line_every_s
                stage.say(line(stage.facts()))

    write()
    thread = threading.Thread(target=tell, name="progress", daemon=True)
    _stages.append(stage)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _stages.remove(stage)
    if folder is not None:
        (folder / FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def counted(what: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """`advance(n)`: n more of `total` are done. Told with the stage; of counts within counts the outermost is."""
    count = _Count(what, total, unit, done)

    def advance(more: int = 1) -> None:
        count.done += more

    with _listed(count, _stages[-1].counts if _stages else []):
        yield advance


@contextlib.contextmanager
def training(told: Training, folder: Path | None, *, line_every_s: float = LINE_EVERY_S) -> Iterator[None]:
    """Tells about a training with the stage that runs now, or as one of its own in `folder`; a last line at its end."""
    with contextlib.nullcontext() if _stages else of_stage("train", folder, line_every_s=line_every_s):
        if not _stages:  # of several processes not the first
            yield
            return
        stage = _stages[-1]
        stage.line_every_s = line_every_s
        with _listed(told, stage.trainings):
            yield
        stage.say(", ".join(_of_training(told.facts())))


@contextlib.contextmanager
def _listed(one: Any, among: list) -> Iterator[None]:
    among.append(one)
    try:
        yield
    finally:
        among.remove(one)


def line(facts: dict[str, Any]) -> str:
    """What the file of a stage holds, in words."""
    parts = []
    if facts["what"] is not None:
        parts.append(f"{facts['what']}: {facts['done']} of {facts['of']} {facts['unit']}")
        if facts["per_s"] is not None:
            parts += [f"{facts['per_s']:.3g} {facts['unit']}/s", f"{duration(facts['time_left_s'])} left"]
    if facts["training"] is not None:
        parts += _of_training(facts["training"])
    return ", ".join([*parts, f"for {duration(facts['elapsed_s'])}"])


def _of_training(facts: dict[str, Any]) -> list[str]:
    parts = [f"step {facts['step']} of {facts['steps']}"]
    if facts["images_per_s"] is not None:
        loss = "not finite" if facts["loss"] is None else f"{facts['loss']:.4g}"
        parts += [
            f"{facts['images_per_s']:.0f} images/s",
            f"waiting for input {100 * facts['wait_share']:.0f} % of the time",
        ]
        parts += [f"loss {loss}", f"{duration(facts['time_left_s'])} left"]
    return parts


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
    file = folder / FILE
    try:
        found = {**dict.fromkeys(("what", "unit", *_NUMBERS, "training")), **json.loads(file.read_text())}
        _check(found, ("elapsed_s", "updated", "process"), ())
        if found["what"] is not None:
            _check(found, ("done", "of"), ("per_s", "time_left_s"))
        if found["training"] is not None:
            _check(found["training"], _STEPS, (*_SPEED, "loss"))
        return found
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); its stage writes it anew") from error


def _check(found: dict[str, Any], numbers: tuple[str, ...], numbers_or_none: tuple[str, ...]) -> None:
    """Raises KeyError or TypeError where one of these is not there or no number."""
    for name in (*numbers, *numbers_or_none):
        if not isinstance(found[name], (int, float)) and (name in numbers or found[name] is not None):
            raise TypeError(f"{name} is no number")
