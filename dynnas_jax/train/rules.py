"""What a rule of training offers the loop: an objective, which makes a gradient of a batch, and what of it is drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.elastic import Supernet
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.train.progressive_shrinking import Allowed


class Given(NamedTuple):
    """What a step has beside its batch."""

    variables: dict
    ema: Any = None  # averaged params, for the teacher "ema"
    teacher: Any = None  # variables of a net trained before, for the teacher "trained"
    allowed: Allowed | None = None  # what the phase of progressive shrinking leaves free; None: everything
    progress: jax.Array | None = None  # float32[], the share of the steps that is done; None: not known


class Update(NamedTuple):
    """What a rule makes of one batch."""

    gradient: Any  # of the params
    batch_stats: dict  # the largest net's running statistics after the batch
    metrics: dict[str, jax.Array]  # float32 scalars; "loss" is one of them


# objective(given, images, labels, key, targets=None, pool=None, kept=None) -> Update, for the part of the batch on one device of
# `axis_name`; the same on all devices of `subnet_axis`. `pool` is static: the genomes of `Rule.pool`, absent without one.
# Targets float32[b, classes], where given, are learned in place of the labels int32[b], which then only measure accuracy.
# `kept` bool[b, classes], where given, are the logits that an image's loss knows; only the sandwich rule takes it.
Objective = Callable[..., Update]


class Rule:
    """A rule that draws nothing at random. Others extend it with how they make an objective, and with what they draw."""

    pool_refresh: int = 0  # steps after which there is another pool; 0 without one

    def __call__(
        self,
        supernet: Supernet,
        axis_name: str | None = None,
        answers: Callable | None = None,
        subnet_axis: str | None = None,
    ) -> Objective:
        """The objective of a supernet; `answers(variables, images)` gives the logits of a trained teacher.

        Raises:
          ValueError: for a teacher or an axis that the rule has no use for.
        """
        raise NotImplementedError

    def pool(self, space: SearchSpace, step: int, seed: int, least: np.ndarray | None = None) -> tuple | None:
        """The genomes that random subnets of a step are drawn from, on the host; None where they are drawn from all."""
        return None

    def drawn(self, space: SearchSpace, key: jax.Array, least: np.ndarray | None, pool: tuple | None) -> list | None:
        """What an objective draws with this key, JSON-able; None where it draws nothing."""
        return None


@dataclass(frozen=True)
class _OfFunction(Rule):
    """A function with the call of a rule."""

    function: Callable

    def __call__(self, *arguments: Any, **more: Any) -> Objective:
        return self.function(*arguments, **more)


def of(rule: Rule | Callable) -> Rule:
    """The rule itself; a mere function that makes an objective, as a rule that draws nothing."""
    return rule if isinstance(rule, Rule) else _OfFunction(rule)


class Sum(NamedTuple):
    """What the subnets of a step come to, before their mean is taken."""

    loss: jax.Array  # float32[]
    gradient: Any

    def plus(self, weight: jax.Array, loss: jax.Array, gradient: Any) -> Sum:
        """With another subnet's part."""
        added = jax.tree.map(lambda a, b: a + weight * b, self.gradient, gradient)
        return Sum(self.loss + weight * loss, added)

    def plus_random(self, learn: Callable, chosen: Any, weights: jax.Array) -> tuple[Sum, jax.Array]:
        """With the parts of random ones, learn(chosen[i]) -> (loss, gradient) each, and the sum of their losses alone."""

        def one(total: Sum, each: tuple) -> tuple[Sum, jax.Array]:
            which, weight = each
            loss, gradient = learn(which)
            return total.plus(weight, loss, gradient), weight * loss

        # Unrolled: XLA runs the convolutions of a loop body on CPU several times slower.
        total, losses = jax.lax.scan(one, self, (chosen, weights), unroll=True)
        return total, losses.sum()

    def mean(self, count: jax.Array, batch_stats: dict, metrics: dict) -> Update:
        """The update of so many subnets."""
        gradient = jax.tree.map(lambda leaf: leaf / count, self.gradient)
        return Update(gradient, batch_stats, {**metrics, "loss": self.loss / count})


def weights_of(allowed: Allowed | None, space: SearchSpace, random_subnets: int) -> jax.Array:
    """float32[1 + random_subnets]: 1 for the subnets that count beside the largest, the smallest first; else 0."""
    if allowed is None:
        return jnp.ones(1 + random_subnets, jnp.float32)
    counted = jnp.arange(1 + random_subnets, dtype=jnp.int32) <= allowed.random_subnets
    # A resolution is the step's, not a subnet's.
    sized = np.asarray([gene.name != "resolution" for gene in space.genes])
    unlocked = (jnp.asarray(sized) & (allowed.least < jnp.asarray(space.largest))).any()
    return (counted & unlocked).astype(jnp.float32)


def check_label_smoothing(where: str, share: float) -> None:
    """Raises ValueError for a part of each label that cannot be spread over all classes."""
    if not 0 <= share < 1:
        raise ValueError(f"{where} is {share}, must be at least 0 and below 1")
