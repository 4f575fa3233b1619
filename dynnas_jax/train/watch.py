"""Signs of life of a training: a line about once a minute, and a file that says how far it is. Nothing here imports JAX."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynnas_jax import processes, progress
from dynnas_jax.workdir import write_json

if TYPE_CHECKING:
    from dynnas_jax.train.stopwatch import Speed

_NUMBERS = ("step", "steps", "updated", "process")  # that the file always holds


class Heartbeat:
    """Says how fast a training goes and how long it will take, `every_s` seconds; of several processes the first.

    The line goes to standard error, but not to a terminal, where a bar shows the same. The directory's `progress.FILE` holds
    step, steps, images_per_s, wait_share, loss, time_left_s (null while not known), updated (Unix time), process.
    """

    def __init__(self, directory: Path | None, first: int, steps: int, batch_size: int, *, every_s: float = 60.0):
        self._file = directory / progress.FILE if directory is not None and processes.is_first() else None
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
    """One plain line of what the file holds."""
    loss = "not finite" if facts["loss"] is None else f"{facts['loss']:.4g}"
    return (
        f"dynnas: train: step {facts['step']} of {facts['steps']}, {facts['images_per_s']:.0f} images/s, "
        f"waiting for input {100 * facts['wait_share']:.0f} % of the time, loss {loss}, "
        f"{progress.duration(facts['time_left_s'])} left"
    )


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What the training in this folder said last, None where it said nothing yet.

    Raises:
      ValueError: for a file that is damaged.
    """
    return progress.read_file(folder / progress.FILE, _NUMBERS, ("images_per_s", "wait_share", "loss", "time_left_s"))
