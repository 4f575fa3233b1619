"""Which choice answers, from the confidence scores of the choices."""

import jax
import numpy as np


def exits(score, threshold):
    """Whether an image stays with this choice's answer: where its score is strictly above the threshold; a NaN never is."""
    return score > threshold


def check(thresholds):
    """Raises ValueError for thresholds outside [0, 1], where they are concrete, not traced."""
    if not isinstance(thresholds, jax.core.Tracer):
        values = np.asarray(thresholds)
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError(f"thresholds {values.tolist()}: each must lie in [0, 1], as the scores do")


def policy(score, thresholds):
    """The first choice whose score is strictly above its threshold, else the last choice.

        choice_b = min({s < S - 1 : score[s, b] > thresholds[s]} or {S - 1})

    Args:
      score: floating [S, B] in [0, 1], NumPy or JAX; the last row is never looked at, and a NaN never exits.
      thresholds: [S - 1], sequence or array, rounded to the dtype of `score`. 1 lets nothing exit.

    Returns:
      int32[B], of the library of `score`.

    Raises:
      ValueError: shapes that do not fit, or (where concrete, not traced) thresholds outside [0, 1].
    """
    check(thresholds)
    xp = score.__array_namespace__()
    thresholds = xp.asarray(thresholds, dtype=score.dtype)
    if score.ndim != 2 or thresholds.shape != (score.shape[0] - 1,):
        raise ValueError(
            f"score of shape {tuple(score.shape)} with thresholds of shape {tuple(thresholds.shape)}: "
            "give score[S, B] and one threshold for each choice but the last"
        )
    last = xp.ones((1, score.shape[1]), dtype=bool)
    return xp.argmax(xp.concat([exits(score[:-1], thresholds[:, None]), last]), axis=0).astype(xp.int32)
