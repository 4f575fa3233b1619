"""Thresholds of two or three exits on a grid of the scores' quantiles, in JAX: close to the best, for many subnets at once.

`exit_thresholds.best` finds the best exactly, one subnet after the other; the gap between them is what a quantile is wide.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynnas_jax.dynamic import metric

QUANTILES = 64
SAMPLED = 2048  # images at least, evenly spaced, whose scores the quantiles are taken from: sorting all takes as long as the rest


class Found(NamedTuple):
    """The best point of the grid."""

    thresholds: jax.Array  # float32[S - 1]
    reward: jax.Array  # float32[]
    accuracy: jax.Array  # float32[]
    average_cost: jax.Array  # float32[]


def best(
    score: jax.Array,
    correct: jax.Array,
    cost: jax.Array,
    *,
    target: jax.Array | float,
    omega: float = metric.OMEGA,
    quantiles: int = QUANTILES,
) -> Found:
    """The thresholds with the largest reward, of the pairs of `quantiles` scores of each exit; traceable, vmap over subnets.

    The quantiles of the second exit are those of all images, whether they leave before or not.

    Args:
      score: float32[m, S] in [0, 1], the last column is not looked at; correct: bool[m, S]; cost: float32[S], all that is spent
        when exit s answers, ascending. S is 2 or 3.
      target, omega: of `metric.reward`.

    Raises:
      ValueError: for another number of exits.
    """
    images, exits = score.shape
    if exits not in (2, 3):
        raise ValueError(f"{exits} exits: the grid of quantiles is for 2 or 3, exit_thresholds.best for more")
    cost, right = cost.astype(jnp.float32), correct.astype(jnp.float32)
    sampled = score[:: max(1, images // SAMPLED), :-1]
    places = jnp.round(jnp.linspace(0, len(sampled) - 1, quantiles, dtype=jnp.float32)).astype(jnp.int32)
    tried = jnp.sort(sampled, axis=0)[places].T  # [S - 1, quantiles]
    tried = tried.at[:, 0].set(0).at[:, -1].set(1)
    # An image goes beyond exit s, if it comes so far, at the thresholds from this one on.
    beyond = [(score[:, s, None] > tried[s][None]).sum(axis=1, dtype=jnp.int32) for s in range(exits - 1)]
    # How many images go on, and what they gain by it, at each threshold or pair of them.
    told = jnp.concatenate([jnp.ones((images, 1), jnp.float32), right[:, 1:] - right[:, :-1]], axis=1)
    sums = _summed(told, beyond, quantiles + 1)
    first = sums.sum(axis=1) if exits == 3 else sums
    stays, more = jnp.cumsum(first, axis=0)[:quantiles, :2].T
    hits, spent = right[:, 0].sum() + more, images * cost[0] + stays * (cost[1] - cost[0])
    if exits == 3:
        both = jnp.cumsum(jnp.cumsum(sums, axis=0), axis=1)[:quantiles, :quantiles]
        hits, spent = hits[:, None] + both[..., 2], spent[:, None] + both[..., 0] * (cost[2] - cost[1])
    accuracy, average = hits / images, spent / images
    reward = metric.reward(accuracy, average, target, omega)
    at = jnp.unravel_index(reward.argmax(), reward.shape)
    chosen = jnp.stack([tried[s, index] for s, index in enumerate(at)])
    return Found(chosen, reward[at], accuracy[at], average[at])


def _summed(told: jax.Array, places: list[jax.Array], size: int) -> jax.Array:
    """float32[size, k] or [size, size, k]: the sum of told[m, k] of the images at each place, or pair of places."""
    flat = places[0] if len(places) == 1 else places[0] * size + places[1]
    shape = (size,) * len(places)
    return jax.ops.segment_sum(told, flat, math.prod(shape)).reshape(*shape, told.shape[1])
