"""Losses for one batch; each returns the mean over its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

_LEFT_OUT = -1e9  # a logit whose exponential is zero beside any other
LEAST = 1e-6  # of a probability, and of what it lacks to 1, whose logarithm is taken


def cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: float = 0.0, kept: jax.Array | None = None
) -> jax.Array:
    """Mean cross-entropy of logits float[b, classes] against labels int[b], or against targets float[b, classes].

    With `smoothing` the targets t become (1 - smoothing) t + smoothing / classes (Szegedy et al. 2015, arXiv 1512.00567,
    section 7). With `kept` bool[b, classes] only those classes are there, the label's among them.
    """
    logits = among(logits, kept)
    whole = jnp.issubdtype(labels.dtype, jnp.integer)
    if whole and not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) if whole else labels
    if kept is None:
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing)).mean()
    even = kept.astype(logits.dtype) / kept.sum(axis=-1, keepdims=True).astype(logits.dtype)
    return optax.softmax_cross_entropy(logits, (1 - smoothing) * targets + smoothing * even).mean()


def among(logits: jax.Array, kept: jax.Array | None) -> jax.Array:
    """Logits whose softmax is that over the classes of `kept` (of the logits' shape) alone; themselves where it is None.

    What is left out becomes finite, so that a target of zero times its logarithm is zero.
    """
    return logits if kept is None else jnp.where(kept, logits, jnp.asarray(_LEFT_OUT, logits.dtype))


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
