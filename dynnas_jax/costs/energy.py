"""Energy of inferences: from a power figure, from a log of power, from the processor's own counters (RAPL).

Standard library only: a copy of this module lies in every export folder.
"""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if __package__:
    from dynnas_jax.costs import power_log
else:  # lying alone in an export folder
    import power_log

POWERCAP = Path("/sys/class/powercap")
# Grams of CO2-equivalents for a kWh of electricity.
GRID_G_PER_KWH = {
    "world": 475.0,  # generation in 2018, IEA, Global Energy and CO2 Status Report 2019
}
# What a device draws at its limit, W, by words of what it calls itself: the makers' data sheets.
DEVICE_POWER_W = {
    "GTX 1080 Ti": 250.0,
    "V100": 300.0,
    "A100": 400.0,
    "H100": 700.0,
    "H200": 700.0,
    "RTX 4090": 450.0,
    "L4": 72.0,
    "T4": 70.0,
}
CORE_POWER_W = 12.0  # of a processor that is not known: Lannelongue et al. 2021, Green Algorithms (arXiv 2007.07610)
FEWEST_SAMPLES = 5  # of a log within the time that is integrated


def from_power_mj(power_w: float, latency_ms: float) -> float:
    """Energy of one inference in mJ, of a device that draws `power_w` for `latency_ms`: W x ms = mJ."""
    if not (0 < power_w < math.inf and 0 <= latency_ms < math.inf):
        raise ValueError(f"power {power_w} W and latency {latency_ms} ms: give a power above 0 and a time")
    return power_w * latency_ms


def known_device(name: str) -> str | None:
    """The key of `DEVICE_POWER_W` whose words a device calls itself by, such as "NVIDIA A100-SXM4-80GB"; None for others."""
    words = (re.compile(rf"(?<!\w){re.escape(known)}(?!\w)", re.IGNORECASE) for known in DEVICE_POWER_W)
    return next((known for known, word in zip(DEVICE_POWER_W, words) if word.search(name)), None)  # noqa: B905


def carbon_g(energy_j: float, grid_g_per_kwh: float = GRID_G_PER_KWH["world"]) -> float:
    """Grams of CO2-equivalents of an energy in J, at the intensity of the electricity; 1 kWh is 3.6 MJ.

    Raises: ValueError for what is below zero or not finite.
    """
    if not (0 <= energy_j < math.inf and 0 <= grid_g_per_kwh < math.inf):
        raise ValueError(f"energy {energy_j} J at {grid_g_per_kwh} g/kWh: neither may be below zero")
    return energy_j / 3.6e6 * grid_g_per_kwh


def integrate_j(log: power_log.Log, start_s: float, end_s: float) -> float:
    """Energy in J that a log shows between two times: by trapezoids, the power at both ends interpolated.

    Raises: ValueError where the log does not cover that time, or has fewer than FEWEST_SAMPLES samples in it.
    """
    times, powers = log.time_s, log.power_w
    if not start_s < end_s:
        raise ValueError(f"energy from {start_s} s to {end_s} s: give a time that ends after it starts")
    if start_s < times[0] or end_s > times[-1]:
        raise ValueError(
            f"{log.source} runs from {_clock(times[0])} to {_clock(times[-1])}, the measurement from {_clock(start_s)} "
            f"to {_clock(end_s)} (UTC): the log must cover it"
        )
    first, last = bisect_left(times, start_s), bisect_right(times, end_s)
    if last - first < FEWEST_SAMPLES:
        raise ValueError(
            f"{log.source} has {last - first} samples within the {end_s - start_s:.3g} s measured: "
            f"measure longer (--energy_s), or log faster"
        )
    time_s = [start_s, *times[first:last], end_s]
    power_w = [_at(log, start_s), *powers[first:last], _at(log, end_s)]
    steps = range(1, len(time_s))
    return math.fsum((time_s[i] - time_s[i - 1]) * (power_w[i] + power_w[i - 1]) / 2 for i in steps)


def _at(log: power_log.Log, time_s: float) -> float:
    """The power at a time that the log covers."""
    after = bisect_left(log.time_s, time_s)
    if log.time_s[after] == time_s:
        return log.power_w[after]
    low, high = log.time_s[after - 1], log.time_s[after]
    part = (time_s - low) / (high - low)
    return log.power_w[after - 1] + part * (log.power_w[after] - log.power_w[after - 1])


def _clock(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_s))


class Counter(NamedTuple):
    """One energy counter of the processor."""

    name: str
    path: Path
    range_uj: int  # where it starts again from 0


def rapl(root: Path = POWERCAP) -> tuple[Counter, ...]:
    """The counters of whole processors and of their memory that may be read here; none on most boards.

    A processor's counter holds those of its cores and graphics, so these are left out, as are those of other kinds that count
    the same again (psys, mmio).
    """
    found = []
    for zone in sorted(root.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            counter = Counter(name, zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()))
            int(counter.path.read_text())
        except (OSError, ValueError):  # reading needs root on most systems
            continue
        if counter.range_uj > 0 and (name.startswith("package") or name == "dram"):
            found.append(counter)
    return tuple(found) if any(counter.name.startswith("package") for counter in found) else ()


def read_uj(counters: Sequence[Counter]) -> tuple[int, ...]:
    """What the counters show now."""
    return tuple(int(counter.path.read_text()) for counter in counters)


def elapsed_j(counters: Sequence[Counter], before_uj: Sequence[int], after_uj: Sequence[int]) -> float:
    """J between two readings, less than one round of each counter apart."""
    total_uj = 0
    for counter, before, after in zip(counters, before_uj, after_uj):  # noqa: B905
        total_uj += after - before if after >= before else after + counter.range_uj - before
    return total_uj / 1e6
