"""What a net of several exits is to cost on average: the targets of a config, each with thresholds, and a net, of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dynnas_jax.dynamic import metric

MACS, LATENCY = "macs", "latency_ms"  # units, by their names in files
DEPLOYED = 0  # the target, from 0, whose net is exported where a config says nothing


class Targets(NamedTuple):
    """Average costs of an image that nets are made for, by the reward of `metric`."""

    costs: tuple[float, ...]
    omega: float
    unit: str  # of the costs: `MACS` or `LATENCY`


def asked(
    most: Mapping[str, float],
    *,
    target_macs: Sequence[float] | None = None,
    target_macs_fractions: Sequence[float] | None = None,
    target_latency_ms: Sequence[float] | None = None,
    target_latency_fractions: Sequence[float] | None = None,
    latency_table: str | None = None,
    omega: float = metric.OMEGA,
    deployed: int = DEPLOYED,
) -> Targets:
    """The targets of a config's section `dynamic`.

    Args:
      most: all that the largest net costs up to its last exit, by unit; `LATENCY` where there is a table.
      target_macs: average MACs of an image; the paper's are 90, 120, 150 and 180 million.
      target_macs_fractions: in their place, parts of the largest net's.
      target_latency_ms, target_latency_fractions: the same in milliseconds of `latency_table`.
      latency_table: a file of `dynnas table`.
      omega: how much the cost weighs in the reward; 0 leaves it out.
      deployed: which of the targets, from 0, the exported net is for; no target depends on it.

    Raises:
      ValueError: unless exactly one of the four lists is given, for latencies without a table, a target that is no finite number
        above 0, an omega that is none from 0 on, or a number of no target.
    """
    given = {"target_macs": target_macs, "target_macs_fractions": target_macs_fractions}
    given |= {"target_latency_ms": target_latency_ms, "target_latency_fractions": target_latency_fractions}
    named = [name for name, values in given.items() if values]
    if len(named) != 1:
        raise ValueError(f"dynamic: give exactly one of {', '.join(given)}, a list of targets")
    values = given[named[0]]
    if not isinstance(values, (tuple, list)):
        raise ValueError(f"dynamic.{named[0]} is {values!r}, must be a list of targets")
    if wrong := [value for value in values if not (_finite(value) and value > 0)]:
        raise ValueError(f"dynamic.{named[0]}: {wrong[0]!r} must be a finite number above 0")
    if not (_finite(omega) and omega >= 0):
        raise ValueError(f"dynamic.omega is {omega!r}, must be a finite number of at least 0")
    if not 0 <= deployed < len(values):
        raise ValueError(f"dynamic.deployed is {deployed}, must be the number of a target, from 0 to {len(values) - 1}")
    unit = LATENCY if "latency" in named[0] else MACS
    if unit == LATENCY and not latency_table:
        raise ValueError(f"dynamic.{named[0]} needs dynamic.latency_table; `dynnas table` builds one")
    scale = most[unit] if named[0].endswith("_fractions") else 1
    return Targets(tuple(float(value) * scale for value in values), float(omega), unit)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def check(**options: object) -> None:
    """Raises ValueError for options that `asked` does not take."""
    try:
        asked({MACS: 1, LATENCY: 1}, **options)
    except TypeError as error:
        raise ValueError(f"dynamic: a value has another type ({error})") from error


def told(cost: float, unit: str) -> str:
    """A cost in words."""
    return f"{cost:.0f} MACs" if unit == MACS else f"{cost:.4g} ms"


def check_reachable(targets: Targets, least: float) -> None:
    """Raises ValueError for a target that even the cheapest answer, which costs `least`, exceeds."""
    if (lowest := min(targets.costs)) < least:
        raise ValueError(
            f"a target of {told(lowest, targets.unit)} on average is below the {told(least, targets.unit)} of the cheapest net's "
            "first exit; give a higher one"
        )
