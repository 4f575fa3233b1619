"""One net that always answers: what it says of a split, its first answer and its five likeliest."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.confidence import DEFAULT_SCORE, SCORES
from dynnas_jax.data.splits import AT_ONCE, in_batches, parts

TOP = 5


class Answers(NamedTuple):
    """What a net answers on m images."""

    score: np.ndarray  # float32[m], confidence in [0, 1]
    likeliest: np.ndarray  # int32[m, k], the k = min(TOP, classes) likeliest classes, the likeliest first
    label: np.ndarray  # int32[m]

    @property
    def correct(self) -> np.ndarray:
        """bool[m]: whether the likeliest class is the label."""
        return self.likeliest[:, 0] == self.label

    @property
    def among_likeliest(self) -> np.ndarray:
        """bool[m]: whether the label is one of the likeliest."""
        return (self.likeliest == self.label[:, None]).any(axis=1)


def answers(
    net: nn.Module, variables: dict, split: Any, *, score: str = DEFAULT_SCORE, batch: int = 256, at_once: int = AT_ONCE
) -> Answers:
    """A net's answers to every image of a split, as one compiled program (two where its last part is smaller)."""

    def one(variables, images):
        logits = net.apply(variables, images)[0]
        likeliest = jax.lax.top_k(logits, min(TOP, logits.shape[-1]))[1]
        return SCORES[score](logits).astype(jnp.float32), likeliest.astype(jnp.int32)

    run, found = jax.jit(lambda v, images: jax.lax.map(functools.partial(one, v), images)), []
    for part in parts(split, at_once):
        images, _ = in_batches(part, min(batch, len(split)))
        found.append([np.asarray(leaf).reshape(-1, *leaf.shape[2:])[: len(part)] for leaf in run(variables, images)])
    sure, likeliest = (np.concatenate(rows) for rows in zip(*found, strict=True))
    return Answers(sure, likeliest, np.asarray(split.labels))
