"""How sure a classifier is, as one number in [0, 1] from its logits.

Works on NumPy (2 or newer) and JAX arrays alike through the array's own namespace and imports neither JAX nor the rest
of the package: an export folder carries this file to a device that has NumPy only.
"""

import math


def max_softmax(logits):
    """Probability of the likeliest class, max_c softmax(logits)_c.

    Args:
      logits: floating [..., C] with C >= 2, NumPy or JAX; finite, or -inf for an excluded class.

    Returns:
      [...] in [1/C, 1], of the same library and dtype.
    """
    shifted, xp = _shifted(logits)
    return 1.0 / xp.sum(xp.exp(shifted), axis=-1)


def margin(logits):
    """Probability of the likeliest class minus that of the second likeliest.

    Args and dtype as in `max_softmax`; returns [...] in [0, 1], exactly 0 where two classes tie for the first place.
    """
    shifted, xp = _shifted(logits)
    classes = shifted.shape[-1]
    position = xp.arange(classes).reshape((1,) * (shifted.ndim - 1) + (classes,))
    others = xp.where(position == xp.argmax(shifted, axis=-1)[..., None], -xp.inf, shifted)
    # (1 - exp(second - first)) / sum: expm1 keeps small margins that a difference of two probabilities would lose.
    return (0.0 - xp.expm1(xp.max(others, axis=-1))) / xp.sum(xp.exp(shifted), axis=-1)


def entropy(logits):
    """One minus the normalised entropy, 1 - H / log C with H = -sum_c p_c log p_c.

    Args and dtype as in `max_softmax`; returns [...] in [0, 1], 0 for uniform logits, 1 for a certain class.
    """
    shifted, xp = _shifted(logits)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=-1)
    # H = log(sum e^x) - sum x e^x / sum e^x; the floor makes the term of an excluded class 0 * finite, not 0 * -inf.
    floor = float(xp.finfo(shifted.dtype).min)
    weighted = xp.sum(exponentials * xp.maximum(shifted, floor), axis=-1)
    uncertainty = xp.log(total) - weighted / total
    return xp.clip(1.0 - uncertainty / math.log(shifted.shape[-1]), 0.0, 1.0)


def _shifted(logits):
    """Logits minus their largest (so that no exponential overflows) and the namespace they belong to."""
    if logits.ndim == 0 or logits.shape[-1] < 2:
        raise ValueError(f"logits of shape {tuple(logits.shape)}: a confidence needs [..., C] with at least 2 classes")
    xp = logits.__array_namespace__()
    return logits - xp.max(logits, axis=-1, keepdims=True), xp


SCORES = {"max_softmax": max_softmax, "margin": margin, "entropy": entropy}
DEFAULT_SCORE = "max_softmax"
