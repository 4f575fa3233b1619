"""How fast training goes, and how long the devices wait for their next batch meanwhile."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax


class Speed(NamedTuple):
    """Of the calls between two looks."""

    steps_per_s: float
    wait_share: float  # of the time, the devices had nothing to do


class Stopwatch:
    """Dispatch is ahead of the devices: a thread notes when each call's result was there, so that the wait is the devices'."""

    def __init__(self, step: int):
        self._thread, self._ready = ThreadPoolExecutor(1, "stopwatch"), None
        self.restart(step)

    def restart(self, step: int) -> None:
        """Leaves out the time until now, and what the devices waited for in it."""
        self._step, self._time, self._wait_s, self._ready = step, time.perf_counter(), 0.0, None

    def begins(self) -> None:
        """The next call is about to be dispatched: its batch is there."""
        if self._ready is not None and self._ready.done():
            self._wait_s += time.perf_counter() - max(self._ready.result(), self._time)

    def dispatched(self, result: jax.Array) -> None:
        """`result` is one array that the call makes, and that no later call takes over."""
        self._ready = self._thread.submit(_ready_at, result)

    def look(self, step: int) -> Speed:
        """Since the last look or restart."""
        elapsed_s = time.perf_counter() - self._time
        found = Speed((step - self._step) / elapsed_s, self._wait_s / elapsed_s)
        ready = self._ready
        self.restart(step)
        self._ready = ready
        return found

    def close(self) -> None:
        self._thread.shutdown()


def _ready_at(result: jax.Array) -> float:
    jax.block_until_ready(result)
    return time.perf_counter()
