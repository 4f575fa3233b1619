"""How good answers are, how far their probabilities can be trusted, and how well images are shared out between two nets.

NumPy only; m is the number of images. What a run writes of it, and where each definition comes from: `docs/metrics.md`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynnas_jax import decisions

TOP = 5  # likeliest classes among which an answer may stand
BINS = 15  # of a reliability diagram
THRESHOLDS = (0.5, 0.7, 0.9)  # that every pair is measured at, beside its own
DIFFICULTIES = ("easy", "medium", "hard")
CASES = ("kept_rightly", "kept_wrongly", "passed_rightly", "passed_wrongly")


class Reliability(NamedTuple):
    """Answers in bins of equal width of their probability; NaN where a bin is empty."""

    images: np.ndarray  # int64[bins]
    probability: np.ndarray  # float64[bins], the mean of the bin
    accuracy: np.ndarray  # float64[bins]

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]: sum_b images_b / m |accuracy_b - probability_b|."""
        apart = np.abs(np.nan_to_num(self.accuracy - self.probability))
        return float(self.images @ apart / self.images.sum())


def reliability(probability: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Answers by their probability, as Guo et al. (2017) bin them: bin b holds (b / bins, (b + 1) / bins], the first also 0.

    Args:
      probability: [m] in [0, 1], of the class that is answered; correct: bool[m].

    Raises:
      ValueError: for no image, shapes that do not fit, or what is no probability.
    """
    probability, correct = np.asarray(probability, np.float64), np.asarray(correct, bool)
    if probability.ndim != 1 or probability.shape != correct.shape or not len(correct):
        raise ValueError(
            f"probability {probability.shape}, correct {correct.shape}: give [m] both, of at least one image"
        )
    if not np.all((probability >= 0) & (probability <= 1)):
        raise ValueError(f"probabilities from {probability.min()} to {probability.max()}: they must lie in [0, 1]")
    place = np.digitize(probability, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return Reliability(np.bincount(place, minlength=bins), *(_means(place, bins, of) for of in (probability, correct)))


def measured(
    correct: np.ndarray, probability: np.ndarray, among_likeliest: np.ndarray, classes: int
) -> dict[str, float]:
    """What is told of answers: `accuracy`, `top5_accuracy`, `expected_calibration_error`.

    Of five classes or fewer every label is among the five likeliest: there is no `top5_accuracy` then.

    Args:
      correct, probability: as in `reliability`.
      among_likeliest: bool[m], whether the label is one of the `TOP` likeliest classes.
    """
    found = {"accuracy": float(np.mean(correct))}
    if classes > TOP:
        found["top5_accuracy"] = float(np.mean(among_likeliest))
    return found | {"expected_calibration_error": reliability(probability, correct).error}


def by_group(group: np.ndarray, groups: int, **values: np.ndarray) -> dict[str, list]:
    """{"images": how many images each group has, NAME: the mean of its values, None where it has no image}.

    Args:
      group: int[m] in [0, groups); values: [m] each, truth values or numbers.
    """
    found = {"images": np.bincount(group, minlength=groups).tolist()}
    return found | {name: listed(_means(group, groups, of)) for name, of in values.items()}


def _means(group: np.ndarray, groups: int, values: np.ndarray) -> np.ndarray:
    images = np.bincount(group, minlength=groups)
    sums = np.bincount(group, weights=np.asarray(values, np.float64), minlength=groups)
    return np.divide(sums, images, out=np.full(groups, np.nan), where=images > 0)


def listed(values: np.ndarray) -> list:
    """Numbers for JSON, which has no NaN: None in its place."""
    return [None if np.isnan(value) else value for value in np.asarray(values).tolist()]


def difficulty(log_odds: np.ndarray) -> np.ndarray:
    """int64[m], an index of `DIFFICULTIES`: thirds of the images, by how likely the big net holds their label.

    No router looks at what big answers, so none can have sorted images by it. The third of the images whose label big gives
    the most probability is easy, the third where it gives the least is hard: they are hard for the best that the pair has. The
    groups are of one size (within an image); they compare the images of one split with each other, not with other data's.

    Args:
      log_odds: [m], log(p / (1 - p)) of big's probability p for the label, which orders images as its cross-entropy does,
        and still tells them apart where float32 rounds p to 1. Equal ones go by their order.
    """
    rank = np.empty(len(log_odds), np.int64)
    rank[np.argsort(-np.asarray(log_odds), kind="stable")] = np.arange(len(log_odds))
    return rank * len(DIFFICULTIES) // len(log_odds)


class Routed(NamedTuple):
    """What a pair does under some routing."""

    accuracy: float
    average_cost: float  # per image, in the unit of the cost
    exit_rate: float  # share of the images that little answers


def oracle(correct: np.ndarray, cost: np.ndarray, optimal: str) -> Routed:
    """The pair under a router that knows the labels: little answers exactly where it should.

    No router can be more accurate, as some net is right on every image that this one gets right. With
    "little_right_or_both_wrong" it is also the cheapest routing of that accuracy; with "little_right" big is asked in vain
    where both are wrong.

    Args:
      correct: bool[m, 2], of little and big; cost: [2], all that is spent when each answers; optimal: of `decisions.OPTIMAL`.
    """
    choice = np.where(decisions.best(*correct.T, optimal), 0, 1)
    right = np.take_along_axis(correct, choice[:, None], axis=1)
    return Routed(float(right.mean()), float(np.asarray(cost, np.float64)[choice].mean()), float(np.mean(choice == 0)))


def cases(choice: np.ndarray, best: np.ndarray) -> np.ndarray:
    """int64[m], an index of `CASES`: whether little answered (kept) or big did (passed), and whether that was best.

    Args:
      choice: int[m], 0 where little answered; best: bool[m], where it should have, as `decisions.best` has it.
    """
    passed = np.asarray(choice) != 0
    return 2 * passed + (passed == np.asarray(best))
