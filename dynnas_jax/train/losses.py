"""Losses for one batch; each returns the mean over its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

LEAST = 1e-6  # of a probability, and of what it lacks to 1, whose logarithm is taken


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy of logits float[b, classes] against labels int[b], or against targets float[b, classes].

    With `smoothing` the targets t become (1 - smoothing) t + smoothing / classes (Szegedy et al. 2015, arXiv 1512.00567,
    section 7).
    """
    whole = jnp.issubdtype(labels.dtype, jnp.integer)
    if whole and not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) if whole else labels
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing)).mean()


def of_exits(loss: Callable[[jax.Array], jax.Array], answers: Sequence[jax.Array]) -> jax.Array:
    """The sum over a net's exits of loss(logits), each exit weighing the same (ENAS4D, arXiv 2009.09182; MSDNet, 1703.09844)."""
    total = loss(answers[0])
    for logits in answers[1:]:
        total = total + loss(logits)
    return total


def log_odds(probability: jax.Array) -> jax.Array:
    """log(p / (1 - p)) of probabilities in [0, 1]; kept finite, those outside [`LEAST`, 1 - `LEAST`] as if they stood there."""
    inside = jnp.clip(probability, LEAST, 1 - LEAST)
    return jnp.log(inside) - jnp.log1p(-inside)
