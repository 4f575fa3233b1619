"""Losses for one batch; each returns the mean over its images."""

from __future__ import annotations

import jax
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of logits float[b, classes] against labels int[b]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
