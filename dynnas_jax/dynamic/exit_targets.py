"""What a net of several exits is to cost on average: the targets of a config, each with thresholds, and a net, of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dynnas_jax.dynamic import metric


class Targets(NamedTuple):
    """Average costs of an image that nets are made for, by the reward of `metric`."""

    macs: tuple[float, ...]
    omega: float
    deployed: int  # which of them the exported net is for


def asked(
    most_macs: int,
    *,
    target_macs: Sequence[float] | None = None,
    target_macs_fractions: Sequence[float] | None = None,
    omega: float = metric.OMEGA,
    deployed: int = 0,
) -> Targets:
    """The targets of a config's section `dynamic`.

    Args:
      most_macs: of the largest net.
      target_macs: average MACs of an image; the paper's are 90, 120, 150 and 180 million.
      target_macs_fractions: in their place, parts of the largest net's.
      omega: how much the cost weighs in the reward; 0 leaves it out.
      deployed: which of the targets, from 0, the exported net is for.

    Raises:
      ValueError: unless exactly one of the two lists is given, for a target not above 0, an omega below 0, or a number of no
        target.
    """
    given = {"target_macs": target_macs, "target_macs_fractions": target_macs_fractions}
    named = [name for name, values in given.items() if values]
    if len(named) != 1:
        raise ValueError("dynamic: give exactly one of target_macs and target_macs_fractions, a list of targets")
    values = tuple(float(value) for value in given[named[0]])
    if wrong := [value for value in values if not value > 0]:
        raise ValueError(f"dynamic.{named[0]}: {wrong[0]} must be above 0")
    if not omega >= 0:
        raise ValueError(f"dynamic.omega is {omega}, must not be negative")
    if not 0 <= deployed < len(values):
        raise ValueError(f"dynamic.deployed is {deployed}, must be the number of a target, from 0 to {len(values) - 1}")
    scale = 1 if named[0] == "target_macs" else most_macs
    return Targets(tuple(value * scale for value in values), float(omega), int(deployed))


def check(**options: object) -> None:
    """Raises ValueError for options that `asked` does not take."""
    try:
        asked(1, **options)
    except TypeError as error:
        raise ValueError(f"dynamic: a value has another type ({error})") from error


def check_reachable(targets: Targets, least_macs: int) -> None:
    """Raises ValueError for a target that even the cheapest answer exceeds."""
    if (lowest := min(targets.macs)) < least_macs:
        raise ValueError(
            f"a target of {lowest:.0f} average MACs is below the {least_macs} of the cheapest net's first exit; "
            "give a higher one"
        )
