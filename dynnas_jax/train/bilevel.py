"""What gradient-based search learns of a supernet: relaxed pairs, by weights that learn beside the architecture.

The weights learn on training images: the cross-entropies of both nets. The architecture is told its loss on held-out images:
each image's cross-entropies, weighed by how likely little's confidence is to send it on to big. All nets run relaxed masks on
the largest net, with the statistics of their batch, as in training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynnas_jax import relaxed
from dynnas_jax.confidence import DEFAULT_SCORE, SCORES
from dynnas_jax.elastic import Supernet
from dynnas_jax.relaxed import Fitness
from dynnas_jax.train import losses

BATCH_SIZE = 128


class Problem(NamedTuple):
    """What a search of pairs is about, as `search.differentiable.run` takes it."""

    fitness: Fitness  # minus the loss of the dynamic pair; beside it, the share of the images that go on to big
    cost: Callable[[jax.Array, jax.Array], jax.Array]  # (relaxed pair, that share) -> average cost of an image


class _Tables(NamedTuple):
    """Costs of one net of the pair, and of the blocks that both share."""

    net: Any
    stem: Any

    def of(self, genome: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(cost of little, cost of going on to big), expected of a relaxed pair."""
        little, big = relaxed.halves(genome)
        stem = relaxed.expected_cost(self.stem, big)
        return relaxed.expected_cost(self.net, little), relaxed.expected_cost(self.net, big) - stem


class _Routing(NamedTuple):
    tables: _Tables
    budget: float
    score: str
    threshold: float | None
    softness: float


def problem(
    supernet: Supernet,
    variables: dict,
    train: Any,
    holdout: Any,
    *,
    table: Any,
    stem: Any,
    budget: float,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int = BATCH_SIZE,
    augment: Callable | None = None,
    score: str = DEFAULT_SCORE,
    threshold: float | None = None,
    softness: float = 1.0,
) -> Problem:
    """The search of pairs of a supernet's subnets, from its trained variables on.

    An image goes on to big with the chance sigmoid((t - o) / softness), o the log-odds of little's score. Without a
    `threshold` t is, in every batch, such that the images that go on are as many as the budget affords beside little; the
    pair then spends the budget, or little's cost where that is more, or little's and big's where they are less.

    Args:
      train, holdout: splits in memory: uint8 images of the resolution that is searched, and labels.
      table, stem: `costs.macs.CostTable`s of the whole net and of the blocks that little and big share (`table.only(names)`).
      budget: the largest average cost of an image, in the unit of the table.
      optimizer: of the weights; None: they stay as they are, and no training image is read.
      augment: (key, uint8 images) -> uint8 images, of the training images.
      score: of `confidence.SCORES`.
      threshold: of the score; an image goes on to big half the time there.

    Raises:
      ValueError: for an unknown score, a number out of range, or a split with fewer images than a batch.
    """
    _check(train, holdout, budget, optimizer, batch_size, score, threshold, softness)
    tables = _Tables(table, stem)
    routing = _Routing(tables, float(budget), score, threshold, softness)
    logits_of = functools.partial(_logits, supernet)
    given = {"batch_stats": variables["batch_stats"], "holdout": _arrays(holdout)}
    start = {"params": variables["params"]}

    def value(given, state, genome, key):
        images, labels = _batch(key, given["holdout"], batch_size)
        little, big = logits_of(given["batch_stats"], state["params"], genome, images)
        loss, share = dynamic_loss(routing, genome, little, big, labels)
        return -loss, share

    def learn(given, state, genome, key):
        pick_key, augment_key = jax.random.split(key)
        images, labels = _batch(pick_key, given["train"], batch_size)
        if augment is not None:
            images = augment(augment_key, images)

        def loss(params):
            answers = logits_of(given["batch_stats"], params, genome, images)
            return sum(losses.cross_entropy(logits, labels) for logits in answers)

        gradient = jax.grad(loss)(state["params"])
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix integers and floats
            moves, moved = optimizer.update(gradient, state["optimizer"], state["params"])
        return {"params": optax.apply_updates(state["params"], moves), "optimizer": moved}

    cost, learning = functools.partial(_average_cost, routing), optimizer is not None
    if learning:
        given["train"] = _arrays(train)
        start["optimizer"] = optimizer.init(variables["params"])
    each = images_each(batch_size, learning)
    return Problem(Fitness(value, learn if learning else None, given, start, each), cost)


def images_each(batch_size: int, learning: bool = True) -> tuple[int, int]:
    """Images that little and big together are forwarded, by one value and by one update of the weights, if they learn."""
    return 2 * batch_size, 2 * batch_size if learning else 0


def _logits(
    supernet: Supernet, batch_stats: dict, params: dict, genome: jax.Array, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Little's and big's logits[b, classes] by the statistics of the batch."""
    variables = {"params": params, "batch_stats": batch_stats}
    as_little = supernet.coupling.as_little(variables) if supernet.coupling else variables
    net, found = supernet.largest_net(), []
    for own, half in zip((as_little, variables), relaxed.halves(genome), strict=True):
        masked = relaxed.mask_variables(supernet, own, half)
        (logits, _), _ = net.apply(masked, images, True, mutable=["batch_stats"])
        found.append(logits)
    return tuple(found)


def dynamic_loss(
    routing: _Routing, genome: jax.Array, little: jax.Array, big: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(mean cross-entropy of the answers of a softly routed pair, share of the images that go on to big).

    Args:
      little, big: logits[b, classes]; labels: int32[b].
    """
    wrong = [optax.softmax_cross_entropy_with_integer_labels(logits, labels) for logits in (little, big)]
    odds = losses.log_odds(SCORES[routing.score](little))
    if routing.threshold is None:
        bound = _bound(odds, _afforded(routing, genome).astype(odds.dtype), routing.softness)
    else:
        bound = losses.log_odds(jnp.asarray(routing.threshold, odds.dtype))
    onward = jax.nn.sigmoid((bound - odds) / routing.softness)
    return ((1 - onward) * wrong[0] + onward * wrong[1]).mean(), onward.mean()


def _afforded(routing: _Routing, genome: jax.Array) -> jax.Array:
    """The share of the images that may go on to big within the budget."""
    little, onward = routing.tables.of(genome)
    return jnp.clip((routing.budget - little) / jnp.maximum(onward, losses.LEAST * routing.budget), 0, 1)


def _bound(odds: jax.Array, share: jax.Array, softness: float) -> jax.Array:
    """The t at which the mean of sigmoid((t - odds) / softness) is the share; differentiable in odds[b] and the share.

    A share of less than half an image, or all but that, counts as half an image.
    """
    half = 0.5 / len(odds)
    share = jnp.clip(share, half, 1 - half)
    sent = lambda bound, odds: jax.nn.sigmoid((bound - odds) / softness).mean()  # noqa: E731
    fixed, wanted = jax.lax.stop_gradient((odds, share))
    reach = softness * math.log(1 / half)

    def bisect(_, ends):
        middle = ends.mean()
        few = sent(middle, fixed) < wanted
        return jnp.where(few, jnp.stack([middle, ends[1]]), jnp.stack([ends[0], middle]))

    ends = jnp.stack([fixed.min() - reach, fixed.max() + reach])
    root = jax.lax.fori_loop(0, 40, bisect, ends).mean()
    # One step of Newton's, whose value is next to nothing, has the derivative of the implicit function.
    slope = jax.lax.stop_gradient(jax.grad(sent)(root, fixed))
    return root - (sent(root, odds) - share) / jnp.maximum(slope, jnp.finfo(slope.dtype).tiny)


def _average_cost(routing: _Routing, genome: jax.Array, share: jax.Array) -> jax.Array:
    """Average cost of an image: at a threshold by the share that goes on to big, else what is spent of the budget."""
    little, onward = routing.tables.of(genome)
    if routing.threshold is None:
        return jnp.clip(jnp.asarray(routing.budget, little.dtype), little, little + onward)
    return little + share.astype(little.dtype) * onward


def _batch(key: jax.Array, split: tuple[jax.Array, jax.Array], size: int) -> tuple[jax.Array, jax.Array]:
    """Images and labels of a batch drawn from a split, no image twice."""
    picked = jax.random.permutation(key, len(split[1]))[:size]
    return tuple(array[picked] for array in split)


def _arrays(split: Any) -> tuple[jax.Array, jax.Array]:
    """Images uint8[n, h, w, c] and labels int32[n] on the device."""
    return jnp.asarray(split.images), jnp.asarray(np.asarray(split.labels, np.int32))


def _check(train, holdout, budget, optimizer, batch_size, score, threshold, softness) -> None:
    if score not in SCORES:
        raise ValueError(f"score is {score!r}, choose from {list(SCORES)}")
    for name, value in (("budget", budget), ("softness", softness), ("batch_size", batch_size)):
        if not value > 0:
            raise ValueError(f"bilevel: {name} is {value}, must be above 0")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"bilevel: threshold is {threshold}, must be a number from 0 to 1, as the scores are")
    for name, split in (("held-out", holdout), *([("training", train)] if optimizer is not None else [])):
        if len(split.labels) < batch_size:
            raise ValueError(f"bilevel: {len(split.labels)} {name} images do not fill one batch of {batch_size}")
