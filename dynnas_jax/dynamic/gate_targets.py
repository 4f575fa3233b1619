"""The average MACs that a gated network is asked for, and how its gates are moved until held-out images meet it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.elastic import Supernet

HALVINGS = 20  # of the interval of the tilt
_MOST_WIDE = 64.0  # of a tilt to the wide: to spend less than asked for is no fault
_MOST_NARROW = 2.0**20  # of one to the narrow, beside which float32 tells no scores of a gate apart


def check(*, target_macs: float | None = None, target_macs_fraction: float | None = None) -> None:
    """Raises ValueError for two targets, or one that is not above 0."""
    if target_macs is not None and target_macs_fraction is not None:
        raise ValueError("dynamic: give target_macs or target_macs_fraction, not both")
    for name, value in (("target_macs", target_macs), ("target_macs_fraction", target_macs_fraction)):
        if value is not None and not value > 0:
            raise ValueError(f"dynamic.{name} is {value!r}, must be above 0")


def asked(
    supernet: Supernet, *, target_macs: float | None = None, target_macs_fraction: float | None = None
) -> float | None:
    """The average MACs of an image that are wanted; None where nothing is.

    Args:
      target_macs: of an image; target_macs_fraction: in its place, a part of the widest path's.

    Raises:
      ValueError: as `check`, and for a target outside what the paths span.
    """
    check(target_macs=target_macs, target_macs_fraction=target_macs_fraction)
    if target_macs is None and target_macs_fraction is None:
        return None
    table = macs.table(supernet)
    least, most = (table.exact(end) for end in (supernet.space.smallest, supernet.space.largest))
    target = float(target_macs) if target_macs is not None else target_macs_fraction * most
    if not least <= target <= most:
        raise ValueError(
            f"dynamic: a target of {target:.0f} average MACs is outside what the paths span, {least} to {most}"
        )
    return target


def tilts(supernet: Supernet) -> dict[str, np.ndarray]:
    """What a tilt of 1 adds to every gate's scores, by its block: less, the more a choice costs."""
    table, found = macs.table(supernet), {}
    most = table.exact(supernet.space.largest)
    for segment in supernet.arch.segments[1:]:
        costs = []
        for choice in range(supernet.space.sizes[segment.gene]):
            genome = supernet.space.largest
            genome[segment.gene] = choice
            costs.append(table.exact(genome) / most)
        spread = (np.asarray(costs) - costs[0]) / (costs[-1] - costs[0])
        found[segment.blocks[0]] = (-spread).astype(np.float32)
    return found


class Met(NamedTuple):
    """A tilt of all gates and the average MACs that it leads to."""

    tilt: float
    average_macs: float  # above the target where no tilt meets it


def meet(average_macs: Callable[[float], float], target: float) -> Met:
    """The tilt whose average MACs are nearest to the target from below, of those that halving an interval comes by.

    Args:
      average_macs: of some images by the tilt; falls as the tilt grows. Where it stays above the target, of scores that are no
        numbers, the largest tilt is returned with what it leads to.
    """
    low, high = 0.0, 1.0
    if average_macs(0.0) > target:
        while average_macs(high) > target and high < _MOST_NARROW:
            low, high = high, 2 * high
    else:
        low, high = -1.0, 0.0
        while average_macs(low) <= target and low > -_MOST_WIDE:
            low, high = 2 * low, low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if average_macs(middle) > target:
            low = middle
        else:
            high = middle
    return Met(high, average_macs(high))
