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
    places = jnp.round(jnp.linspace(0, images - 1, quantiles, dtype=jnp.float32)).astype(jnp.int32)
    tried = jnp.sort(score[:, :-1], axis=0)[places].T  # [S - 1, quantiles]
    tried = tried.at[:, 0].set(0).at[:, -1].set(1)
    # An image goes beyond exit s, if it comes so far, at the thresholds from this one on.
    beyond = [(score[:, s, None] > tried[s][None]).sum(axis=1, dtype=jnp.int32) for s in range(exits - 1)]
    gained = right[:, 1:] - right[:, :-1]
    sizes = (quantiles + 1,)
    stays, hits = (_below(weights, beyond[:1], sizes) for weights in (jnp.ones(images, jnp.float32), gained[:, 0]))
    hits, spent = right[:, 0].sum() + hits, images * cost[0] + stays * (cost[1] - cost[0])
    if exits == 3:
        last, more = (_below(weights, beyond, sizes * 2) for weights in (jnp.ones(images, jnp.float32), gained[:, 1]))
        hits, spent = hits[:, None] + more, spent[:, None] + last * (cost[2] - cost[1])
    accuracy, average = hits / images, spent / images
    reward = metric.reward(accuracy, average, target, omega)
    at = jnp.unravel_index(reward.argmax(), reward.shape)
    chosen = jnp.stack([tried[s, index] for s, index in enumerate(at)])
    return Found(chosen, reward[at], accuracy[at], average[at])


def _below(weights: jax.Array, places: list[jax.Array], sizes: tuple[int, ...]) -> jax.Array:
    """float32[quantiles, ...]: at each threshold, or pair of them, the sum of the weights[m] of the images that do not exit."""
    flat = places[0] if len(places) == 1 else places[0] * sizes[1] + places[1]
    sums = jax.ops.segment_sum(weights, flat, math.prod(sizes)).reshape(sizes)
    for axis in range(len(sizes)):
        sums = jnp.cumsum(sums, axis=axis)
    return sums[tuple(slice(size - 1) for size in sizes)]
