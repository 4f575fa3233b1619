"""Sandwich gate sparsification: how the gates of a trained slimmable supernet learn (Li et al. 2021, arXiv 2103.13258, equations
10 to 12).

The supernet is frozen. Every image runs at the width that its gates pick; they learn from the labels through it, from what it
costs, and from which images the narrowest path gets right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dynnas_jax.elastic import Supernet
from dynnas_jax.train import losses, rules
from dynnas_jax.train.rules import Objective, Update

HARD = ("try_best", "give_up")


class Network(NamedTuple):
    """What the rule asks of the network; `frozen` are the variables of the supernet."""

    heads: Callable[[dict], Any]  # params -> the slimming heads'
    with_heads: Callable[[dict, Any], dict]  # (params, slimming heads) -> params
    # (frozen, images, key[b], temperature) -> (logits[b, classes], of each gate scores[b, choices], relaxed genome[b, ...])
    masked: Callable
    ends: Callable[[dict, jax.Array], tuple[jax.Array, jax.Array]]  # logits of the narrowest and of the widest path
    macs: Callable[[jax.Array], jax.Array]  # relaxed genome -> float32[]
    most_macs: int


class _Options(NamedTuple):
    classification: float
    complexity: float
    sandwich: float
    hard: str
    temperature: float
    target_macs: float | None


@dataclass(frozen=True)
class Rule(rules.Rule):
    """What `rule` returns. The variables of the supernet, with every path's statistics, are the teacher's."""

    network: Network
    options: _Options

    def __call__(
        self,
        supernet: Supernet,
        axis_name: str | None = None,
        answers: Callable | None = None,
        subnet_axis: str | None = None,
    ) -> Objective:
        if subnet_axis is not None:
            raise ValueError("gates learn on devices with other images each; leave out subnet_devices")
        return _Step(self.network, self.options, axis_name).update


def rule(
    network: Network,
    *,
    classification: float = 1.0,
    complexity: float = 0.5,
    sandwich: float = 1.0,
    hard: str = HARD[0],
    temperature: float = 1.0,
    target_macs: float | None = None,
) -> Rule:
    """Each step the slimming heads learn from the three losses of equation 12.

    Args:
      classification, complexity, sandwich: weights of the losses; 0 leaves one out.
      hard: images that neither end of the sandwich gets right go to the widest, "try_best", or to the narrowest, "give_up".
      temperature: of the Gumbel softmax.
      target_macs: average MACs that the complexity loss pulls to, ((MAdds - target) / total)^2; None: (MAdds / total)^2.

    Raises:
      ValueError: as `check`.
    """
    weights = {"classification": classification, "complexity": complexity, "sandwich": sandwich}
    check(**weights, hard=hard, temperature=temperature)
    return Rule(network, _Options(**weights, hard=hard, temperature=temperature, target_macs=target_macs))


def check(
    *,
    classification: float = 1.0,
    complexity: float = 0.5,
    sandwich: float = 1.0,
    hard: str = HARD[0],
    temperature: float = 1.0,
) -> None:
    """Raises ValueError for a weight below 0 or infinite, all 0, an unknown way with hard images, a temperature not above 0."""
    weights = {"classification": classification, "complexity": complexity, "sandwich": sandwich}
    for name, value in weights.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"gate.sparsification.{name} is {value}, must be a finite number of at least 0")
    if not any(weights.values()):
        raise ValueError("gate.sparsification: all three weights are 0, so the gates have nothing to learn")
    if hard not in HARD:
        raise ValueError(f"gate.sparsification.hard is {hard!r}, choose from {list(HARD)}")
    if not temperature > 0:
        raise ValueError(f"gate.sparsification.temperature is {temperature}, must be above 0")


def wide(narrowest: jax.Array, widest: jax.Array, labels: jax.Array, hard: str) -> jax.Array:
    """bool[b]: whether the widest path is an image's target, from both ends' logits[b, classes] and labels int[b]."""
    easy, known = (logits.argmax(-1) == labels for logits in (narrowest, widest))
    return ~easy if hard == "try_best" else ~easy & known


def sandwich_loss(scores: tuple[jax.Array, ...], target: jax.Array) -> jax.Array:
    """Mean over the gates of the cross-entropy of scores[b, choices] with the first choice, or the last where target bool[b]."""
    each = [losses.cross_entropy(own, jnp.where(target, own.shape[-1] - 1, 0)) for own in scores]
    return sum(each[1:], each[0]) / len(each)


class _Step(NamedTuple):
    """One step of the rule; `update` is its objective."""

    network: Network
    options: _Options
    axis: str | None = None  # of the devices that have other images of the batch

    def update(self, given: Any, images, labels, key, targets=None) -> Update:
        params, network = given.variables["params"], self.network
        ends = jax.lax.stop_gradient(network.ends(given.teacher, images))
        target = wide(*ends, labels, self.options.hard)
        learn = jax.value_and_grad(self._loss, has_aux=True)
        batch = images, labels, labels if targets is None else targets
        (loss, metrics), gradient = learn(network.heads(params), given, batch, key, target)
        nothing = jax.tree.map(jnp.zeros_like, params)
        metrics["wide_share"] = target.astype(jnp.float32).mean()
        whole = network.with_heads(nothing, gradient)
        return Update(whole, given.variables["batch_stats"], {**metrics, "loss": loss})

    def _loss(self, heads, given, batch, key, target):
        options, network, (images, labels, learned) = self.options, self.network, batch
        frozen = {**given.teacher, "params": network.with_heads(given.teacher["params"], heads)}
        logits, scores, genome = network.masked(frozen, images, self._keys(key, len(images)), options.temperature)
        spent = self._of_all(jax.vmap(network.macs)(genome).mean() / network.most_macs)
        wanted = 0.0 if options.target_macs is None else options.target_macs / network.most_macs
        classification = losses.cross_entropy(logits, learned)
        complexity, sandwich = jnp.square(spent - wanted), sandwich_loss(scores, target)
        terms = (
            (options.classification, classification),
            (options.complexity, complexity),
            (options.sandwich, sandwich),
        )
        loss = sum(weight * term for weight, term in terms)
        metrics = {"loss_classification": classification, "loss_complexity": complexity, "loss_sandwich": sandwich}
        metrics |= {"macs_share": spent, "accuracy": (logits.argmax(-1) == labels).astype(jnp.float32).mean()}
        return loss, metrics | _shares(scores, genome)

    def _keys(self, key: jax.Array, count: int) -> jax.Array:
        """key[count]: one for each image here, drawn for the whole batch: on any number of devices each image has the same."""
        if self.axis is None:
            return jax.random.split(key, count)
        every = jax.random.split(key, count * jax.lax.axis_size(self.axis))
        return jax.lax.dynamic_slice_in_dim(every, count * jax.lax.axis_index(self.axis), count)

    def _of_all(self, mean: jax.Array) -> jax.Array:
        """The mean over the whole batch, with the gradient of the images here: that of a square is not the squares' mean."""
        if self.axis is None:
            return mean
        return mean + jax.lax.stop_gradient(jax.lax.pmean(mean, self.axis) - mean)


def _shares(scores: tuple[jax.Array, ...], genome: jax.Array) -> dict[str, jax.Array]:
    """The share of the images that took each choice of each gate, noise and all."""
    mean = genome.mean(0)
    return {
        f"gate{gate + 1}_choice{choice + 1}": mean[gate, choice]
        for gate, own in enumerate(scores)
        for choice in range(own.shape[-1])
    }
