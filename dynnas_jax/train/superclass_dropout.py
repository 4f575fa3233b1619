"""Superclass dropout: of each image some logits of foreign superclasses are left out of the loss.

EAS (arXiv 2108.01224), equations 1 and 2: the logits of every superclass but the image's own are dropped, all together, with
probability q; the softmax runs over what remains. With q = 0 it is ordinary training, with q = 1 each superclass learns alone.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Dropout(NamedTuple):
    """Which logits are left out; hashable."""

    of_class: tuple[int, ...]  # [C], the superclass of every class
    rate: float

    def __call__(self, key: jax.Array, labels: jax.Array) -> jax.Array:
        """bool[b, C]: the logits that remain of images with labels int32[b], or with targets float32[b, C].

        Of mixed images the superclasses of all classes with a share in the target are their own.
        """
        owner = jnp.asarray(self.of_class, jnp.int32)
        count = max(self.of_class) + 1
        superclasses = jnp.arange(count, dtype=jnp.int32)
        if jnp.issubdtype(labels.dtype, jnp.integer):
            own = owner[labels][:, None] == superclasses[None]
        else:
            own = (labels @ (owner[:, None] == superclasses[None]).astype(labels.dtype)) > 0
        remain = own | ~jax.random.bernoulli(key, self.rate, own.shape)
        return remain[:, owner]


def rule(of_class: np.ndarray, rate: float) -> Dropout:
    """Superclass dropout at a rate.

    Args:
      of_class: int32[C], the superclass of every class, from 0 on.

    Raises:
      ValueError: for a rate outside [0, 1].
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise ValueError(f"train.superclass_dropout is {rate!r}, must be a number from 0 to 1")
    return Dropout(tuple(np.asarray(of_class).tolist()), float(rate))
