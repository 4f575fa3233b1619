"""One net that always answers, as a dynamic network of one choice."""

from __future__ import annotations

import flax.linen as nn
import jax

from dynnas_jax.confidence import DEFAULT_SCORE, SCORES


def outputs(net: nn.Module, variables: dict, images: jax.Array, *, score: str = DEFAULT_SCORE) -> tuple:
    """What the only choice answers, as `protocol.Dynamic.outputs` gives it: logits[1, B, C], score[1, B].

    Args:
      score: of `confidence.SCORES`, the confidence that an answer is given.
    """
    logits = net.apply(variables, images)[0]
    return logits[None], SCORES[score](logits)[None]
