"""What a search costs the machine: seconds, compilation apart, and the peak of its memory."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import jax

from dynnas_jax.export import machine

_COMPILING = "/jax/core/compile/"  # begins the names of JAX's spans of tracing, lowering and compiling


class Meter:
    """`with Meter() as meter:` a search, whose results are on the host; then `meter.told()`."""

    def __enter__(self) -> Meter:
        self._spans, self._end = [], None
        forget_peak()
        jax.monitoring.register_event_time_span_listener(self._listen)
        self._start = time.time()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = time.time()
        jax.monitoring.unregister_event_time_span_listener(self._listen)
        self._memory = peak_memory()

    def _listen(self, event: str, start: float, end: float, **_: object) -> None:
        if event.startswith(_COMPILING):
            self._spans.append((start, end))

    def told(self) -> dict:
        """device_s, compile_s, devices, peak_memory_bytes, and peak_memory_of: "device" or "process"."""
        compiling = covered_s(self._spans)
        size, whose = self._memory
        return {
            "device_s": self._end - self._start - compiling,
            "compile_s": compiling,
            "devices": jax.device_count(),
            "peak_memory_bytes": size,
            "peak_memory_of": whose,
        }


def covered_s(spans: list[tuple[float, float]]) -> float:
    """Seconds that lie in any of the spans (start, end); one program is compiled inside the tracing of another."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def peak_memory() -> tuple[int, str]:
    """Bytes, and whose: the most that was in use on the first device, where its backend tells, else resident in this process."""
    told = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in told:
        return told["peak_bytes_in_use"], "device"
    return machine.peak_memory_bytes(), "process"


def forget_peak() -> None:
    """Lets the peak of this process's memory begin anew, where Linux allows it; that of a device stays."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
