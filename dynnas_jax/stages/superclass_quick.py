"""Quick evaluation: which of a generator's samples is the most accurate on held-out images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dynnas_jax.job import Job, supernet_variables
from dynnas_jax.search import generator, superclass_answers


def chooser(job: Job, calibration_images: int) -> Callable[[np.ndarray, generator.Answered], np.ndarray]:
    """(members bool[M, T], answers of samples) -> int32[M, genes]: the most accurate sample within each scenario's budget.

    Accuracies are on the held-out images of the scenario's superclasses, by the logits of these alone. What the generator
    chose is among them; of equals it is taken, else the likeliest.

    Args:
      calibration_images: for the statistics of the subnets.
    """
    holdout, groups = job.images.holdout, job.superclasses
    labels = np.asarray(holdout.labels)
    logits = superclass_answers.Logits(
        job.supernet, supernet_variables(job), job.calibration(calibration_images), holdout
    )

    def best(members: np.ndarray, genomes: np.ndarray) -> np.ndarray:
        classes = groups.classes(members)
        accuracy = [superclass_answers.right(logits(genome), labels, classes).mean() for genome in genomes]
        return genomes[np.argmax(accuracy)]

    def chosen(members: np.ndarray, found: generator.Answered) -> np.ndarray:
        taken = np.array(found.chosen)
        for row in np.flatnonzero(~found.repaired):
            order = np.argsort(-np.where(found.feasible[row], found.log_likelihood[row], -np.inf), kind="stable")
            samples = found.genome[row][order[: found.feasible[row].sum()]]
            taken[row] = best(members[row], np.concatenate([found.chosen[row : row + 1], samples]))
        return taken

    return chosen
