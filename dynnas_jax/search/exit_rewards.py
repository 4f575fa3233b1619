"""What recorded nets of several exits are worth for a target: each with thresholds of its own, from the records alone.

A new target or omega needs no net to run (ENAS4D, arXiv 2009.09182, "Grid search for threshold").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from dynnas_jax.dynamic import exit_thresholds, metric, quantile_thresholds
from dynnas_jax.dynamic.thresholds import OperatingPoint
from dynnas_jax.records import Records

ROWS = 16  # records in memory at a time


class Gap(NamedTuple):
    """What thresholds on quantiles lose of the reward of the best ones, over some subnets and all targets."""

    subnets: int
    mean: float
    most: float


def of_records(
    store: Records, rows: np.ndarray, cost: np.ndarray, targets: Sequence[float], omega: float
) -> np.ndarray:
    """float64[targets, n]: the reward of each record with its best thresholds, for each target.

    Of two and three exits on quantiles, of others by exact coordinate descent. `ROWS` records are read at a time.

    Args:
      rows: int[n], of the store, that are done.
      cost: [n, S], all that is spent when an exit of these answers, in the unit of the targets.
    """
    found = np.zeros((len(targets), len(rows)))
    for start in range(0, len(rows), ROWS):
        where = slice(start, start + ROWS)
        score, correct = _answers(store, rows[where])
        if score.shape[-1] in (2, 3):
            some = _on_quantiles(score, correct, cost[where], np.asarray(targets, np.float32), omega)
        else:
            some = [
                [
                    worth(best(*row, target, omega), target, omega)
                    for row in zip(score, correct, cost[where], strict=True)
                ]
                for target in targets
            ]
        found[:, where] = some
    return found


def best(score: np.ndarray, correct: np.ndarray, cost: np.ndarray, target: float, omega: float) -> OperatingPoint:
    """The best thresholds of one net, exactly: score, correct [m, S], cost [S]. One exit has none."""
    return exit_thresholds.best(score, correct, cost, target=target, omega=omega)


def worth(point: OperatingPoint, target: float, omega: float) -> float:
    """The reward of an operating point."""
    return float(metric.reward(point.accuracy, point.average_cost, target, omega))


def gap(store: Records, rows: np.ndarray, cost: np.ndarray, targets: Sequence[float], omega: float) -> Gap:
    """How far the rewards of `of_records` stay below the best."""
    approximate, lost = of_records(store, rows, cost, targets, omega), []
    for place, row in enumerate(rows):
        score, correct = (part[0] for part in _answers(store, np.asarray([row])))
        for target, near in zip(targets, approximate[:, place], strict=True):
            lost.append(worth(best(score, correct, cost[place], target, omega), target, omega) - near)
    return Gap(len(rows), float(np.mean(lost)), float(np.max(lost)))


def _answers(store: Records, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return store.read("score", rows).astype(np.float32), store.read("correct", rows)


def _on_quantiles(
    score: np.ndarray, correct: np.ndarray, cost: np.ndarray, targets: np.ndarray, omega: float
) -> np.ndarray:
    """[targets, n] by a program of `ROWS` records."""
    missing = ROWS - len(score)
    filled = [np.concatenate([part, part[:1].repeat(missing, axis=0)]) for part in (score, correct, cost)]
    rewards = _program(*filled[:2], filled[2].astype(np.float32), targets, np.float32(omega))
    return np.asarray(rewards)[:, : len(score)]


@jax.jit
def _program(score: jax.Array, correct: jax.Array, cost: jax.Array, targets: jax.Array, omega: jax.Array) -> jax.Array:
    def one(target: jax.Array, score: jax.Array, correct: jax.Array, cost: jax.Array) -> jax.Array:
        return quantile_thresholds.best(score, correct, cost, target=target, omega=omega).reward

    of_records = jax.vmap(one, in_axes=(None, 0, 0, 0))
    return jax.vmap(of_records, in_axes=(0, None, None, None))(targets, score, correct, cost)
