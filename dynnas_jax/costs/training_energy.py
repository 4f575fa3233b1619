"""The energy of a training: what a meter shows while it runs, else power x time; interruptions add up. Standard library only."""

from __future__ import annotations

import json
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dynnas_jax.costs import energy
from dynnas_jax.workdir import write_json

FILE = "energy.json"  # in the folder of a training
LOOK_EVERY_S = 10.0  # a counter of a processor goes round in some minutes at the soonest
_NVIDIA = ("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits")


class Source(NamedTuple):
    """Where an energy is from."""

    name: str
    spent: Callable[[float], float | None]  # seconds since it was asked last -> J in these; None where nothing tells
    devices: str | None = None  # that train, in words


class Spent(NamedTuple):
    """What a training has taken so far, all its attempts together."""

    seconds: float
    energy_j: float | None  # None where nothing told it


def of_power(power_w: float, name: str) -> Source:
    """A power that never changes. Raises ValueError for none."""
    if not 0 < power_w < math.inf:
        raise ValueError(f"power_w is {power_w}, must be above 0")
    return Source(name, lambda seconds: power_w * seconds)


def of_counters(counters: Sequence[energy.Counter]) -> Source:
    """The processor's own counters."""
    before = energy.read_uj(counters)

    def spent(_: float) -> float:
        nonlocal before
        now = energy.read_uj(counters)
        last, before = before, now
        return energy.elapsed_j(counters, last, now)

    return Source(f"counters of the processor ({', '.join(counter.name for counter in counters)})", spent)


def of_processor(processes: int = 1, read: Callable[[], float] = time.process_time) -> Source:
    """A power for each core while this process runs on it: what else the machine does is not counted, nor what it waits for.

    Args:
      processes: that train together, all as busy as this one.
      read: seconds of this process on all cores so far.
    """
    last = read()

    def spent(_: float) -> float:
        nonlocal last
        now = read()
        before, last = last, now
        return processes * energy.CORE_POWER_W * (now - before)

    return Source(f"{_times(processes)}{energy.CORE_POWER_W:g} W a core x processor seconds of the process", spent)


def of_nvidia(read: Callable[[], str | None] | None = None, processes: int = 1) -> Source | None:
    """What NVIDIA's own tool says the devices of this process draw, all together; None where it says nothing.

    Args:
      processes: that train together, each with as many devices; all draw as much as this one's.
    """
    read = read or _nvidia_says

    def watts() -> float | None:
        try:
            return math.fsum(float(line) for line in (read() or "").splitlines() if line.strip()) or None
        except ValueError:  # it says [N/A] of some
            return None

    if (last := watts()) is None:
        return None

    def spent(seconds: float) -> float:
        nonlocal last
        last = watts() or last
        return processes * last * seconds

    return Source(f"{_times(processes)}power that nvidia-smi shows", spent)


def _times(count: int) -> str:
    return f"{count} x " if count > 1 else ""


def visible(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Arguments of nvidia-smi that name the devices a process sees: those of CUDA_VISIBLE_DEVICES, all where it is not set."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    return () if named is None else ("-i", named.replace(" ", ""))


def _nvidia_says() -> str | None:
    try:
        command = (*_NVIDIA, *visible(os.environ))
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def source(device: str, power_w: float | None = None, *, devices: int = 1, processes: int = 1) -> Source:
    """What tells the energy here: a power that was given, the devices' meter, the processor's counters, or a table's power.

    Args:
      device: what an accelerator calls itself, "cpu" where there is none.
      power_w: that all of the training draws.
      devices: accelerators of all processes that train together.
    """
    if power_w is not None:
        return of_power(power_w, f"{power_w:g} W, as given, x time")
    if device == "cpu":
        if counters := energy.rapl():
            return of_counters(counters)
        return of_processor(processes)
    if found := of_nvidia(processes=processes):
        return found
    if (known := energy.known_device(device)) is None:
        return Source(f"nothing tells the power of {_times(devices)}{device}; give power_w", lambda _: None)
    each = energy.DEVICE_POWER_W[known]
    return of_power(devices * each, f"{_times(devices)}{each:g} W of a {known} x time")


class Meter:
    """with Meter(source, file): what runs inside is added to what the file says of earlier attempts."""

    def __init__(self, source: Source, file: Path, every_s: float = LOOK_EVERY_S):
        self.source, self.file, self.every_s = source, file, every_s
        self.total, self._over, self._last_s = read(file), threading.Event(), time.monotonic()

    def _look(self) -> None:
        now_s = time.monotonic()
        seconds, self._last_s = now_s - self._last_s, now_s
        before_j, more_j = self.total.energy_j, self.source.spent(seconds)
        known = before_j is not None and more_j is not None
        self.total = Spent(self.total.seconds + seconds, before_j + more_j if known else None)
        told = {"source": self.source.name, "devices": self.source.devices}
        write_json(self.file, {**self.total._asdict(), **told})

    def _run(self) -> None:
        while not self._over.wait(self.every_s):
            self._look()

    def __enter__(self) -> Meter:
        self._last_s = time.monotonic()
        self.source.spent(0.0)  # what was spent before is not this training's
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()
        self._look()


def read(file: Path) -> Spent:
    """What a file says was spent; nothing where there is none, or where it is damaged."""
    try:
        content = json.loads(file.read_text())
        energy_j = content["energy_j"]
        return Spent(float(content["seconds"]), None if energy_j is None else float(energy_j))
    except (OSError, ValueError, KeyError, TypeError):
        return Spent(0.0, 0.0)
