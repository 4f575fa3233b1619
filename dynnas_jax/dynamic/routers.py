"""Which choice answers, from the scores of the choices; and the routers of a pair, which make little's score."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.confidence import DEFAULT_SCORE, SCORES
from dynnas_jax.costs import macs
from dynnas_jax.networks import coupled
from dynnas_jax.networks.blocks import global_average


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


ROUTERS = ("confidence", "learned", "difficulty")
PLACES = ("little", "stem")  # what a router looks at: what little's head reads, or what the stem leaves
UNITS = 16  # of the learned router
LEAST = 1e-6  # of a share whose logarithm is taken


class Router(NamedTuple):
    """Tells from what one of a pair's nets has made of an image whether little shall answer it; hashable.

    All routers have this signature: `score(params, features, logits)`, with params as `dynamic.fitting` makes them.
    """

    name: str = ROUTERS[0]
    place: str = PLACES[0]
    confidence: str = DEFAULT_SCORE  # of little's answer, that of the router "confidence"
    statistics: tuple[str, ...] = ()  # that the router "difficulty" weighs
    units: int = 0  # of the hidden layer of the router "learned"

    @property
    def label(self) -> str:
        """A name for tables."""
        if self.name == "confidence":
            return f"confidence ({self.confidence})"
        return f"{self.name} ({'stem' if self.place == 'stem' else 'after little'})"

    def inputs(self, features: jax.Array, logits: jax.Array) -> dict[str, jax.Array]:
        """What the router weighs, [b, d] each.

        Args:
          features: [b, h, w, c], the feature map at its place; logits: [b, classes] of little.
        """
        if self.name == "confidence":
            return {"logits": logits}
        names = ("mean",) if self.name == "learned" else self.statistics
        return {name: STATISTICS[name](features.astype(jnp.float32)) for name in names}

    def judge(self, params: dict | None, inputs: dict[str, jax.Array]) -> jax.Array:
        """[b] in [0, 1] from `inputs`: above the threshold little answers."""
        if self.name == "confidence":
            return SCORES[self.confidence](inputs["logits"])
        if self.name == "learned":
            return jax.nn.sigmoid(coupled.decide(params, inputs["mean"]))
        # Each kind of statistics has a product of its own: in int8 it then has a scale of its own.
        parts = [inputs[name] @ params["kernels"][name] for name in self.statistics]
        return jax.nn.sigmoid(functools.reduce(jnp.add, parts) + params["bias"][None])[:, 0]

    def score(self, params: dict | None, features: jax.Array, logits: jax.Array) -> jax.Array:
        """[b] in [0, 1]: above the threshold little answers."""
        return self.judge(params, self.inputs(features, logits))

    def to_json(self) -> dict:
        """What `from_json` makes it of."""
        return {**self._asdict(), "statistics": list(self.statistics)}

    @classmethod
    def from_json(cls, spec: dict) -> Router:
        """The router of an artifact."""
        return cls(**{**spec, "statistics": tuple(spec["statistics"])})

    def cost(self, params: dict | None, features: Any, logits: Any) -> RouterCost:
        """What it adds to a pair, by abstract evaluation on shapes of a batch of 1."""
        held = 0 if params is None else macs.params({"params": params})
        return RouterCost(macs.macs(self.score, params, features, logits), held)


class RouterCost(NamedTuple):
    """What a router adds to a pair."""

    macs: int  # for one image
    params: int


def mean(x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, c], over the pixels."""
    return global_average(x)[:, 0, 0]


def variance(x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, c], over the pixels."""
    return mean(jnp.square(x - global_average(x)))


def entropy(x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, 2]: how evenly the energy is spread over the channels, and over the pixels, in [0, 1].

    H / log n with H = -sum_i p_i log p_i, p_i the share of the sum of squares.
    """
    energy = jnp.square(x)
    shares = (mean(energy), energy.mean(axis=-1).reshape(len(x), -1))
    return jnp.stack([_entropy(part) for part in shares], axis=-1)


def _entropy(energy: jax.Array) -> jax.Array:
    share = energy / (energy.sum(axis=-1, keepdims=True) + LEAST)
    return -(share * jnp.log(share + LEAST)).sum(axis=-1) / math.log(max(2, energy.shape[-1]))


def norm(x: jax.Array) -> jax.Array:
    """[b, h, w, c] -> [b, 2]: the root mean square and the mean magnitude of the whole map."""
    return jnp.stack([jnp.sqrt(mean(jnp.square(x)).mean(axis=-1)), mean(jnp.abs(x)).mean(axis=-1)], axis=-1)


STATISTICS = {"mean": mean, "variance": variance, "entropy": entropy, "norm": norm}
