"""The sandwich rule with distillation (Yu et al. 2020, BigNAS, arXiv 2003.11142, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.elastic import Supernet, extract, mask_variables
from dynnas_jax.train import distillation, losses
from dynnas_jax.train.progressive_shrinking import Allowed

RANDOM_SUBNETS = 2  # of a step
TEACHERS = ("in_place", "ema", "trained")


class Given(NamedTuple):
    """What a step has beside its batch."""

    variables: dict
    ema: Any = None  # averaged params, for the teacher "ema"
    teacher: Any = None  # variables of a net trained before, for the teacher "trained"
    allowed: Allowed | None = None  # what the phase of progressive shrinking leaves free; None: everything


class Update(NamedTuple):
    """What a rule makes of one batch."""

    gradient: Any  # of the params
    batch_stats: dict  # the largest net's running statistics after the batch
    metrics: dict[str, jax.Array]  # float32 scalars; "loss" is one of them


# objective(given, images, labels, key, targets=None) -> Update, for the part of the batch on one device of `axis_name`.
# Targets float32[b, classes], where given, are learned in place of the labels int32[b], which then only measure accuracy.
Objective = Callable[..., Update]


class _Options(NamedTuple):
    random_subnets: int
    temperature: float
    label_smoothing: float
    teacher: str


def rule(
    *,
    random_subnets: int = RANDOM_SUBNETS,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    teacher: str = "in_place",
) -> Callable[..., Objective]:
    """Per step the largest net learns the labels; the smallest and `random_subnets` others learn a teacher's answers.

    The largest and the smallest run sliced, the random ones masked: any genome, one compiled program. The gradient is the
    mean over the subnets. Running statistics come from the largest; other subnets are recalibrated before use. In a phase
    of progressive shrinking the smallest that is unlocked takes the smallest's place, masked too.

    Args:
      label_smoothing: the part of each label, or target of mixed images, that is spread evenly over all classes.
      teacher: "in_place", the largest net of the same step; "ema", the same net with averaged params; or "trained", another
        net that was trained before.

    Returns:
      build(supernet, axis_name=None, answers=None) -> objective; `answers(variables, images)` gives the logits of the
      trained teacher. The default phase has `random_subnets` of them, a phase may have fewer.

    Raises:
      ValueError: for fewer than 0 random subnets, a temperature not above 0, a smoothing outside 0 to below 1, or an unknown
        teacher.
    """
    if random_subnets < 0:
        raise ValueError(f"sandwich: random_subnets is {random_subnets}, must not be negative")
    if temperature <= 0:
        raise ValueError(f"sandwich: temperature is {temperature}, must be above 0")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"sandwich: label_smoothing is {label_smoothing}, must be at least 0 and below 1")
    if teacher not in TEACHERS:
        raise ValueError(f"sandwich: teacher is {teacher!r}, choose from {list(TEACHERS)}")
    options = _Options(random_subnets, temperature, label_smoothing, teacher)

    def build(supernet: Supernet, axis_name: str | None = None, answers: Callable | None = None) -> Objective:
        if answers is None and teacher == "trained":
            raise ValueError(
                "sandwich: the teacher 'trained' needs a trained net; give train.teacher, a run's directory"
            )
        if answers is not None and teacher != "trained":
            raise ValueError(f"sandwich: a trained net is given, but the teacher is {teacher!r}, must be 'trained'")
        return _objective(supernet, axis_name, answers, options)

    return build


def _objective(supernet: Supernet, axis_name: str | None, answers: Callable | None, options: _Options) -> Objective:
    space, runs = supernet.space, _Runs(supernet, axis_name)

    def labelled(params, batch_stats, images, targets):
        logits, stats = runs.largest({"params": params, "batch_stats": batch_stats}, images)
        return losses.cross_entropy(logits, targets, options.label_smoothing), (logits, stats)

    def distilled(params, run, batch_stats, images, teacher):
        logits, _ = run({"params": params, "batch_stats": batch_stats}, images)
        return distillation.soft_cross_entropy(logits, teacher, options.temperature)

    def teach(given, images, own):
        if options.teacher == "ema":
            return runs.largest({**given.variables, "params": given.ema}, images)[0]
        return answers(given.teacher, images) if options.teacher == "trained" else own

    def objective(given, images, labels, key, targets=None):
        params, stats = given.variables["params"], given.variables["batch_stats"]
        (loss, (own, new_stats)), gradient = jax.value_and_grad(labelled, has_aux=True)(
            params, stats, images, labels if targets is None else targets
        )
        teacher, learn = jax.lax.stop_gradient(teach(given, images, own)), jax.value_and_grad(distilled)
        weights = _weights(given.allowed, space, options.random_subnets)

        def add(total, weight, run):
            value, other = learn(params, run, stats, images, teacher)
            return jax.tree.map(lambda a, b: a + weight * b, total, other), value

        gradient, loss_smallest = add(gradient, weights[0], runs.smallest_of(given.allowed))
        metrics = {"loss_largest": loss, "loss_smallest": loss_smallest}
        total = loss + weights[0] * loss_smallest
        if options.random_subnets:
            least = None if given.allowed is None else given.allowed.least
            genomes = space.sample(key, options.random_subnets, least)

            def one_random(total, chosen):
                genome, weight = chosen
                return add(total, weight, lambda variables, images: runs.masked(variables, images, genome))

            # Unrolled: XLA runs the convolutions of a loop body on CPU several times slower.
            gradient, values = jax.lax.scan(one_random, gradient, (genomes, weights[1:]), unroll=True)
            # Not a number in a phase without random subnets.
            metrics["loss_random"] = (values * weights[1:]).sum() / weights[1:].sum()
            total = total + (values * weights[1:]).sum()
        subnets = 1 + weights.sum()
        metrics["loss"] = total / subnets
        metrics["accuracy_largest"] = (own.argmax(-1) == labels).astype(jnp.float32).mean()
        return Update(jax.tree.map(lambda leaf: leaf / subnets, gradient), new_stats, metrics)

    return objective


def _weights(allowed: Allowed | None, space: Any, random_subnets: int) -> jax.Array:
    """float32[1 + random_subnets]: 1 for the subnets that count beside the largest, the smallest first; else 0."""
    if allowed is None:
        return jnp.ones(1 + random_subnets, jnp.float32)
    counted = jnp.arange(1 + random_subnets, dtype=jnp.int32) <= allowed.random_subnets
    # A resolution is the step's, not a subnet's.
    sized = np.asarray([gene.name != "resolution" for gene in space.genes])
    unlocked = (jnp.asarray(sized) & (allowed.least < jnp.asarray(space.largest))).any()
    return (counted & unlocked).astype(jnp.float32)


class _Runs:
    """The ways a step runs subnets: each (variables, images) -> logits, running statistics."""

    def __init__(self, supernet: Supernet, axis_name: str | None):
        self.supernet, space = supernet, supernet.space
        self._whole = supernet.largest_net().clone(axis_name=axis_name)
        self.largest, self.smallest = (self._sliced(genome, axis_name) for genome in (space.largest, space.smallest))

    def _sliced(self, genome: Any, axis_name: str | None) -> Callable:
        net = self.supernet.net(self.supernet.arch(genome)).clone(axis_name=axis_name)
        return lambda variables, images: _train(net, extract(self.supernet, variables, genome)[1], images)

    def masked(self, variables: dict, images: jax.Array, genome: jax.Array):
        """Any genome, traced."""
        return _train(self._whole, mask_variables(self.supernet, variables, genome), images)

    def smallest_of(self, allowed: Allowed | None) -> Callable:
        """The smallest subnet that a phase allows; sliced where every phase allows all."""
        if allowed is None:
            return self.smallest
        return lambda variables, images: self.masked(variables, images, allowed.least)


def _train(net: Any, variables: dict, images: jax.Array) -> tuple[jax.Array, dict]:
    (logits, _), updated = net.apply(variables, images, True, mutable=["batch_stats"])
    return logits, updated["batch_stats"]
