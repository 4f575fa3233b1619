"""Choosing a little and a big subnet, and the threshold between them, from what candidates answered on held-out images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynnas_jax.dynamic import thresholds
from dynnas_jax.dynamic.thresholds import OperatingPoint

BIG_NETS = ("most_accurate", "largest")


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
    stem: np.ndarray | int,
    resolution: np.ndarray | None = None,
    *,
    max_macs_fraction: float | None = None,
    max_accuracy_loss: float | None = None,
    big_net: str = "most_accurate",
) -> ChosenPair:
    """First big is chosen, then the little and the threshold that are best beside it.

    Every cheaper candidate of big's resolution is tried as little, with its best threshold. Of those that meet the target
    the most accurate (of equals the one that spends more of the budget) wins for a cost target, the cheapest for an accuracy
    target; if none does, the nearest is returned as infeasible.

    Args:
      score, correct: float32[n, m] and bool[n, m], the candidates' answers on m held-out images.
      cost: int[n], MACs.
      stem: MACs of the blocks that little and big share, one number or int[n].
      resolution: int[n], pixels, where not all candidates have the same: two nets that share a stem share a resolution.
      max_macs_fraction: the average MACs of the pair, as a share of big's.
      max_accuracy_loss: how far the pair's accuracy may fall below big's.
      big_net: "most_accurate" on the held-out images (of equals the costliest), or "largest": the costliest candidate, where
        the held-out images are too few to tell good nets apart.

    Raises:
      ValueError: unless exactly one target is given, for an unknown `big_net`, or if no candidate of its resolution is cheaper.
    """
    if big_net not in BIG_NETS:
        raise ValueError(f"dynamic: big_net is {big_net!r}, choose from {list(BIG_NETS)}")
    if (max_macs_fraction is None) == (max_accuracy_loss is None):
        raise ValueError("dynamic: give exactly one of max_macs_fraction and max_accuracy_loss")
    accuracy = correct.mean(axis=1)
    big = int(np.lexsort((cost, accuracy) if big_net == "most_accurate" else (accuracy, cost))[-1])
    partners = True if resolution is None else resolution == resolution[big]
    cheaper = np.flatnonzero((cost < cost[big]) & partners)
    if not len(cheaper):
        raise ValueError(
            f"search: no candidate of big's resolution is cheaper than its {cost[big]} MACs: there is no pair"
        )
    shared = int(np.broadcast_to(stem, cost.shape)[big])
    by_cost = max_macs_fraction is not None
    max_cost = max_macs_fraction * float(cost[big]) if by_cost else None
    min_accuracy = None if by_cost else max(0.0, float(accuracy[big]) - max_accuracy_loss)
    best = None
    for little in cheaper.tolist():
        both = [little, big]
        spent = np.asarray([cost[little], cost[little] + cost[big] - shared])
        point = thresholds.choose(score[both].T, correct[both].T, spent, max_cost=max_cost, min_accuracy=min_accuracy)
        # Infeasible pairs compare by how near they come.
        good, spends = point.accuracy, point.average_cost
        if by_cost:
            rank = (True, good, spends) if point.feasible else (False, -spends, good)
        else:
            rank = (True, -spends, good) if point.feasible else (False, good, -spends)
        if best is None or rank > best[0]:
            best = rank, ChosenPair(little, big, point, max_cost, min_accuracy)
    return best[1]
