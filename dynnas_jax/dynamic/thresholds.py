"""Thresholds of a dynamic network from the scores and the hits of its choices on held-out images (NumPy only).

Scores are compared in float32, the precision a device computes them in, so a threshold found here acts there alike.
"""

from typing import NamedTuple

import numpy as np

from dynnas_jax.dynamic import routers


class OperatingPoint(NamedTuple):
    """What a dynamic network of S choices does at given thresholds; plain Python numbers."""

    thresholds: tuple  # S - 1 floats in [0, 1], exact in float32
    accuracy: float  # in [0, 1]
    average_cost: float  # per image, in the unit of `cost` (MACs)
    exit_rate: tuple  # S floats summing to 1: the part of the images each choice answers
    feasible: bool  # whether the asked bound holds; True where none was asked


class Curve(NamedTuple):
    """Every distinct operating point of a pair, from most images exiting to none."""

    thresholds: np.ndarray  # float32[p], ascending
    accuracy: np.ndarray  # float64[p]
    average_cost: np.ndarray  # float64[p]
    exit_rate: np.ndarray  # float64[p, 2]


class Levels(NamedTuple):
    """The distinct scores of an exit: threshold i lets those images exit whose level is at least i."""

    level: np.ndarray  # int64[m], of each image, from 0
    thresholds: np.ndarray  # float32[levels + 1], ascending
    first: int  # the first threshold that there is: where a score is 0, none lets all exit

    def below(self, weights):
        """int64[levels + 1]: the sum of the integers [m] of the images that do not exit, at every threshold."""
        sums = np.bincount(self.level + 1, weights, len(self.thresholds))  # exact: float64 of small integers
        return np.cumsum(sums.astype(np.int64))


def levels_of(score):
    """The `Levels` of float32[m]. A threshold stands midway between neighbouring scores, the last is 1: none exits."""
    values, level = np.unique(score, return_inverse=True)
    ends = [np.float32(0)], _between(values[:-1], values[1:]), [np.float32(1)]
    return Levels(level, np.concatenate(ends), int(values[0] == 0))


def curve(score, correct, cost):
    """Every distinct operating point of a pair, by one sort: O(m log m).

    An image exits where its first score > threshold, so images of equal score exit together. A threshold stands midway
    between neighbouring scores; it is 0 where all exit (no such point where a score is 0) and 1 where none does.

    Args:
      score: [m, 2] in [0, 1] (the second column is not used); correct: bool[m, 2]; cost: [2], all MACs spent when
        choice s answers.

    Returns:
      A Curve of at most m + 1 points.

    Raises:
      ValueError: shapes that do not fit, other than two choices, no image, or scores outside [0, 1].
    """
    score, correct, cost = checked(score, correct, cost)
    if len(cost) != 2:
        raise ValueError(f"{len(cost)} choices: the threshold curve is that of a pair, score[m, 2] and cost[2]")
    images, levels = len(score), levels_of(score[:, 0])
    gained = correct[:, 0].astype(np.int64) - correct[:, 1]  # by the little one answering instead of the big one
    # Images that do not exit, from none to all.
    stays, lost = (levels.below(weights)[levels.first :] for weights in (np.ones(images, np.int64), gained))
    right = correct[:, 0].sum() - lost
    return Curve(
        thresholds=levels.thresholds[levels.first :],
        accuracy=right / images,
        average_cost=((images - stays) * cost[0] + stays * cost[1]) / images,
        exit_rate=np.stack([images - stays, stays], axis=-1) / images,
    )


def choose(score, correct, cost, *, max_cost=None, min_accuracy=None):
    """The best operating point of a pair under one bound; give exactly one of the two.

    Args:
      score, correct, cost: as in `curve`.
      max_cost: the most accurate point of average cost <= max_cost. Of equals the costlier: images are too few to tell
        them apart, and the budget allows the more careful one. If there is none: the cheapest, feasible=False.
      min_accuracy: in [0, 1]; the cheapest point of accuracy >= min_accuracy (of equals the more accurate). If there
        is none: the most accurate, feasible=False.

    Returns:
      An OperatingPoint.

    Raises:
      ValueError: as `curve`; both bounds or neither; an accuracy outside [0, 1].
    """
    if (max_cost is None) == (min_accuracy is None):
        raise ValueError(f"max_cost={max_cost}, min_accuracy={min_accuracy}: give exactly one of the two")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise ValueError(f"min_accuracy={min_accuracy}: give a part of the images in [0, 1], not a percentage")
    points = curve(score, correct, cost)
    cheapest = np.lexsort((-points.accuracy, points.average_cost))
    most_accurate = np.lexsort((points.average_cost, -points.accuracy))
    if max_cost is not None:
        careful = np.lexsort((-points.average_cost, -points.accuracy))
        allowed, best_first, nearest = points.average_cost <= max_cost, careful, cheapest[0]
    else:
        allowed, best_first, nearest = points.accuracy >= min_accuracy, cheapest, most_accurate[0]
    feasible = bool(allowed.any())
    best = best_first[np.argmax(allowed[best_first])] if feasible else nearest
    return OperatingPoint(
        thresholds=(float(points.thresholds[best]),),
        accuracy=float(points.accuracy[best]),
        average_cost=float(points.average_cost[best]),
        exit_rate=tuple(points.exit_rate[best].tolist()),
        feasible=feasible,
    )


def evaluate(score, correct, cost, thresholds):
    """The operating point at given thresholds, for any number of choices S.

    Args:
      score: [m, S] in [0, 1]; correct: bool[m, S]; cost: [S], all MACs spent when choice s answers.
      thresholds: [S - 1] in [0, 1].

    Returns:
      An OperatingPoint with feasible=True.

    Raises:
      ValueError: shapes that do not fit, no image, scores or thresholds outside [0, 1].
    """
    score, correct, cost = checked(score, correct, cost)
    choice = choices(score, thresholds)
    answered = np.bincount(choice, minlength=len(cost))
    return OperatingPoint(
        thresholds=tuple(np.asarray(thresholds, np.float32).tolist()),
        accuracy=float(np.mean(correct[np.arange(len(choice)), choice])),
        average_cost=float(answered @ cost / len(choice)),
        exit_rate=tuple((answered / len(choice)).tolist()),
        feasible=True,
    )


def choices(score, thresholds):
    """int[m]: the choice that answers each image, from score[m, S] and thresholds[S - 1]."""
    return routers.policy(np.asarray(score, np.float32).T, thresholds)


def checked(score, correct, cost):
    """score float32[m, S], correct bool[m, S], cost float64[S]; ValueError for what does not fit."""
    score, correct = np.asarray(score, np.float32), np.asarray(correct, bool)
    cost = np.asarray(cost, np.float64)
    if score.ndim != 2 or correct.shape != score.shape or cost.shape != score.shape[1:] or not len(score):
        raise ValueError(
            f"score {score.shape}, correct {correct.shape}, cost {cost.shape}: "
            "give score[m, S], correct[m, S] and cost[S] with at least one image"
        )
    if not np.all((score >= 0) & (score <= 1)):
        raise ValueError(f"scores from {score.min()} to {score.max()}: confidence scores must lie in [0, 1]")
    return score, correct, cost


def _between(low, high):
    """Thresholds t with low <= t < high in float32, midway where float32 has room between them."""
    middle = ((low.astype(np.float64) + high) / 2).astype(np.float32)
    return np.where(middle < high, middle, low)
