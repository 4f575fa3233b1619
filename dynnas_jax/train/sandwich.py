"""The sandwich rule with in-place distillation (Yu et al. 2020, BigNAS, arXiv 2003.11142, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dynnas_jax.elastic import Supernet, extract, mask_variables
from dynnas_jax.train import distillation, losses


class Update(NamedTuple):
    """What a rule makes of one batch."""

    gradient: Any  # of the params
    batch_stats: dict  # the largest net's running statistics after the batch
    metrics: dict[str, jax.Array]  # float32 scalars; "loss" is one of them


# objective(variables, images, labels, key, targets=None) -> Update, for the part of the batch on one device of `axis_name`.
# Targets float32[b, classes], where given, are learned in place of the labels int32[b], which then only measure accuracy.
Objective = Callable[..., Update]


def rule(
    *, random_subnets: int = 2, temperature: float = 1.0, label_smoothing: float = 0.0
) -> Callable[[Supernet, str | None], Objective]:
    """Per step the largest net learns the labels; the smallest and `random_subnets` others learn the largest's answers.

    The largest and the smallest run sliced, the random ones masked: any genome, one compiled program. The gradient is the
    mean over the subnets. Running statistics come from the largest; other subnets are recalibrated before use.

    Args:
      label_smoothing: the part of each label, or target of mixed images, that is spread evenly over all classes.

    Raises:
      ValueError: for fewer than 0 random subnets, a temperature not above 0, or a smoothing outside 0 to below 1.
    """
    if random_subnets < 0:
        raise ValueError(f"sandwich: random_subnets is {random_subnets}, must not be negative")
    if temperature <= 0:
        raise ValueError(f"sandwich: temperature is {temperature}, must be above 0")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"sandwich: label_smoothing is {label_smoothing}, must be at least 0 and below 1")

    def build(supernet: Supernet, axis_name: str | None = None) -> Objective:
        return _objective(supernet, axis_name, random_subnets, temperature, label_smoothing)

    return build


def _objective(
    supernet: Supernet, axis_name: str | None, random_subnets: int, temperature: float, label_smoothing: float
) -> Objective:
    largest = supernet.largest_net().clone(axis_name=axis_name)
    smallest = supernet.net(supernet.arch(supernet.space.smallest)).clone(axis_name=axis_name)
    subnets = random_subnets + 2

    def labelled(params, batch_stats, images, targets):
        (logits, _), updated = largest.apply(
            {"params": params, "batch_stats": batch_stats}, images, True, mutable=["batch_stats"]
        )
        return losses.cross_entropy(logits, targets, label_smoothing), (logits, updated["batch_stats"])

    def distilled(params, run, batch_stats, images, teacher):
        (logits, _), _ = run({"params": params, "batch_stats": batch_stats}, images)
        return distillation.soft_cross_entropy(logits, teacher, temperature)

    def run_smallest(variables, images):
        own = extract(supernet, variables, supernet.space.smallest)[1]
        return smallest.apply(own, images, True, mutable=["batch_stats"])

    def run_masked(variables, images, genome):
        return largest.apply(mask_variables(supernet, variables, genome), images, True, mutable=["batch_stats"])

    def objective(variables, images, labels, key, targets=None):
        params, stats = variables["params"], variables["batch_stats"]
        (loss, (teacher, new_stats)), gradient = jax.value_and_grad(labelled, has_aux=True)(
            params, stats, images, labels if targets is None else targets
        )
        learn = jax.value_and_grad(distilled)
        loss_smallest, other = learn(params, run_smallest, stats, images, teacher)
        gradient = jax.tree.map(jnp.add, gradient, other)

        def one_random(total, genome):
            value, other = learn(params, lambda v, x: run_masked(v, x, genome), stats, images, teacher)
            return jax.tree.map(jnp.add, total, other), value

        metrics = {"loss_largest": loss, "loss_smallest": loss_smallest}
        total = loss + loss_smallest
        if random_subnets:
            genomes = supernet.space.sample(key, random_subnets)
            # Unrolled: XLA runs the convolutions of a loop body on CPU several times slower.
            gradient, values = jax.lax.scan(one_random, gradient, genomes, unroll=True)
            metrics["loss_random"] = values.mean()
            total = total + values.sum()
        metrics["loss"] = total / subnets
        metrics["accuracy_largest"] = (teacher.argmax(-1) == labels).astype(jnp.float32).mean()
        return Update(jax.tree.map(lambda leaf: leaf / subnets, gradient), new_stats, metrics)

    return objective
