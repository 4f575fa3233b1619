"""Choosing a little and a big subnet, and the threshold between them, from what candidates answered on held-out images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynnas_jax.dynamic import thresholds
from dynnas_jax.dynamic.thresholds import OperatingPoint


class ChosenPair(NamedTuple):
    """Indices of two candidates and how the pair runs."""

    little: int
    big: int
    point: OperatingPoint  # on the held-out images
    max_cost: float | None  # the target it was chosen for, in MACs
    min_accuracy: float | None


def choose_pair(
    score: np.ndarray,
    correct: np.ndarray,
    cost: np.ndarray,
    stem: int,
    *,
    max_macs_fraction: float | None = None,
    max_accuracy_loss: float | None = None,
) -> ChosenPair:
    """Big is the most accurate candidate (of equals the costliest); little and threshold are the best beside it.

    Every cheaper candidate is tried as little, with its best threshold. Of those that meet the target the most accurate
    wins for a cost target, the cheapest for an accuracy target; if none does, the nearest is returned as infeasible.

    Args:
      score, correct: float32[n, m] and bool[n, m], the candidates' answers on m held-out images.
      cost: int[n], MACs.  stem: MACs that little and big share.
      max_macs_fraction: the average MACs of the pair, as a share of big's.
      max_accuracy_loss: how far the pair's accuracy may fall below big's.

    Raises:
      ValueError: unless exactly one target is given, or if no candidate is cheaper than big.
    """
    if (max_macs_fraction is None) == (max_accuracy_loss is None):
        raise ValueError("dynamic: give exactly one of max_macs_fraction and max_accuracy_loss")
    accuracy = correct.mean(axis=1)
    big = int(np.lexsort((cost, accuracy))[-1])
    cheaper = np.flatnonzero(cost < cost[big])
    if not len(cheaper):
        raise ValueError(f"search: no candidate is cheaper than big at {cost[big]} MACs, so there is no pair")
    by_cost = max_macs_fraction is not None
    max_cost = max_macs_fraction * float(cost[big]) if by_cost else None
    min_accuracy = None if by_cost else float(accuracy[big]) - max_accuracy_loss
    best = None
    for little in cheaper.tolist():
        both = [little, big]
        spent = np.asarray([cost[little], cost[little] + cost[big] - stem])
        point = thresholds.choose(score[both].T, correct[both].T, spent, max_cost=max_cost, min_accuracy=min_accuracy)
        # Infeasible pairs compare by how near they come.
        good, thrift = point.accuracy, -point.average_cost
        rank = (point.feasible, *((good, thrift) if by_cost == point.feasible else (thrift, good)))
        if best is None or rank > best[0]:
            best = rank, ChosenPair(little, big, point, max_cost, min_accuracy)
    return best[1]
