"""The strategy that looks for a pair by gradients of relaxed masks, in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dynnas_jax.data.splits import Split
from dynnas_jax.search import differentiable, evolution
from dynnas_jax.search.measure import Measure, best_of
from dynnas_jax.train import bilevel, loop, state

if TYPE_CHECKING:
    from dynnas_jax.stages.strategies import Asked

TRAIN_IMAGES = 16_384
# Keyword-only parameters of `differentiable.run` and `bilevel.problem` that `search` fills in.
GIVEN = (
    *("steps", "steps_per_call", "held", "table", "stem", "budget", "optimizer"),
    *("augment", "score", "threshold"),
)


def search(
    asked: Asked,
    *,
    weight_learning_rate: float = 0.01,
    train_images: int = TRAIN_IMAGES,
    batch_size: int = bilevel.BATCH_SIZE,
    softness: float = 1.0,
    **options: Any,
) -> tuple[evolution.Found, int, int, list[int], dict]:
    """`differentiable.run` on pairs, by a copy of the supernet's weights that learns meanwhile.

    It does as many steps as the effort pays for. The pair read off is evaluated once, as those of the other strategies are, with
    the trained supernet's variables. In a space of several resolutions the largest is searched.

    Args:
      weight_learning_rate: of the copy, falling to 0 by a cosine; 0: the weights stay as they are.
      train_images: at most so many lie on the device for it.
      batch_size: at most the held-out images.
      softness: of `bilevel.problem`.
      options: of `differentiable.run`.

    Returns:
      The fields of a `strategies.Outcome`.

    Raises:
      ValueError: for a learning rate below 0, an effort that does not pay for a step, or an option out of range.
    """
    if not weight_learning_rate >= 0:
        raise ValueError(f"search.differentiable.weight_learning_rate is {weight_learning_rate}, must not be negative")
    job, space = asked.job, asked.table.space
    train, holdout = _some(job.images.train, train_images, job.seed), job.images.holdout
    batch_size, learning = min(batch_size, len(train), len(holdout)), weight_learning_rate > 0
    each = bilevel.images_each(batch_size, learning)
    steps = differentiable.steps_for(each, asked.effort_images - asked.images_each)
    rate = state.optimizer(steps, learning_rate=weight_learning_rate, warm_up=0.0)
    problem = bilevel.problem(
        job.supernet,
        asked.variables,
        train,
        holdout,
        table=asked.table.nets,
        stem=asked.table.stem,
        budget=float(asked.budget),
        optimizer=rate.transform if learning else None,
        batch_size=batch_size,
        augment=job.augment,
        score=job.score,
        softness=softness,
    )
    held = {gene.name: len(gene.choices) - 1 for gene in space.space.genes if gene.name == "resolution"}
    together = 1 if jax.default_backend() == "cpu" else loop.STEPS_PER_CALL
    options = {"steps": steps, "steps_per_call": together, "held": held, **options}
    read_off = differentiable.run(asked.key, space, *problem, asked.budget, **options)
    measure = Measure(asked.fitness, asked.table.least, asked.evaluate.mesh, "mapped")
    found = best_of(space, measure(np.asarray(read_off.genome)[None]), float(asked.budget))
    images = differentiable.images_of(each, steps) + asked.images_each
    details = {
        "steps": steps,
        "batch_size": batch_size,
        # Of relaxed pairs: nothing that other strategies' fitness could be compared with.
        "relaxed_loss": [_number(-value) for value in np.asarray(read_off.history).tolist()],
        "loss_read_off": _number(-float(read_off.fitness)),
    }
    return found, 1, images, [images], details


CONFIGURED = (differentiable.run, bilevel.problem, search)  # with `GIVEN`: what a config may say of this strategy


def _some(split: Split, count: int, seed: int) -> Split:
    """The split in memory, or so many of its images, drawn."""
    if len(split) <= count and isinstance(split.images, np.ndarray):
        return split
    drawn = np.random.default_rng([seed, 2, 1]).permutation(len(split))[:count]
    return split[np.sort(drawn)]


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
