"""Signs of life of a training: a line about once a minute, and a file that says how far it is. Nothing here imports JAX."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynnas_jax import processes
from dynnas_jax.workdir import write_json

if TYPE_CHECKING:
    from dynnas_jax.train.stopwatch import Speed

PROGRESS = "progress.json"


class Heartbeat:
    """Says how fast a training goes and how long it will take, `every_s` seconds; of several processes the first.

    The line goes to standard error, but not to a terminal, where a bar shows the same. The file is `PROGRESS` in the directory:
    step, steps, images_per_s, wait_share, loss, time_left_s (null while not known), updated (Unix time), process.
    """

    def __init__(self, directory: Path | None, first: int, steps: int, batch_size: int, *, every_s: float = 60.0):
        self._file = directory / PROGRESS if directory is not None and processes.is_first() else None
        self._speaks = processes.is_first() and not sys.stderr.isatty()
        self._steps, self._batch_size, self._every_s = steps, batch_size, every_s
        self._done = first
        self._begin(first)
        self._write(first, None)

    def _begin(self, done: int) -> None:
        self._start, self._elapsed_s, self._wait_s = done, 0.0, 0.0
        self._due = time.monotonic() + self._every_s

    def beat(self, done: int, speed: Speed, loss: float) -> None:
        """Takes in the speed since the last call; `done` steps are done now. Speaks and writes if it is time, and at the end."""
        elapsed_s = (done - self._done) / speed.steps_per_s
        self._done, self._elapsed_s = done, self._elapsed_s + elapsed_s
        self._wait_s += elapsed_s * speed.wait_share
        if time.monotonic() < self._due and done < self._steps:
            return
        facts = self._write(done, loss)
        if self._speaks and facts["images_per_s"] is not None:
            print(line(facts), file=sys.stderr, flush=True)
        self._begin(done)

    def _write(self, done: int, loss: float | None) -> dict[str, Any]:
        moved, elapsed_s = done - self._start, self._elapsed_s
        known = moved > 0 and elapsed_s > 0
        facts = {
            "step": done,
            "steps": self._steps,
            "images_per_s": round(self._batch_size * moved / elapsed_s, 1) if known else None,
            "wait_share": round(self._wait_s / elapsed_s, 4) if known else None,
            "loss": loss if loss is not None and math.isfinite(loss) else None,
            "time_left_s": round((self._steps - done) * elapsed_s / moved, 1) if known else None,
            "updated": round(time.time(), 1),
            "process": os.getpid(),
        }
        if self._file is not None:
            write_json(self._file, facts)
        return facts


def line(facts: dict[str, Any]) -> str:
    """One plain line of what `PROGRESS` holds."""
    loss = "not finite" if facts["loss"] is None else f"{facts['loss']:.4g}"
    return (
        f"dynnas: train: step {facts['step']} of {facts['steps']}, {facts['images_per_s']:.0f} images/s, "
        f"waiting for input {100 * facts['wait_share']:.0f} % of the time, loss {loss}, "
        f"{duration(facts['time_left_s'])} left"
    )


def duration(seconds: float) -> str:
    """Such as "45 s", "12 min" or "3 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What the training in this folder said last, None where it said nothing yet.

    Raises:
      ValueError: for a file that is damaged.
    """
    file = folder / PROGRESS
    try:
        found = json.loads(file.read_text())
        numbers = {name: found[name] for name in ("step", "steps", "updated", "process")}
        if not all(isinstance(value, (int, float)) for value in numbers.values()):
            raise TypeError("a value is no number")
        return {**dict.fromkeys(("images_per_s", "wait_share", "loss", "time_left_s")), **found}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); the training writes it anew") from error
