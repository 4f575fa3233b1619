"""Gradient-based search of relaxed genomes under a cost budget: weights and architecture learn in turn.

First-order bilevel optimisation (Liu et al. 2019, DARTS, arXiv 1806.09055, section 2.3 with xi = 0): each step the weights
take one on training images, the architecture as it stands; then the logits of the architecture take one on held-out images,
the weights as they stand. The genome is read off at the end. The effort is fixed, whatever the budget.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynnas_jax import relaxed
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.relaxed import Fitness
from dynnas_jax.search.evolution import Found
from dynnas_jax.search_space import SearchSpace

STEPS = 200
LEAST_CHANCE = 1e-6  # of a choice: below it all are as unlikely, when a genome is cut down to the budget


class _Settings(NamedTuple):
    steps: int
    learning_rate: float
    temperature: float
    final_temperature: float
    gumbel: bool
    over_weight: float


class _State(NamedTuple):
    logits: jax.Array  # float32[genes, most choices]
    optimizer: Any
    weights: Any  # the fitness's own state


class _Problem(NamedTuple):
    """What all steps of a search share and no step changes."""

    space: SearchSpace | PairSpace
    fitness: Fitness
    cost: Callable
    budget: jax.Array
    choices: np.ndarray


def run(
    key: jax.Array,
    space: SearchSpace | PairSpace,
    fitness: Fitness,
    cost: Callable[[jax.Array, Any], jax.Array],
    budget: jax.Array | float,
    tell: Callable[[jax.Array], None] = lambda _: None,
    *,
    steps: int = STEPS,
    learning_rate: float = 0.1,
    temperature: float = 1.0,
    final_temperature: float = 0.5,
    gumbel: bool = False,
    over_weight: float = 1.0,
    held: dict[str, int] | None = None,
    steps_per_call: int | None = None,
) -> Found:
    """Search for the genome, or the pair, of the best fitness whose cost is at most `budget`.

    The loss of the logits is - fitness + over_weight max(0, log(cost / budget)), by Adam. What is found is the likeliest
    choice of every gene. Where that breaks the budget it is repaired: choices are lowered one by one, each time the one that
    gives up the least likelihood for what it saves, until the budget holds or nothing is left to lower.

    Args:
      key: PRNG key.
      fitness: of relaxed genomes; its weight updates are taken once in a step, before the logits'.
      cost: (relaxed genome, what `fitness.value` tells beside it) -> float32 scalar, above 0.
      budget: scalar above 0, the largest cost allowed.
      tell: is called with the logits at the end, float32[genes, most choices] as `relaxed.chances` takes them.
      learning_rate: of the logits.
      temperature, final_temperature: of the softmax at the first and the last step, in between geometric.
      gumbel: whether Gumbel noise is added to the logits, anew for the weights and for the logits.
      held: genes that are not searched, by name, each at the index of a choice; the resolution must be one of them.
      steps_per_call: steps of a call of the compiled program; None: all, in one scan, and pure: wrap it in `jax.jit`. On a
        CPU, where the convolutions of a loop body are slow, 1 for networks.

    Returns:
      A `Found`; its fitness and cost are those of the genome as a one-hot relaxed one, by the weights as they are at the end.
      `history` float32[steps] is the fitness of the relaxed genome at each step: minus the loss on that step's held-out images.

    Raises:
      ValueError: for a setting outside its range, and as `relaxed.allowed`.
    """
    settings = _Settings(steps, learning_rate, temperature, final_temperature, gumbel, over_weight)
    _check(settings, steps_per_call)
    if isinstance(budget, (int, float)) and not budget > 0:
        raise ValueError(f"differentiable.run: budget is {budget}; it must be above 0")
    step_key, end_key = jax.random.split(key)
    choices = relaxed.allowed(space, held)
    problem = _Problem(space, fitness, cost, jnp.asarray(budget, jnp.float32), choices)
    logits = jnp.zeros(choices.shape, jnp.float32)
    state = _State(logits, _transform(settings).init(logits), fitness.start)
    state, history = _all_steps(problem, settings, state, step_key, steps_per_call)
    tell(state.logits)
    end = functools.partial(_end, problem)
    return (end if steps_per_call is None else jax.jit(end))(fitness.given, state, end_key, history)


def images_of(each: tuple[int, int], steps: int) -> int:
    """Images that a search of so many steps forwards, each counted once for every net that it runs through.

    Args:
      each: `Fitness.images`.
    """
    value, learn = each
    return steps * (value + learn) + 2 * value  # two: of the genome read off, and as it is repaired


def steps_for(each: tuple[int, int], images: int) -> int:
    """The most steps whose search forwards at most so many images.

    Raises:
      ValueError: where they do not suffice for one.
    """
    steps = (images - images_of(each, 0)) // sum(each)
    if steps < 1:
        raise ValueError(f"differentiable.run: {images} images are too few; one step takes {images_of(each, 1)}")
    return steps


def _transform(settings: _Settings) -> optax.GradientTransformation:
    # DARTS's moments: the first forgets fast, since the weights move meanwhile.
    return optax.adam(settings.learning_rate, b1=0.5, b2=0.999)


def _all_steps(
    problem: _Problem, settings: _Settings, state: _State, key: jax.Array, steps_per_call: int | None
) -> tuple[_State, jax.Array]:
    """The state after all steps, and float32[steps]."""

    def some(given, state, key, numbers):
        body = functools.partial(_step, problem, settings, given, key)
        # A single step stands outside any loop.
        return jax.lax.scan(body, state, numbers, unroll=len(numbers) == 1)

    given, numbers = problem.fitness.given, np.arange(settings.steps, dtype=np.int32)
    if steps_per_call is None:
        return some(given, state, key, jnp.asarray(numbers))
    program, history = jax.jit(some), []
    for start in range(0, settings.steps, steps_per_call):
        state, values = program(given, state, key, jnp.asarray(numbers[start : start + steps_per_call]))
        history.append(values)
    return state, jnp.concatenate(history)


def _step(
    problem: _Problem, settings: _Settings, given: Any, key: jax.Array, state: _State, number: jax.Array
) -> tuple[_State, jax.Array]:
    """One step of the weights, then one of the logits; and the fitness at the latter."""
    space, fitness, choices = problem.space, problem.fitness, problem.choices
    keys = jax.random.split(jax.random.fold_in(key, number), 4)
    done = number.astype(jnp.float32) / max(settings.steps - 1, 1)
    heat = settings.temperature * jnp.float32(settings.final_temperature / settings.temperature) ** done
    noise = keys[:2] if settings.gumbel else (None, None)
    weights = state.weights
    if fitness.learn is not None:
        weights = fitness.learn(given, weights, relaxed.chances(space, state.logits, choices, heat, noise[0]), keys[2])

    def loss(logits):
        genome = relaxed.chances(space, logits, choices, heat, noise[1])
        value, beside = fitness.value(given, weights, genome, keys[3])
        over = jnp.log(problem.cost(genome, beside) / problem.budget)
        return settings.over_weight * jax.nn.relu(over) - value, value

    gradient, value = jax.grad(loss, has_aux=True)(state.logits)
    # Weights that have diverged must not take the logits along.
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
    with jax.numpy_dtype_promotion("standard"):
        moves, optimizer = _transform(settings).update(gradient, state.optimizer)
    return _State(optax.apply_updates(state.logits, moves), optimizer, weights), value.astype(jnp.float32)


def _end(problem: _Problem, given: Any, state: _State, key: jax.Array, history: jax.Array) -> Found:
    """The genome read off the logits, within the budget where that can be had."""
    space = problem.space

    def valued(genome):
        value, beside = problem.fitness.value(given, state.weights, relaxed.one_hot(space, genome), key)
        return value.astype(jnp.float32), beside

    genome = relaxed.read_off(space, state.logits, problem.choices)
    _, beside = valued(genome)
    price = lambda genome: problem.cost(relaxed.one_hot(space, genome), beside).astype(jnp.float32)  # noqa: E731
    logits = jnp.where(jnp.asarray(problem.choices), state.logits, -jnp.inf)
    genome = repaired(space, genome, jax.nn.log_softmax(logits), price, problem.budget)
    value, beside = valued(genome)
    value = jnp.where(jnp.isnan(value), -jnp.inf, value)
    cost = problem.cost(relaxed.one_hot(space, genome), beside).astype(jnp.float32)
    return Found(space.canonical(genome), value, cost, cost <= problem.budget, history)


def repaired(
    space: SearchSpace | PairSpace,
    genome: jax.Array,
    log_chances: jax.Array,
    cost: Callable[[jax.Array], jax.Array],
    budget: jax.Array,
) -> jax.Array:
    """int32[genes]: a genome lowered, one choice at a time, until its cost is within the budget.

    Lowered is the gene that gives up the least log-chance for each unit of cost that it saves; one that saves nothing only
    where none does. A pair stays in order: with big's choice little's is lowered where it would exceed it.

    Args:
      log_chances: float[genes, most choices], -inf for what is not allowed.
      cost: genome -> float32 scalar.
    """
    count = len(space.sizes)
    lowered = jnp.eye(count, dtype=jnp.int32)
    likelihood = jnp.maximum(log_chances, np.log(LEAST_CHANCE))

    def lower(_, genome):
        now = cost(genome)
        others = jax.vmap(functools.partial(_in_order, space))(jnp.maximum(genome[None] - lowered, 0))
        saved = now - jax.vmap(cost)(others)
        lost = _of(likelihood, genome).sum() - jax.vmap(lambda other: _of(likelihood, other).sum())(others)
        # From a choice that is less likely than the one below it nothing is given up.
        rank = jnp.where(saved > 0, jnp.maximum(lost, 0) / jnp.maximum(saved, jnp.finfo(saved.dtype).tiny), jnp.inf)
        rank = jnp.where(jnp.isfinite(rank), rank, jnp.finfo(rank.dtype).max)
        permitted = jax.vmap(lambda other: (_of(log_chances, other) > -jnp.inf).all())(others)
        possible = permitted & (others != genome[None]).any(axis=1)
        best = jnp.where(possible, rank, jnp.inf).argmin()
        return jnp.where((now > budget) & possible.any(), others[best], genome)

    return jax.lax.fori_loop(0, sum(space.sizes) - count, lower, genome)


def _in_order(space: SearchSpace | PairSpace, genome: jax.Array) -> jax.Array:
    """The genome itself; of a pair, little cut down to big."""
    if not isinstance(space, PairSpace):
        return genome
    little, big = space.halves(genome)
    return space.ordered(jnp.concatenate([jnp.minimum(little, big), big]))


def _of(table: jax.Array, genome: jax.Array) -> jax.Array:
    """[genes]: each gene's entry of a table [genes, most choices] at its choice."""
    return jnp.take_along_axis(table, genome[:, None], axis=1)[:, 0]


def _check(settings: _Settings, steps_per_call: int | None) -> None:
    for name, value in (("steps", settings.steps), ("steps_per_call", 1 if steps_per_call is None else steps_per_call)):
        if value < 1:
            raise ValueError(f"differentiable.run: {name} is {value}; it must be at least 1")
    for name in ("learning_rate", "temperature", "final_temperature"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"differentiable.run: {name} is {getattr(settings, name)}; it must be above 0")
    if not settings.over_weight >= 0:
        raise ValueError(f"differentiable.run: over_weight is {settings.over_weight}; it must not be negative")
