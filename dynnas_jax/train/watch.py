"""Signs of life of a training: how far it is and how fast. Nothing here imports JAX."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dynnas_jax.train.stopwatch import Speed


class _Told(NamedTuple):
    """The speed of a stretch of steps."""

    images_per_s: float
    wait_share: float
    seconds_per_step: float


class Heartbeat:
    """What `progress.training` tells of a training: the step and loss it is at, its speed over about the last `every_s` seconds.

    So a speed is that of many steps; until there have been any it is not known, as while the program compiles.
    """

    def __init__(self, first: int, steps: int, batch_size: int, *, every_s: float = 60.0):
        self._steps, self._batch_size, self._every_s = steps, batch_size, every_s
        self._done, self._loss, self._told = first, None, None
        self._begin()

    def _begin(self) -> None:
        self._start, self._elapsed_s, self._wait_s = self._done, 0.0, 0.0
        self._due = time.monotonic() + self._every_s

    def beat(self, done: int, speed: Speed, loss: float) -> None:
        """Takes in the speed since the last call; `done` steps are done now."""
        elapsed_s = (done - self._done) / speed.steps_per_s
        self._elapsed_s += elapsed_s
        self._wait_s += elapsed_s * speed.wait_share
        self._done, self._loss = done, loss
        moved = done - self._start
        if self._elapsed_s <= 0 or not moved:
            return
        over = time.monotonic() >= self._due or done == self._steps
        if over or self._told is None:
            per_s = self._batch_size * moved / self._elapsed_s
            self._told = _Told(per_s, self._wait_s / self._elapsed_s, self._elapsed_s / moved)
        if over:
            self._begin()

    def facts(self) -> dict[str, Any]:
        """As `progress.Training` has it; the loss is None where it is not finite."""
        done, loss, told = self._done, self._loss, self._told
        return {
            "step": done,
            "steps": self._steps,
            "images_per_s": None if told is None else round(told.images_per_s, 1),
            "wait_share": None if told is None else round(told.wait_share, 4),
            "loss": loss if loss is not None and math.isfinite(loss) else None,
            "time_left_s": None if told is None else round((self._steps - done) * told.seconds_per_step, 1),
        }
