"""Training the architecture generator on held-out images, the supernet frozen (EAS, arXiv 2108.01224, algorithm 1).

Each step a scenario is drawn, a task and a budget, a subnet for it, and a batch of the task's images; the loss is the
cross-entropy of the subnet, by masks on the largest net and the statistics of the batch, and how far its cost is from the budget.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dynnas_jax import relaxed
from dynnas_jax.elastic import Supernet
from dynnas_jax.search import generator
from dynnas_jax.search.generator import Generator, Shape
from dynnas_jax.train import losses

# The range of budgets in units of the cost term: of the paper's 150 to 550 million multiply-adds, a unit is a million.
RANGE = 400.0
FAINT = 1e-3  # how far gates that are closed are open, where the subnet is run


class Tasks(NamedTuple):
    """What the subnets are for: S sets of superclasses out of T, of C classes."""

    members: np.ndarray  # bool[S, T], what the generator is told
    kept: np.ndarray  # bool[S, C, C], for an image of each class (row) the logits of the task; none: not its image


class Fitted(NamedTuple):
    """A trained generator."""

    params: dict
    loss: np.ndarray  # float32[steps], cross-entropy of the drawn subnets
    distance: np.ndarray  # float32[steps], mean |cost - budget| / budget of all that was drawn
    seconds: float  # all steps, compilation included


class _Given(NamedTuple):
    """What the program has beside its state."""

    variables: dict
    images: jax.Array  # uint8[n, h, w, c]
    labels: jax.Array  # int32[n]
    members: jax.Array  # float32[S, T]
    kept: jax.Array  # bool[S, C, C]


class _Setting(NamedTuple):
    supernet: Supernet
    shape: Shape
    table: Any
    ends: tuple[float, float]
    batch_size: int
    beside: int  # images of other tasks
    scenarios: int
    cost_scenarios: int
    cost_weight: float
    temperature: float


def fit(
    key: jax.Array,
    supernet: Supernet,
    variables: dict,
    split: Any,
    tasks: Tasks,
    table: Any,
    shape: Shape,
    ends: tuple[float, float],
    tell: Callable[[int], None] = lambda _: None,
    *,
    steps: int,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    cost_weight: float = 0.01,
    temperature: float = 1.0,
    scenarios: int = 1,
    cost_scenarios: int = 0,
) -> Fitted:
    """A generator for the tasks and the budgets from ends[0] to ends[1], by Adam.

    Args:
      split: held-out images in memory, of the resolution that is searched.
      table: `costs.macs.CostTable` in the unit of the budgets.
      tell: called with the number of steps done.
      batch_size: images of a scenario, and as many of other tasks beside them, which count for the statistics of the norms
        alone; fewer where some task has fewer.
      cost_weight: lambda of equation 4, with costs in 1/400 of the range of budgets.
      temperature: of equation 9.
      scenarios: of a step, whose subnets are run; cost_scenarios: further ones, whose cost alone is learned.

    Raises:
      ValueError: for a number out of range, or a task without images.
    """
    check(steps, batch_size, learning_rate, cost_weight, temperature, scenarios, cost_scenarios)
    labels = np.asarray(split.labels, np.int32)
    images = _images_of_a_batch(tasks, labels, batch_size)
    setting = _Setting(supernet, shape, table, ends, *images, scenarios, cost_scenarios, cost_weight, temperature)
    given = _Given(variables, split.images, labels, tasks.members.astype(np.float32), tasks.kept)
    given = jax.tree.map(jnp.asarray, given)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    init_key, step_key = jax.random.split(key)
    params, history, start = generator.init(shape, init_key), [], time.perf_counter()
    state = params, optimizer.init(params)
    program = jax.jit(functools.partial(_step, setting, optimizer), donate_argnums=1)
    for number in range(steps):
        state, told = program(given, state, jax.random.fold_in(step_key, number))
        history.append(told)
        tell(number + 1)
    loss, distance = np.asarray(jax.device_get(history), np.float32).T
    return Fitted(jax.device_get(state[0]), loss, distance, time.perf_counter() - start)


def _images_of_a_batch(tasks: Tasks, labels: np.ndarray, batch_size: int) -> tuple[int, int]:
    """(images of a task, images of others beside them, of which there are none where every task has all).

    Raises:
      ValueError: for a task that has fewer than two.
    """
    fewest = int(tasks.kept.any(axis=2)[:, labels].sum(axis=1).min())
    if fewest < 2:
        raise ValueError(
            f"generator: a task has {fewest} held-out images, must have at least 2; give a larger data.holdout"
        )
    size = min(batch_size, fewest)
    return size, 0 if fewest == len(labels) else size


def _step(setting: _Setting, optimizer, given: _Given, state: tuple, key: jax.Array) -> tuple:
    params, moments = state
    gradient, told = jax.grad(functools.partial(_loss, setting, given), has_aux=True)(params, key)
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix integers and floats
        moves, moments = optimizer.update(gradient, moments, params)
    return (optax.apply_updates(params, moves), moments), told


def _loss(setting: _Setting, given: _Given, params: dict, key: jax.Array) -> tuple[jax.Array, tuple]:
    """Equation 4, the mean over the scenarios of a step."""
    task_key, budget_key, gate_key, image_key = jax.random.split(key, 4)
    count = setting.scenarios + setting.cost_scenarios
    least, most = setting.ends
    task = jax.random.randint(task_key, (count,), 0, len(given.members), dtype=jnp.int32)
    place = jax.random.uniform(budget_key, (count,))
    logits = Generator(setting.shape).apply({"params": params}, given.members[task], place)
    draw = functools.partial(generator.relaxed_genome, setting.shape, temperature=setting.temperature)
    genomes = jax.vmap(draw)(logits, jax.random.split(gate_key, count))
    cost = jax.vmap(functools.partial(relaxed.expected_cost, setting.table))(genomes)
    budget = least + place * (most - least)
    distance = (cost - budget) * (RANGE / (most - least))
    wrong = jnp.zeros((), jnp.float32)
    # Unrolled: XLA runs the convolutions of a loop body on a CPU several times slower.
    for number in range(setting.scenarios):
        own = jax.random.fold_in(image_key, number)
        wrong = wrong + _validation_loss(setting, given, genomes[number], task[number], own)
    wrong = wrong / setting.scenarios
    total = wrong + setting.cost_weight * (distance**2).mean()
    return total, (wrong, jnp.abs(cost / budget - 1).mean())


def _validation_loss(setting: _Setting, given: _Given, genome: jax.Array, task: jax.Array, key: jax.Array) -> jax.Array:
    """The cross-entropy of one subnet on images of its task, by the logits of the task alone."""
    kept = given.kept[task]
    mine = kept.any(axis=1)[given.labels]
    chance = jax.random.uniform(key, mine.shape)
    # As many as a batch has, no image twice, all of the task's.
    picked = jax.lax.top_k(jnp.where(mine, chance, -1.0), setting.batch_size)[1]
    labels = given.labels[picked]
    if setting.beside:
        picked = jnp.concatenate([picked, jax.lax.top_k(jnp.where(mine, -1.0, chance), setting.beside)[1]])
    # At a gate that is quite closed ReLU has no slope, and what it shuts would not be heard of.
    exists = np.arange(genome.shape[1]) < np.asarray(setting.supernet.space.sizes)[:, None]
    faint = jnp.asarray(FAINT * exists / exists.sum(axis=1, keepdims=True), genome.dtype)
    masked = relaxed.mask_variables(setting.supernet, given.variables, (1 - FAINT) * genome + faint)
    net = setting.supernet.largest_net()
    (logits, _), _ = net.apply(masked, given.images[picked], True, mutable=["batch_stats"])
    return losses.cross_entropy(logits[: setting.batch_size], labels, kept=kept[labels])


def check(steps, batch_size, learning_rate, cost_weight, temperature, scenarios, cost_scenarios) -> None:
    """Raises ValueError for an argument of `fit` that is out of range."""
    counted = {"steps": (steps, 1), "batch_size": (batch_size, 2), "scenarios": (scenarios, 1)}
    for name, (value, least) in {**counted, "cost_scenarios": (cost_scenarios, 0)}.items():
        if value < least:
            raise ValueError(f"generator.{name} is {value}, must be at least {least}")
    if not cost_weight >= 0:
        raise ValueError(f"generator.cost_weight is {cost_weight}, must not be negative")
    for name, value in (("learning_rate", learning_rate), ("temperature", temperature)):
        if not value > 0:
            raise ValueError(f"generator.{name} is {value}, must be above 0")
