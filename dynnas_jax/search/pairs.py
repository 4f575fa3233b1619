"""Choosing a little and a big subnet, and the threshold between them, from what candidates answered on held-out images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dynnas_jax.dynamic import thresholds
from dynnas_jax.dynamic.thresholds import OperatingPoint
from dynnas_jax.search import pareto

BIG_NETS = ("most_accurate", "largest")
ENOUGH = 48  # candidates of a resolution, nearest the Pareto front, that any pair is made of; more add next to nothing


class ChosenPair(NamedTuple):
    """Indices of two candidates and how the pair runs."""

    little: int
    big: int
    point: OperatingPoint  # on the held-out images
    max_cost: float | None  # the target it was chosen for, in the unit of the costs
    min_accuracy: float | None


class AsLittle(NamedTuple):
    """The candidates for little, where they are others than those for big, or answer otherwise."""

    score: np.ndarray  # float32[k, m]
    correct: np.ndarray  # bool[k, m]
    fits: np.ndarray  # bool[k, n]: whether the first may be the little one of the second; of one resolution at least
    cost: np.ndarray  # [k]


def unit(dynamic: dict, latency_known: bool) -> str:
    """What costs the target of a config's section `dynamic` is about: "macs" or "latency_ms".

    Raises:
      ValueError: for a share of a latency that no table tells.
    """
    if dynamic.get("max_latency_fraction") is not None:
        if not latency_known:
            raise ValueError("dynamic.max_latency_fraction needs search.latency_table; `dynnas table` builds one")
        return "latency_ms"
    return "latency_ms" if latency_known and dynamic.get("max_macs_fraction") is None else "macs"


def cost_fraction(
    max_macs_fraction: float | None = None,
    max_latency_fraction: float | None = None,
    max_accuracy_loss: float | None = None,
    **_: object,
) -> float | None:
    """The part of big's cost that a pair may spend on average; None where the target is an accuracy.

    Raises:
      ValueError: without a target, or for both kinds.
    """
    fraction = max_macs_fraction if max_latency_fraction is None else max_latency_fraction
    if (fraction is None) == (max_accuracy_loss is None):
        raise ValueError(
            "dynamic: give exactly one of max_macs_fraction and max_accuracy_loss "
            "(max_latency_fraction takes the place of the former)"
        )
    return fraction


def choose_big(correct: np.ndarray, cost: np.ndarray, big_net: str = BIG_NETS[0]) -> int:
    """Which of the candidates is big; arguments as in `choose_pair`."""
    if big_net not in BIG_NETS:
        raise ValueError(f"dynamic: big_net is {big_net!r}, choose from {list(BIG_NETS)}")
    accuracy = correct.mean(axis=1)
    return int(np.lexsort((cost, accuracy) if big_net == "most_accurate" else (accuracy, cost))[-1])


def choose_pair(
    score: np.ndarray,
    correct: np.ndarray,
    cost: np.ndarray,
    stem: np.ndarray | int,
    resolution: np.ndarray | None = None,
    as_little: AsLittle | None = None,
    *,
    max_macs_fraction: float | None = None,
    max_latency_fraction: float | None = None,
    max_accuracy_loss: float | None = None,
    big_net: str = BIG_NETS[0],
) -> ChosenPair:
    """First big is chosen, then the little and the threshold that are best beside it.

    Every cheaper candidate of big's resolution is tried as little, with its best threshold. Of those that meet the target
    the most accurate (of equals the one that spends more of the budget) wins for a cost target, the cheapest for an accuracy
    target; if none does, the nearest is returned as infeasible.

    Args:
      score, correct: float32[n, m] and bool[n, m], the candidates' answers on m held-out images.
      cost: [n], in the `unit` of the target: MACs (int), or ms.
      stem: cost of the blocks that little and big share, one number or [n].
      resolution: int[n], pixels, where not all candidates have the same: two nets that share a stem share a resolution.
      as_little: the candidates for little, where they are not these; `ChosenPair.little` is then one of them.
      max_macs_fraction: the average MACs of the pair, as a share of big's.
      max_latency_fraction: the average latency, likewise; takes the place of `max_macs_fraction` where both are given.
      max_accuracy_loss: how far the pair's accuracy may fall below big's.
      big_net: "most_accurate" on the held-out images (of equals the costliest), or "largest": the costliest candidate, where
        the held-out images are too few to tell good nets apart.

    Raises:
      ValueError: unless exactly one target is given, for an unknown `big_net`, or if no candidate of its resolution is cheaper.
    """
    fraction = cost_fraction(max_macs_fraction, max_latency_fraction, max_accuracy_loss)
    big = choose_big(correct, cost, big_net)
    max_cost = None if fraction is None else fraction * float(cost[big])
    min_accuracy = None if fraction is not None else max(0.0, float(correct[big].mean()) - max_accuracy_loss)
    chosen = _best([big], score, correct, cost, stem, resolution, max_cost, min_accuracy, as_little)
    if chosen is None:
        amount = f"{cost[big]} MACs" if np.issubdtype(cost.dtype, np.integer) else f"{cost[big]:.4g} ms"
        raise ValueError(f"search: no candidate of big's resolution is cheaper than its {amount}: there is no pair")
    return chosen


def best_pair(
    score: np.ndarray,
    correct: np.ndarray,
    cost: np.ndarray,
    stem: np.ndarray | int,
    resolution: np.ndarray | None = None,
    as_little: AsLittle | None = None,
    *,
    max_cost: float,
) -> ChosenPair:
    """The most accurate pair of any two candidates whose average cost is at most `max_cost`, else the cheapest (infeasible).

    Arguments as in `choose_pair`. Tried are the candidates nearest the Pareto front of each resolution, `ENOUGH` of them; where
    little ones are others, with each of them as many of those that fit it.

    Raises:
      ValueError: if no two candidates make a pair.
    """
    rows = _nearest_the_front(cost, correct.mean(axis=1), resolution)
    stem = np.broadcast_to(stem, cost.shape)[rows]
    some = (score[rows], correct[rows], cost[rows], stem, None if resolution is None else resolution[rows])
    if as_little is not None:
        as_little = as_little._replace(fits=_few_partners(as_little, rows))
    chosen = _best(range(len(rows)), *some, max_cost, None, as_little)
    if chosen is None:
        raise ValueError("search: no candidate is cheaper than another of its resolution: there is no pair")
    little = chosen.little if as_little else int(rows[chosen.little])
    return chosen._replace(little=little, big=int(rows[chosen.big]))


def _few_partners(as_little: AsLittle, bigs: np.ndarray) -> np.ndarray:
    """bool[k, bigs]: of those that fit each big, the ones nearest the front that they make among themselves."""
    accuracy, few = as_little.correct.mean(axis=1), np.zeros((len(as_little.cost), len(bigs)), bool)
    for column, big in enumerate(bigs):
        fitting = np.flatnonzero(as_little.fits[:, big])
        few[fitting[_nearest_the_front(as_little.cost[fitting], accuracy[fitting], None)], column] = True
    return few


def _nearest_the_front(cost: np.ndarray, accuracy: np.ndarray, resolution: np.ndarray | None) -> np.ndarray:
    """int[k]: at every resolution the Pareto front, the front without that one, and so on, until there are `ENOUGH`."""
    side, found = np.zeros_like(cost, int) if resolution is None else resolution, []
    for value in np.unique(side):
        rows, mine = np.flatnonzero(side == value), []
        while len(rows) and len(mine) < ENOUGH:
            first = pareto.front(cost[rows], accuracy[rows])
            mine += rows[first].tolist()
            rows = rows[~first]
        found += mine
    return np.sort(np.asarray(found, int))


def _best(
    bigs: Iterable[int],
    score: np.ndarray,
    correct: np.ndarray,
    cost: np.ndarray,
    stem: np.ndarray | int,
    resolution: np.ndarray | None,
    max_cost: float | None,
    min_accuracy: float | None,
    as_little: AsLittle | None = None,
) -> ChosenPair | None:
    """The best pair with one of these as big, under one bound, or the nearest to it; None where there is no pair."""
    if as_little is None:
        side = np.zeros(len(cost)) if resolution is None else resolution
        as_little = AsLittle(score, correct, side[:, None] == side[None], cost)
    best, little_ones = None, as_little
    for big in bigs:
        after_stem = cost[big] - np.broadcast_to(stem, cost.shape)[big]
        for little in np.flatnonzero((little_ones.cost < cost[big]) & little_ones.fits[:, big]).tolist():
            right = np.stack([little_ones.correct[little], correct[big]])
            # No threshold does better than the better of the two on every image.
            if max_cost is not None and best and best[0] > (True, right.any(axis=0).mean(), np.inf):
                continue
            sure = np.stack([little_ones.score[little], score[big]])
            spent = np.asarray([little_ones.cost[little], little_ones.cost[little] + after_stem])
            point = thresholds.choose(sure.T, right.T, spent, max_cost=max_cost, min_accuracy=min_accuracy)
            # Infeasible pairs compare by how near they come.
            good, spends = point.accuracy, point.average_cost
            if max_cost is not None:
                rank = (True, good, spends) if point.feasible else (False, -spends, good)
            else:
                rank = (True, -spends, good) if point.feasible else (False, good, -spends)
            if best is None or rank > best[0]:
                best = rank, ChosenPair(little, big, point, max_cost, min_accuracy)
    return best and best[1]
