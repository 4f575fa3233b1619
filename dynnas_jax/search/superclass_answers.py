"""What subnets answer on images as logits, and how right they are on a set of superclasses by its logits alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.data.splits import in_batches
from dynnas_jax.elastic import Supernet
from dynnas_jax.masking import mask_variables
from dynnas_jax.train.calibration import batches, recalibrate

BATCH = 256


class Logits:
    """logits(genome int32[genes]) -> float32[m, C] of every image of a split; one compiled program for all genomes.

    Each runs masked on the largest net, with its own statistics of the calibration images uint8[n, h, w, c]. The answers of a
    subnet are kept: a genome that is asked twice runs once.
    """

    def __init__(self, supernet: Supernet, variables: dict, calibration: np.ndarray, split: Any):
        net = supernet.masked_net()
        images, _ = in_batches(split, min(BATCH, len(split)))
        self._data = jax.tree.map(jnp.asarray, (variables, batches(calibration, min(128, len(calibration))), images))
        self._supernet, self._count, self._kept = supernet, len(split), {}

        @jax.jit
        def run(variables, calibration, images, genome):
            own = recalibrate(net, mask_variables(supernet, variables, genome), calibration)
            return jax.lax.map(lambda batch: net.apply(own, batch)[0], images)

        self._run = run

    def __call__(self, genome: np.ndarray) -> np.ndarray:
        key = tuple(np.asarray(self._supernet.space.canonical(genome)).tolist())
        if key not in self._kept:
            found = np.asarray(self._run(*self._data, jnp.asarray(key, jnp.int32)), np.float32)
            self._kept[key] = found.reshape(-1, found.shape[-1])[: self._count]
        return self._kept[key]


def right(logits: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """bool[n]: of the images whose label is among the classes int32[k], in order, whether the best of their logits is right.

    Args:
      logits: float32[m, C]; labels: int32[m].
    """
    mine = np.isin(labels, classes)
    return classes[logits[mine][:, classes].argmax(axis=1)] == labels[mine]


def predicted_superclass(logits: np.ndarray, of_class: np.ndarray) -> np.ndarray:
    """int32[m]: the superclass whose classes together have the highest probability, of logits float32[m, C]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    sums = np.stack([shifted[:, of_class == number].sum(axis=1) for number in range(of_class.max() + 1)], axis=1)
    return sums.argmax(axis=1).astype(np.int32)


def right_unknown(
    first: np.ndarray, specialised: list[np.ndarray], labels: np.ndarray, of_class: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether images of unknown superclass are answered rightly, and which superclass they are taken for: bool[m], int32[m].

    Args:
      first: logits float32[m, C] of the net that tells the superclass; specialised: those of each superclass's own net.
    """
    chosen = predicted_superclass(first, of_class)
    answers = np.zeros(len(labels), np.int32)
    for number, logits in enumerate(specialised):
        classes, mine = np.flatnonzero(of_class == number), chosen == number
        answers[mine] = classes[logits[mine][:, classes].argmax(axis=1)]
    return answers == labels, chosen
