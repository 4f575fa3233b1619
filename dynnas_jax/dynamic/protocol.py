"""What every dynamic network offers, and all that thresholds, evaluation and report see of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.confidence import DEFAULT_SCORE, SCORES
from dynnas_jax.data.splits import in_batches
from dynnas_jax.dynamic import routers
from dynnas_jax.networks import big_little


class Dynamic(NamedTuple):
    """A network with S choices of how much to spend on an image."""

    outputs: Callable[[dict, jax.Array], tuple[jax.Array, jax.Array]]  # -> logits[S, B, C], score[S, B] in [0, 1]
    cost: tuple[int, ...]  # [S], all MACs spent when choice s answers
    policy: Callable[[Any, Any], Any]  # (score[S, B], thresholds[S - 1]) -> choice int32[B]


class Outputs(NamedTuple):
    """What a dynamic network answers on a split, whichever choice is taken."""

    score: np.ndarray  # float32[m, S]
    prediction: np.ndarray  # int32[m, S]
    correct: np.ndarray  # bool[m, S]


def confident_pair(pair: big_little.Pair, *, score: str = DEFAULT_SCORE) -> Dynamic:
    """A big/little pair whose little net answers where its own confidence exceeds the threshold.

    Raises:
      ValueError: for an unknown score.
    """
    if score not in SCORES:
        raise ValueError(f"dynamic: score is {score!r}, choose from {list(SCORES)}")

    def outputs(variables, images):
        logits = big_little.outputs(pair, variables, images)
        return logits, SCORES[score](logits)

    return Dynamic(outputs, big_little.cost(pair).cumulative, routers.policy)


def answers(dynamic: Dynamic, variables: dict, split: Any, *, batch: int = 256) -> Outputs:
    """Every choice's answer on every image of a split, as one compiled program."""
    images, _ = in_batches(split, min(batch, len(split)))
    logits, score = jax.jit(functools.partial(_map, dynamic.outputs))(variables, images)
    prediction = np.asarray(logits.argmax(-1))[: len(split)].astype(np.int32)
    return Outputs(np.asarray(score)[: len(split)], prediction, prediction == split.labels[:, None])


def _map(outputs: Callable, variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(logits[m, S, C], score[m, S]) over images[k, b, ...]."""
    logits, score = jax.lax.map(functools.partial(outputs, variables), images)
    return (
        jnp.moveaxis(logits, 1, 2).reshape(-1, logits.shape[1], logits.shape[3]),
        jnp.moveaxis(score, 1, 2).reshape(-1, score.shape[1]),
    )
