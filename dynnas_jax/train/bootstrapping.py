"""In-place ensemble bootstrapping: how a slimmable supernet learns (Li et al. 2021, arXiv 2103.13258, equations 3 to 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.elastic import Supernet
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.train import distillation, losses, rules
from dynnas_jax.train.rules import Objective, Update
from dynnas_jax.train.subnets import Runs

TARGETS = ("ema", "online")


class _Options(NamedTuple):
    random_paths: int
    target: str
    ensemble: bool
    temperature: float
    label_smoothing: float


@dataclass(frozen=True)
class Rule(rules.Rule):
    """What `rule` returns."""

    options: _Options

    def __call__(
        self,
        supernet: Supernet,
        axis_name: str | None = None,
        answers: Callable | None = None,
        subnet_axis: str | None = None,
    ) -> Objective:
        if answers is not None or subnet_axis is not None:
            raise ValueError("bootstrapping: the network teaches itself, on devices with other images each")
        return _Step(supernet.space, Runs(supernet, axis_name, None, "masked"), self.options).update

    def drawn(self, space: SearchSpace, key: jax.Array, least: np.ndarray | None, pool: tuple | None) -> list[dict]:
        """As genome files."""
        genomes = np.asarray(space.sample(key, self.options.random_paths, least))
        return [space.to_json(genome) for genome in genomes]


def rule(
    *,
    random_paths: int = 2,
    target: str = TARGETS[0],
    ensemble: bool = True,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
) -> Rule:
    """Per step the widest path learns the labels, `random_paths` others the target's widest, the narrowest the mean of all these.

    The gradient is the mean over the paths; running statistics come from the widest. The widest and the narrowest run sliced,
    the others masked.

    Args:
      target: "ema", the same network with averaged params; or "online", the network of the same step (in-place distillation).
      ensemble: whether the narrowest learns the mean of the chances that the target's widest and random paths give; else
        those of its widest alone.
      temperature: of what is learned from the target.
      label_smoothing: the part of each label that is spread evenly over all classes.

    Raises:
      ValueError: for fewer than 0 random paths, an unknown target, a temperature not above 0, a smoothing outside 0 to below 1,
        or an ensemble that is no bool, or of no random paths.
    """
    if random_paths < 0:
        raise ValueError(f"train.bootstrapping.random_paths is {random_paths}, must not be negative")
    if target not in TARGETS:
        raise ValueError(f"train.bootstrapping.target is {target!r}, choose from {list(TARGETS)}")
    if not temperature > 0:
        raise ValueError(f"train.bootstrapping.temperature is {temperature}, must be above 0")
    if not isinstance(ensemble, bool):
        raise ValueError(f"train.bootstrapping.ensemble is {ensemble!r}, must be True or False")
    if ensemble and not random_paths:
        raise ValueError("train.bootstrapping.ensemble is of the widest and random paths; give random_paths above 0")
    rules.check_label_smoothing("train.bootstrapping.label_smoothing", label_smoothing)
    return Rule(_Options(random_paths, target, ensemble, temperature, label_smoothing))


def mean_answer(answers: list[jax.Array], temperature: float) -> jax.Array:
    """Logits whose softmax at a temperature is the mean of those of the answers [b, classes] at it (equation 4)."""
    chances = jnp.stack([jax.nn.log_softmax(logits / temperature) for logits in answers])
    return temperature * (jax.nn.logsumexp(chances, axis=0) - jnp.log(jnp.asarray(len(answers), chances.dtype)))


class _Step(NamedTuple):
    """One step of the rule; `update` is its objective."""

    space: SearchSpace
    runs: Runs
    options: _Options

    def update(self, given: Any, images, labels, key, targets=None) -> Update:
        options, (params, stats) = self.options, (given.variables["params"], given.variables["batch_stats"])
        learned = labels if targets is None else targets
        from_labels = jax.value_and_grad(self._labelled, has_aux=True)
        (loss, (own, new_stats)), gradient = from_labels(params, stats, images, learned)
        several = options.random_paths
        drawn = (
            list(self.space.sample(key, several, None if given.allowed is None else given.allowed.least))
            if several
            else []
        )
        widest, others = self._target(given, images, own, drawn)
        learn, total = jax.value_and_grad(self._distilled), rules.Sum(loss, gradient)
        narrowest = learn(
            params, self.runs.smallest, stats, images, mean_answer([widest, *others], options.temperature)
        )
        total = total.plus(jnp.float32(1), *narrowest)
        metrics = {"loss_largest": loss, "loss_smallest": narrowest[0]}
        if several:
            ran = [learn(params, self.runs.any_of(genome), stats, images, widest) for genome in drawn]
            metrics["loss_random"] = sum(value for value, _ in ran) / several
            for value, own_gradient in ran:
                total = total.plus(jnp.float32(1), value, own_gradient)
        metrics["accuracy_largest"] = (own.argmax(-1) == labels).astype(jnp.float32).mean()
        return total.mean(jnp.float32(2 + several), new_stats, metrics)

    def _labelled(self, params, batch_stats, images, targets):
        ran = self.runs.largest({"params": params, "batch_stats": batch_stats}, images)
        return losses.cross_entropy(ran.logits, targets, self.options.label_smoothing), (ran.logits, ran.batch_stats)

    def _distilled(self, params, run, batch_stats, images, teacher):
        logits = run({"params": params, "batch_stats": batch_stats}, images).logits
        return distillation.soft_cross_entropy(logits, teacher, self.options.temperature)

    def _target(self, given: Any, images, own: jax.Array, drawn: list) -> tuple[jax.Array, list[jax.Array]]:
        """The target's answers: of its widest path, and of those drawn where they teach too."""
        online = self.options.target == "online"
        variables = given.variables if online else {**given.variables, "params": given.ema}
        widest = own if online else self.runs.largest(variables, images).logits
        runs = [self.runs.any_of(genome) for genome in drawn] if self.options.ensemble else []
        found = widest, [run(variables, images).logits for run in runs]
        return jax.lax.stop_gradient(found)
