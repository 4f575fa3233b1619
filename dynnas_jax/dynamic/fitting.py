"""Fitting a router to nets as they are, on images that they were not trained on, and how well it tells images apart.

A net is nearly always right on its own training images, so what a router learns there does not hold elsewhere. Held-out images
are few, hence cross-fitting: each is scored by a router that was fitted without it, and the threshold is chosen on these scores.
The router that is kept is fitted on all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynnas_jax.networks import coupled

STEPS, LEARNING_RATE = 400, 0.02  # of Adam on all images at once, for a router with a hidden layer
MOST_NEWTON_STEPS, ENOUGH = 50, 1e-9  # of a logistic regression; what the last step changes of the loss, relatively


class Fitted(NamedTuple):
    """A router's params, and what routers that had not seen an image say of it."""

    params: dict  # fitted on all images; a layer's kernels [d, .] by kind of input
    score: np.ndarray  # float32[m] in [0, 1], cross-fitted


def fit(
    inputs: dict[str, np.ndarray],
    best: np.ndarray,
    *,
    units: int = 0,
    l2: float = 1.0,
    folds: int = 5,
    balanced: bool = True,
    seed: int = 0,
) -> Fitted:
    """Learns from what a router weighs whether little should answer, by binary cross-entropy.

    The inputs are standardised with the moments of the images that are learned from; the params are for the inputs as they are.

    Args:
      inputs: float[m, d] by kind.
      best: bool[m], the best decisions.
      units: of a hidden layer with ReLU; 0: a logistic regression.
      l2: half of it times the sum of the squared weights (not the biases) is added to the sum of the losses.
      folds: into so many parts the images are cut, each class in its share.
      balanced: both decisions weigh the same in sum, whatever the share of images that little gets right. The scores then spread
        around 0.5, and an int8 output, 256 steps from 0 to 1, is finest where thresholds lie.

    Raises:
      ValueError: for fewer images than folds.
    """
    best = np.asarray(best, bool)
    if len(best) < folds:
        raise ValueError(f"a router is fitted on {len(best)} images in {folds} folds: give dynamic.router_folds fewer")
    fold = folds_of(best, folds, seed)
    x = np.concatenate([np.asarray(part, np.float64) for part in inputs.values()], axis=1)
    seen = np.concatenate([fold[None] != np.arange(folds)[:, None], np.ones((1, len(best)), bool)])
    parts = [_part(x, best, mask, balanced) for mask in seen]
    learned = _learned(parts, units, l2, seed) if units else [_regression(part, l2) for part in parts]
    fits = [_for_inputs_as_they_are(layers, part) for layers, part in zip(learned, parts, strict=True)]
    score = np.empty(len(best), np.float32)
    for own, layers in enumerate(fits[:-1]):
        score[fold == own] = jax.nn.sigmoid(_logits(layers, x[fold == own].astype(np.float32)))
    layers = fits[-1]
    if units:
        return Fitted(layers, score)
    ends = np.cumsum([part.shape[1] for part in inputs.values()])[:-1]
    kernels = dict(zip(inputs, np.split(layers["out"]["kernel"], ends), strict=True))
    return Fitted({"kernels": kernels, "bias": layers["out"]["bias"]}, score)


def folds_of(best: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """int[m] in [0, folds): where each image belongs, both classes of bool[m] dealt out evenly."""
    generator = np.random.default_rng([seed, folds])
    order = np.concatenate([generator.permutation(np.flatnonzero(best == which)) for which in (False, True)])
    fold = np.empty(len(best), int)
    fold[order] = np.arange(len(best)) % folds
    return fold


class _Part(NamedTuple):
    """The images that one fit learns from: the others weigh nothing."""

    z: np.ndarray  # float64[m, d], the inputs standardised
    y: np.ndarray  # float64[m], 1 where little should answer
    weight: np.ndarray  # float64[m]
    mean: np.ndarray  # float64[d]
    deviation: np.ndarray  # float64[d]


def _part(x: np.ndarray, best: np.ndarray, mask: np.ndarray, balanced: bool) -> _Part:
    mean, deviation = x[mask].mean(axis=0), x[mask].std(axis=0)
    deviation = np.where(deviation > 1e-6 * (1e-6 + np.abs(mean)), deviation, 1.0)  # what never changes tells nothing
    weight = mask.astype(np.float64)
    if balanced:
        for which in (False, True):
            weight[best == which] *= mask.sum() / (2 * max(1, (mask & (best == which)).sum()))
    return _Part((x - mean) / deviation, best.astype(np.float64), weight, mean, deviation)


def _regression(part: _Part, l2: float) -> dict:
    """The one optimum of a logistic regression, by Newton steps that are halved until the loss falls."""
    z = np.concatenate([part.z, np.ones((len(part.z), 1))], axis=1)
    penalty = np.append(np.full(part.z.shape[1], l2), 1e-6)  # on the bias just enough for images of one class alone

    def loss(w):
        return part.weight @ (np.logaddexp(0, z @ w) - part.y * (z @ w)) + penalty @ np.square(w) / 2

    w = np.zeros(z.shape[1])
    value = loss(w)
    for _ in range(MOST_NEWTON_STEPS):
        share = 1 / (1 + np.exp(-z @ w))
        slope = z.T @ (part.weight * (share - part.y)) + penalty * w
        curvature = (z * (part.weight * share * (1 - share))[:, None]).T @ z + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        while (lower := loss(w - step)) > value and np.abs(step).max() > 1e-12:
            step /= 2
        w, gained, value = w - step, value - lower, lower
        if gained <= ENOUGH * value:
            break
    return {"out": {"kernel": w[:-1, None], "bias": w[-1:]}}


def _learned(parts: list[_Part], units: int, l2: float, seed: int) -> list[dict]:
    """The layers of a router with a hidden layer, for each part, by Adam on all its images at once."""
    z, y, weight = (
        np.stack([getattr(part, name) for part in parts]).astype(np.float32) for name in ("z", "y", "weight")
    )
    # Optax raises a float to the power of a count.
    with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
        found = _descended(z, y, weight, _started(jax.random.key(seed), z.shape[-1], units), np.float32(l2))
    found = jax.tree.map(np.asarray, found)
    return [jax.tree.map(lambda leaf, place=place: leaf[place], found) for place in range(len(parts))]


def _started(key: jax.Array, width: int, units: int) -> dict:
    inner, outer = jax.random.split(key)
    layers = {}
    for name, of, shape in (("hidden", inner, (width, units)), ("out", outer, (units, 1))):
        scale = jnp.float32(shape[0] ** -0.5)
        layers[name] = {"kernel": scale * jax.random.normal(of, shape), "bias": jnp.zeros(shape[1], jnp.float32)}
    return layers


@jax.jit
def _descended(z, y, weight, start, l2) -> dict:
    """The layers after `STEPS`, as one scan, of every part: z[k, m, d], y and weight [k, m]."""
    method = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))

    def one(z, y, weight):
        def loss(layers):
            each = optax.sigmoid_binary_cross_entropy(_logits(layers, z), y)
            squares = sum(jnp.square(layer["kernel"]).sum() for layer in layers.values())
            return ((weight * each).sum() + l2 / 2 * squares) / weight.sum()

        def step(carry, _):
            layers, state = carry
            updates, state = method.update(jax.grad(loss)(layers), state, layers)
            return (optax.apply_updates(layers, updates), state), None

        return jax.lax.scan(step, (start, method.init(start)), length=STEPS)[0][0]

    return jax.vmap(one)(z, y, weight)


def _for_inputs_as_they_are(layers: dict, part: _Part) -> dict:
    """The layers of standardised inputs as those of the inputs themselves, float32."""
    first = next(iter(layers))
    kernel = layers[first]["kernel"] / part.deviation[:, None]
    layers = {**layers, first: {"kernel": kernel, "bias": layers[first]["bias"] - part.mean @ kernel}}
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), layers)


def _logits(layers: dict, x: jax.Array) -> jax.Array:
    if "hidden" in layers:
        return coupled.decide(layers, x)
    return (x @ layers["out"]["kernel"] + layers["out"]["bias"][None])[:, 0]


def rescaled(router: dict, logits: np.ndarray, best: np.ndarray, **options) -> Fitted:
    """A router that was trained with its nets, its last layer scaled and shifted to fit images that these have not seen.

    Its order of the images stays as it is. One that is no better than the opposite order says 0.5 of every image.

    Args:
      router: {"hidden", "out"}; logits: float[m], what it says of the images; best, options: as in `fit`.
    """
    fitted = fit({"logit": logits[:, None]}, best, **options)
    slope, shift = fitted.params["kernels"]["logit"][0], fitted.params["bias"]
    if slope <= 0:
        slope, shift = np.float32(0), np.zeros_like(shift)
        fitted = fitted._replace(score=np.full_like(fitted.score, 0.5))
    out = {
        "kernel": np.asarray(router["out"]["kernel"]) * slope,
        "bias": np.asarray(router["out"]["bias"]) * slope + shift,
    }
    hidden = {name: np.asarray(leaf) for name, leaf in router["hidden"].items()}
    return Fitted({"hidden": hidden, "out": out}, fitted.score)


def auroc(score: np.ndarray, best: np.ndarray) -> float | None:
    """How likely an image that little should answer scores above one that it should not (ties count half); None without both."""
    best = np.asarray(best, bool)
    right, wrong = int(best.sum()), int((~best).sum())
    if not right or not wrong:
        return None
    _, place, ties = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(ties) - (ties - 1) / 2  # from 1, equal scores sharing the mean of theirs
    return float((rank[place][best].sum() - right * (right + 1) / 2) / (right * wrong))
