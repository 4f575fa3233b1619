"""What a pair of subnets is worth: its accuracy on held-out images at the best threshold that keeps a budget, traceable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dynnas_jax import processes
from dynnas_jax.costs.macs import CostTable
from dynnas_jax.data.resize import resized
from dynnas_jax.elastic import Supernet
from dynnas_jax.pair_space import NETS, PairSpace
from dynnas_jax.search import collect


class PairTable(NamedTuple):
    """What the pairs of a space cost, in one unit, by their genomes int32[2 genes]; traceable."""

    space: PairSpace
    nets: CostTable  # each net alone
    stem: CostTable  # of that the blocks that little and big share

    def spent(self, genome: jax.Array) -> jax.Array:
        """float32[2]: what is spent when little, and when big answers; the stem is counted once."""
        little, big = self.space.halves(genome)
        first = self.nets(little)
        return jnp.stack([first, first + self.nets(big) - self.stem(big)])

    def least(self, genome: jax.Array) -> jax.Array:
        """float32[]: the least that the pair can spend on average, little's cost. Known without running a net."""
        return self.nets(self.space.halves(genome).little)


class Point(NamedTuple):
    """How a pair runs at one threshold."""

    accuracy: jax.Array  # float32[], part of the images
    average_cost: jax.Array  # float32[], per image
    feasible: jax.Array  # bool[], whether that is within the budget


def best_point(score: jax.Array, correct: jax.Array, cost: jax.Array, max_cost: jax.Array | float) -> Point:
    """What `dynamic.thresholds.choose` finds for a `max_cost`, by one sort and prefix sums.

    The k images of the lowest scores go to big, for every k that a threshold in [0, 1] can part: images of equal score go
    together, and one of score 0 always goes to big. Of those points that keep the budget the most accurate, of equals the
    costlier; where none keeps it, the cheapest.

    Args:
      score: float32[m] in [0, 1], little's.
      correct: bool[m, 2], of little and big.
      cost: float32[2], what is spent when little, when big answers, the second no less. Averages are as exact as float32.
      max_cost: scalar, per image on average.
    """
    images = len(score)
    gain = correct[:, 0].astype(jnp.int32) - correct[:, 1].astype(jnp.int32)  # by little answering instead of big
    score, gain = jax.lax.sort((score, gain), num_keys=1)
    none, stays = jnp.zeros(1, jnp.int32), jnp.arange(images + 1, dtype=jnp.int32)
    right = correct[:, 1].sum(dtype=jnp.int32) + gain.sum() - jnp.concatenate([none, jnp.cumsum(gain)])
    below, above = jnp.concatenate([jnp.zeros(1), score]), jnp.concatenate([score, jnp.full(1, jnp.inf)])
    average = ((images - stays).astype(jnp.float32) * cost[0] + stays.astype(jnp.float32) * cost[1]) / images
    allowed = (below < above) & (average <= max_cost)
    feasible = allowed.any()
    cheapest = jnp.where(below < above, average, jnp.inf).min()
    allowed = jnp.where(feasible, allowed, (below < above) & (average == cheapest))
    most = jnp.where(allowed, right, -1).max()
    spent = jnp.where(allowed & (right == most), average, -jnp.inf).max()
    return Point(most.astype(jnp.float32) / images, spent, feasible)


def of(
    evaluate: collect.Evaluator,
    variables: dict,
    table: PairTable,
    max_cost: float,
    *,
    cost_weight: float = 0.0,
) -> jax.tree_util.Partial:
    """fitness(genome int32[2 genes]) -> float32[]; -inf where no threshold keeps the budget. Pure, to be mapped, not vmapped.

        fitness = accuracy - cost_weight * average cost / cost of the largest subnet

    at the threshold that `best_point` finds. Each net runs masked on the largest, with statistics of its own, one after the
    other; little with little's head where the supernet has one. The function is a pytree whose leaves are the variables and the
    images: pass it to a jitted function as an argument, so that they are no constants of the program.

    Args:
      evaluate: whose images, labels, score and devices are used; they lie on every device.
      variables: the supernet's.
      table: in the unit of `max_cost`.
      max_cost: per image on average.

    Raises:
      ValueError: for a weight below 0.
    """
    if not cost_weight >= 0:
        raise ValueError(f"search.cost_weight is {cost_weight!r}, must be a number of at least 0")
    weight = cost_weight / table.nets.exact(table.space.space.largest)
    static = _Static(evaluate.supernet, evaluate.score, len(evaluate.split), table, weight)
    data = _at_every_resolution(evaluate), evaluate.data[-1]
    function = functools.partial(_fitness, static)
    return jax.tree_util.Partial(function, evaluate.placed(variables), *data, jnp.float32(max_cost))


class _Static(NamedTuple):
    supernet: Supernet
    score: Callable[[jax.Array], jax.Array]
    images: int  # of the split; what fills the last batch stands behind them
    table: PairTable
    weight: float


def _fitness(static, variables, resolutions, labels, max_cost, genome) -> jax.Array:
    answers = _answers(static, variables, resolutions, labels, genome)
    score, correct = answers.score[0, : static.images], answers.correct[:, : static.images].T
    point = best_point(score, correct, static.table.spent(genome), max_cost)
    return jnp.where(point.feasible, point.accuracy - static.weight * point.average_cost, -jnp.inf)


def _answers(static, variables, resolutions, labels, genome) -> collect.Answers:
    """The answers [2, images] of little, then of big, by one copy of the net in the program for each resolution."""
    supernet, halves = static.supernet, jnp.stack(static.table.space.halves(genome))
    roles = collect.roles(supernet, variables)

    def at(calibration, images, halves):
        def one(asked):
            half, role = asked
            own = jax.tree.map(lambda first, last: _either(role == 0, first, last), roles[0], roles[-1])
            return collect.answer_one(supernet, static.score, own, calibration, images, labels, half)

        return jax.lax.map(one, (halves, jnp.arange(len(NETS), dtype=jnp.int32)))

    if len(resolutions) == 1:
        return at(*resolutions[0], halves)
    which = genome[supernet.space.index("resolution")]
    return jax.lax.switch(which, [functools.partial(at, *data) for data in resolutions], halves)


def _either(first_wanted: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
    return last if first is last else jnp.where(first_wanted, first, last)


def _at_every_resolution(evaluate: collect.Evaluator) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """The images for statistics and those of the split, by the choices of the gene "resolution", or just as they are."""
    supernet, (calibration, images, _) = evaluate.supernet, evaluate.data
    space, found = supernet.space, []
    if "resolution" not in space:
        return ((calibration, images),)
    for choice in range(space.sizes[space.index("resolution")]):
        genome = space.largest
        genome[space.index("resolution")] = choice
        side = supernet.arch(genome).resolution
        resize = lambda batches, side=side: jax.lax.map(lambda batch: resized(batch, side), batches)  # noqa: E731
        program = processes.Together(jax.jit(resize, out_shardings=images.sharding))
        found.append((program(calibration), program(images)))
    return tuple(found)
