"""What a dynamic network is worth: its average accuracy against its average cost (ENAS4D, arXiv 2009.09182, "Evaluation metric").

NumPy or JAX arrays alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

OMEGA = 0.09  # how much the cost weighs; the paper's


class Averages(NamedTuple):
    """What a network does on average over some images."""

    accuracy: Any  # in [0, 1]
    cost: Any  # per image


def averages(exit_rate: Any, accuracy: Any, cost: Any) -> Averages:
    """ACC_avg = sum_s ACC_s N_s / |D| and COST_avg = sum_s COST_s N_s / |D|.

    Args:
      exit_rate: [..., S], N_s / |D|, the part of the images that each exit answers.
      accuracy: [..., S] in [0, 1], ACC_s, of each exit on the images that it answers.
      cost: [S] or [..., S], COST_s, all that is spent when exit s answers.
    """
    return Averages((exit_rate * accuracy).sum(axis=-1), (exit_rate * cost).sum(axis=-1))


def reward(accuracy: Any, average_cost: Any, target: float, omega: float = OMEGA) -> Any:
    """R = ACC_avg min(COST_target / COST_avg, 1)^omega.

    Args:
      accuracy: in [0, 1]; average_cost, target: above 0, in one unit.
      omega: at least 0; 0 leaves the cost out.
    """
    ratio = target / average_cost
    library = jnp if isinstance(ratio, jax.Array) else np
    return accuracy * library.minimum(ratio, 1) ** omega
