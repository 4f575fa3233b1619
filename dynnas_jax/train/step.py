"""The training step: one jitted program over a mesh, for one step or for several in a row."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dynnas_jax.data.resize import resized
from dynnas_jax.devices import DATA, SUBNET
from dynnas_jax.elastic import Supernet
from dynnas_jax.train import incidents
from dynnas_jax.train.progressive_shrinking import Phases
from dynnas_jax.train.rules import Given
from dynnas_jax.train.state import TrainState


def make_step(
    supernet: Supernet,
    rule: Callable,
    transform: optax.GradientTransformation,
    mesh: Mesh,
    *,
    augment: Callable | None = None,
    mix: Callable | None = None,
    drop: Callable | None = None,
    ema_decay: float = 0.999,
    phases: Phases | None = None,
    answers: Callable | None = None,
    spike_factor: float = 0.0,
    steps_in_all: int | None = None,
) -> Callable:
    """step(state, images, labels, indices, key, teacher=None, resolution=None, pool=None) -> (state, metrics), jitted.

    The state is donated. Images, labels and indices are those of a `feed.Fed`; `teacher` are the variables that `answers` takes.
    Indices int32[k, b] are those of k steps, done in a row by one call; every metric is then float32[k].

    The resolution and the pool (of `rules.Rule`) are static: one program for each; a resolution of None is that of the
    images. What is drawn for the images of a step is drawn
    for the global batch, whatever the number of devices, and each device makes its own part; statistics and gradients are means
    over the mesh.
    """
    shared = {"subnet_axis": SUBNET} if SUBNET in mesh.axis_names else {}
    objective = rule(supernet, DATA, answers, **shared)
    part, whole = PartitionSpec(DATA), PartitionSpec()

    def update(given, images, labels, key, mixed, static):
        @functools.partial(
            jax.shard_map, mesh=mesh, in_specs=(whole, part, part, whole, part), out_specs=whole, check_vma=False
        )
        def on_each(given, images, labels, key, mixed):
            return jax.lax.pmean(objective(given, images, labels, key, **mixed, **static), DATA)

        return on_each(given, images, labels, key, mixed)

    def apart(tree):
        """Every device has, and computes, its part of the batch only."""
        return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, part))

    def step(current: TrainState, images, labels, indices, key, teacher, resolution, pool):
        augment_key, rule_key, mix_key = jax.random.split(jax.random.fold_in(key, current.step), 3)
        batch, own = apart((images, labels) if indices is None else (images[indices], labels[indices]))
        if augment is not None:
            batch = apart(augment(augment_key, batch))
        if resolution is not None:
            batch = resized(batch, resolution)
        mixed = {}
        if mix is not None:
            one_hot = jax.nn.one_hot(own, supernet.largest_net().arch.classes)
            batch, mixed["targets"] = apart(mix(mix_key, batch, one_hot))
        if drop is not None:
            drop_key, learned = jax.random.fold_in(rule_key, 1), mixed.get("targets", own)
            mixed["kept"] = apart(drop(drop_key, learned))
        allowed = None if phases is None else phases.at(current.step)
        static = {} if pool is None else {"pool": pool}
        progress = None if steps_in_all is None else current.step.astype(jnp.float32) / steps_in_all
        given = Given(current.variables, current.ema, teacher, allowed, progress)
        made = update(given, batch, own, rule_key, mixed, static)
        return _moved(current, made, transform, allowed, ema_decay, spike_factor)

    def steps(current: TrainState, images, labels, indices, key, teacher=None, resolution=None, pool=None):
        run = functools.partial(step, key=key, teacher=teacher, resolution=resolution, pool=pool)
        if indices is None or indices.ndim == 1:
            return run(current, images, labels, indices)
        return jax.lax.scan(lambda carry, batch: run(carry, images, labels, batch), current, indices)

    return jax.jit(steps, donate_argnums=0, static_argnames=("resolution", "pool"))


def _moved(
    current: TrainState, made, transform, allowed, ema_decay, spike_factor
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after an update of `rules.Update`, and what is logged of it."""
    params = current.variables["params"]
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix integers and floats
        moves, optimizer = transform.update(made.gradient, current.optimizer, params)
    if allowed is not None:
        moves = jax.tree.map(lambda move: allowed.learning_rate * move, moves)
    params = optax.apply_updates(params, moves)
    done = current.step + 1
    # A young average forgets its start quickly.
    decay = jnp.minimum(ema_decay, (1 + done) / (10 + done)).astype(jnp.float32)
    ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, current.ema, params)
    watched = incidents.watched(current, made.metrics["loss"], spike_factor=spike_factor)
    logged = {**made.metrics, "gradient_norm": optax.tree.norm(made.gradient)}
    variables = {"params": params, "batch_stats": made.batch_stats}
    return TrainState(done, variables, ema, optimizer, **watched), logged
