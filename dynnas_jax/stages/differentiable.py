"""The strategy that looks for a pair by gradients of relaxed masks, in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dynnas_jax import relaxed
from dynnas_jax.data.splits import Split
from dynnas_jax.search import differentiable, evolution
from dynnas_jax.search.measure import Measure, best_of
from dynnas_jax.train import bilevel, loop, state
from dynnas_jax.workdir import finite

if TYPE_CHECKING:
    from dynnas_jax.stages.strategies import Asked

TRAIN_IMAGES = 16_384
DRAWS = 16  # for each pair that is wanted
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
    candidates: int = 1,
    **options: Any,
) -> tuple[evolution.Found, int, int, list[int], dict]:
    """`differentiable.run` on pairs, by a copy of the supernet's weights that learns meanwhile.

    It does as many steps as the effort pays for. The pair read off is evaluated as those of the other strategies are, with the
    trained supernet's variables; so are others drawn from the chances at the end, and the best is taken. In a space of several
    resolutions the largest is searched.

    Args:
      weight_learning_rate: of the copy, falling to 0 by a cosine; 0: the weights stay as they are.
      train_images: at most so many lie on the device for it.
      batch_size: at most the held-out images.
      softness: of `bilevel.problem`.
      candidates: pairs evaluated, the one read off and those drawn; fewer where `DRAWS` times as many draws hold no more that are
        within the budget.
      options: of `differentiable.run`.

    Returns:
      The fields of a `strategies.Outcome`.

    Raises:
      ValueError: for a learning rate below 0, an effort that does not pay for a step, or an option out of range.
    """
    if candidates < 1:
        raise ValueError(f"search.differentiable.candidates is {candidates}, must be at least 1")
    if not weight_learning_rate >= 0:
        raise ValueError(f"search.differentiable.weight_learning_rate is {weight_learning_rate}, must not be negative")
    job, space = asked.job, asked.table.space
    train, holdout = _some(job.images.train, train_images, job.seed), job.images.holdout
    batch_size, learning = min(batch_size, len(train), len(holdout)), weight_learning_rate > 0
    each = bilevel.images_each(batch_size, learning)
    steps = differentiable.steps_for(each, asked.effort_images - candidates * asked.images_each)
    optimizer = state.optimizer(steps, learning_rate=weight_learning_rate, warm_up=0.0).transform if learning else None
    images = {"batch_size": batch_size, "augment": job.augment, "score": job.score, "softness": softness}
    costs = {"table": asked.table.nets, "stem": asked.table.stem, "budget": float(asked.budget)}
    problem = bilevel.problem(job.supernet, asked.variables, train, holdout, optimizer=optimizer, **costs, **images)
    held = {gene.name: len(gene.choices) - 1 for gene in space.space.genes if gene.name == "resolution"}
    together = 1 if jax.default_backend() == "cpu" else loop.STEPS_PER_CALL
    options = {"steps": steps, "steps_per_call": together, "held": held, **options}
    logits: list[jax.Array] = []
    read_off = differentiable.run(asked.key, space, *problem, asked.budget, logits.append, **options)
    candidates = _candidates(asked, np.asarray(read_off.genome), logits[0], held, candidates)
    measure = Measure(asked.fitness, asked.table.least, asked.evaluate.mesh, "mapped")
    found = best_of(space, measure(candidates), float(asked.budget))
    before = differentiable.images_of(each, steps)
    seen = [before + (n + 1) * asked.images_each for n in range(len(candidates))]
    details = {
        "steps": steps,
        "batch_size": batch_size,
        # Of relaxed pairs: nothing that other strategies' fitness could be compared with.
        "relaxed_loss": [finite(-value) for value in np.asarray(read_off.history).tolist()],
        "loss_read_off": finite(-float(read_off.fitness)),
    }
    return found, len(candidates), seen[-1], seen, details


def _candidates(asked: Asked, first: np.ndarray, logits: jax.Array, held: dict[str, int], count: int) -> np.ndarray:
    """int32[n, 2 genes], n at most `count`: the first, then pairs drawn by the softmax of the logits, no two alike.

    Those drawn are in canonical form and have a little within the budget.
    """
    if count == 1:
        return first[None]
    space, choices = asked.table.space, relaxed.allowed(asked.table.space, held)

    def draw(key):
        # The likeliest of logits with Gumbel noise is drawn with the chances that they have.
        noise = jax.random.gumbel(key, logits.shape, logits.dtype)
        pair = space.canonical(relaxed.read_off(space, logits + noise, choices))
        return pair, asked.table.least(pair)

    keys = jax.random.split(jax.random.fold_in(asked.key, 1), DRAWS * count)
    pairs, costs = (np.asarray(rows) for rows in jax.jit(jax.vmap(draw))(keys))
    rows = np.concatenate([first[None], pairs[costs <= asked.budget]])
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])][:count]


def fewest(candidates: int = 1, **_: Any) -> int:
    """Pairs that the effort must pay for: the candidates, and as much as three take for the steps."""
    return candidates + 3


CONFIGURED = (differentiable.run, bilevel.problem, search)  # with `GIVEN`: what a config may say of this strategy


def _some(split: Split, count: int, seed: int) -> Split:
    """The split in memory, or so many of its images, drawn."""
    if len(split) <= count and isinstance(split.images, np.ndarray):
        return split
    drawn = np.random.default_rng([seed, 2, 1]).permutation(len(split))[:count]
    return split[np.sort(drawn)]
