"""Learning from another network's answers (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax


def soft_cross_entropy(student: jax.Array, teacher: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Mean of -T^2 sum_c softmax(teacher / T)_c log softmax(student / T)_c; no gradient reaches the teacher.

    Both are logits float[b, classes]. T^2 keeps the gradient's size as T changes.
    """
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher) / temperature)
    return optax.softmax_cross_entropy(student / temperature, targets).mean() * temperature**2


class Teacher(NamedTuple):
    """A net trained before, whose answers others learn."""

    answers: Callable[[Any, jax.Array], jax.Array]  # (variables, uint8 images) -> logits
    variables: Any
