"""The sandwich rule with distillation (Yu et al. 2020, BigNAS, arXiv 2003.11142, section 3.1)."""

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
from dynnas_jax.train.subnets import Runs, drawn_pool

RANDOM_SUBNETS = 2  # of a step
TEACHERS = ("in_place", "ema", "trained")
FORMS = ("auto", "masked", "switched", "pool")


class _Options(NamedTuple):
    random_subnets: int
    temperature: float
    label_smoothing: float
    teacher: str
    subnets: str  # how the random ones run
    pool_size: int
    pool_refresh: int  # steps


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
        teacher = self.options.teacher
        if answers is None and teacher == "trained":
            raise ValueError(
                "sandwich: the teacher 'trained' needs a trained net; give train.teacher, a run's directory"
            )
        if answers is not None and teacher != "trained":
            raise ValueError(f"sandwich: a trained net is given, but the teacher is {teacher!r}, must be 'trained'")
        runs = Runs(supernet, axis_name, subnet_axis, self.options.subnets)
        step = _Step(supernet.space, runs, answers, self.options, _Share(subnet_axis))
        return step.update

    @property
    def pool_refresh(self) -> int:
        return self.options.pool_refresh if self.options.subnets == "pool" else 0

    def pool(self, space: SearchSpace, step: int, seed: int, least: np.ndarray | None = None) -> tuple | None:
        if self.options.subnets != "pool":
            return None
        number = step // self.options.pool_refresh
        return drawn_pool(space, seed, number, self.options.pool_size, None if least is None else tuple(least.tolist()))

    def drawn(self, space: SearchSpace, key: jax.Array, least: np.ndarray | None, pool: tuple | None) -> list[dict]:
        """As genome files."""
        count = self.options.random_subnets
        if pool is not None:
            genomes = np.asarray(pool, np.int32)[np.asarray(jax.random.permutation(key, len(pool)))[:count]]
        else:
            genomes = np.asarray(space.sample(key, count, least))
        return [space.to_json(genome) for genome in genomes]


def rule(
    *,
    random_subnets: int = RANDOM_SUBNETS,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    teacher: str = "in_place",
    subnets: str = "auto",
    pool_size: int = 4,
    pool_refresh: int = 1000,
) -> Rule:
    """Per step the largest net learns the labels; the smallest and `random_subnets` others learn a teacher's answers.

    The largest and the smallest run sliced, the random ones as `subnets` says. The gradient is the
    mean over the subnets. Running statistics come from the largest; other subnets are recalibrated before use. In a phase
    of progressive shrinking the smallest that is unlocked takes the smallest's place, masked too. Of a supernet of nets of
    several exits each exit learns, the loss of a subnet is the sum over its exits, and the teacher in place is the last exit.

    Args:
      label_smoothing: the part of each label, or target of mixed images, that is spread evenly over all classes.
      teacher: "in_place", the largest net of the same step; "ema", the same net with averaged params; or "trained", another
        net that was trained before.
      subnets: "masked", any genome, one compiled program of the largest net's work; "switched", the subnet's own work, at a
        long compilation; "pool", sliced, out of `pool_size` genomes that are drawn anew every `pool_refresh` steps, each time
        with a compilation; "auto" is masked.

    Returns:
      The rule: call it with a supernet for an objective (`rules.Rule`). The default phase has `random_subnets` of them, a phase
      may have fewer. The devices along the mesh axis `subnet_axis` have the same images and share the random subnets, whose
      number must divide.

    Raises:
      ValueError: for fewer than 0 random subnets, a temperature not above 0, a smoothing outside 0 to below 1, or an unknown
        teacher.
    """
    if random_subnets < 0:
        raise ValueError(f"sandwich: random_subnets is {random_subnets}, must not be negative")
    if temperature <= 0:
        raise ValueError(f"sandwich: temperature is {temperature}, must be above 0")
    rules.check_label_smoothing("sandwich: label_smoothing", label_smoothing)
    if teacher not in TEACHERS:
        raise ValueError(f"sandwich: teacher is {teacher!r}, choose from {list(TEACHERS)}")
    if subnets not in FORMS:
        raise ValueError(f"sandwich: subnets is {subnets!r}, choose from {list(FORMS)}")
    if subnets == "pool" and pool_size < max(1, random_subnets):
        raise ValueError(
            f"sandwich: pool_size is {pool_size}, must be at least random_subnets, {random_subnets}, and 1"
        )
    if pool_refresh < 1:
        raise ValueError(f"sandwich: pool_refresh is {pool_refresh} steps, must be at least 1")
    chosen = "masked" if subnets == "auto" else subnets
    return Rule(_Options(random_subnets, temperature, label_smoothing, teacher, chosen, pool_size, pool_refresh))


class _Step(NamedTuple):
    """One step of the rule; `update` is its objective."""

    space: SearchSpace
    runs: Runs
    answers: Callable | None
    options: _Options
    share: _Share

    def update(self, given, images, labels, key, targets=None, pool=None, kept=None) -> Update:
        params, stats = given.variables["params"], given.variables["batch_stats"]
        # Largest and smallest divide the images among the devices that share the random subnets.
        batch = images, labels, labels if targets is None else targets, kept
        part, own_labels, own_targets, own_kept = self.share.images_of(batch)
        from_labels = jax.value_and_grad(self._labelled, has_aux=True)
        (loss, (own, new_stats)), gradient = from_labels(params, stats, part, own_targets, own_kept)
        teacher = jax.lax.stop_gradient(self._teach(given, part, own))
        weights = rules.weights_of(given.allowed, self.space, self.options.random_subnets)
        learn = jax.value_and_grad(self._distilled)
        smallest = learn(params, self.runs.smallest_of(given.allowed), stats, part, teacher, own_kept)
        metrics = {"loss_largest": loss, "loss_smallest": smallest[0]}
        total = rules.Sum(loss, gradient).plus(weights[0], *smallest)
        if self.options.random_subnets:
            drawn, run_of = self.runs.random(key, self.options.random_subnets, given.allowed, pool)
            drawn, shares = self.share.subnets_of((drawn, weights[1:]))
            everyone = self.share.gathered(teacher)
            total, random = total.plus_random(
                lambda d: learn(params, run_of(d), stats, images, everyone, kept), drawn, shares
            )
            # Not a number in a phase without random subnets.
            metrics["loss_random"] = random / weights[1:].sum()
        metrics["accuracy_largest"] = (own.argmax(-1) == own_labels).astype(jnp.float32).mean()
        return self.share.together(total.mean(1 + weights.sum(), new_stats, metrics))

    def _labelled(self, params, batch_stats, images, targets, kept):
        ran = self.runs.largest({"params": params, "batch_stats": batch_stats}, images)
        learn = lambda logits: losses.cross_entropy(logits, targets, self.options.label_smoothing, kept)  # noqa: E731
        return losses.of_exits(learn, ran.answers), (ran.logits, ran.batch_stats)

    def _distilled(self, params, run, batch_stats, images, teacher, kept):
        answers = run({"params": params, "batch_stats": batch_stats}, images).answers
        both = lambda logits: (losses.among(logits, kept), losses.among(teacher, kept))  # noqa: E731
        learn = lambda logits: distillation.soft_cross_entropy(*both(logits), self.options.temperature)  # noqa: E731
        return losses.of_exits(learn, answers)

    def _teach(self, given, images, own):
        """The logits that the others learn."""
        if self.options.teacher == "ema":
            return self.runs.largest({**given.variables, "params": given.ema}, images).logits
        return self.answers(given.teacher, images) if self.options.teacher == "trained" else own


class _Share(NamedTuple):
    """What one device does of a step, of those along a mesh axis that have the same images; all of it without an axis."""

    axis: str | None

    @property
    def count(self) -> int:
        """Devices along the axis; known inside the mesh."""
        return 1 if self.axis is None else jax.lax.axis_size(self.axis)

    def _own(self, tree: Any) -> Any:
        """The part of this device of every leaf's leading axis."""
        if self.count == 1:
            return tree
        index = jax.lax.axis_index(self.axis)
        return jax.tree.map(lambda leaf: leaf.reshape(self.count, -1, *leaf.shape[1:])[index], tree)

    def images_of(self, batch: tuple) -> tuple:
        """The images, labels and targets that this device has to itself."""
        if len(batch[0]) % self.count:
            raise ValueError(
                f"train: the {len(batch[0])} images of a device do not divide over the {self.count} devices of the axis "
                f"{self.axis!r}; give another batch_size"
            )
        return self._own(batch)

    def subnets_of(self, drawn: tuple) -> tuple:
        """The genomes and weights of this device; the weights such that the mean over the axis is the sum over all."""
        genomes, weights = drawn
        if len(genomes) % self.count:
            raise ValueError(
                f"sandwich: random_subnets is {len(genomes)}, must divide over the {self.count} devices of the axis "
                f"{self.axis!r}"
            )
        return self._own((genomes, weights * self.count))

    def gathered(self, part: jax.Array) -> jax.Array:
        """What all devices of the axis have of an array, in order."""
        return part if self.count == 1 else jax.lax.all_gather(part, self.axis, tiled=True)

    def together(self, update: Update) -> Update:
        """The mean over the devices of the axis."""
        return update if self.count == 1 else jax.lax.pmean(update, self.axis)
