"""The training loop: one jitted step over a ('data',) mesh, metrics, checkpoints, resume."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tqdm import tqdm

from dynnas_jax.elastic import Supernet, init
from dynnas_jax.train import checkpoints, metrics, state
from dynnas_jax.train.state import TrainState


def data_mesh(devices: int | None = None) -> jax.sharding.Mesh:
    """A mesh with the one axis "data" over `devices` devices, all of them by default."""
    return jax.make_mesh((devices or jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def batch_indices(length: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """int32[batch_size]: the images of a step. Epoch after epoch is shuffled anew, and every image has its turn in each."""
    first = step * batch_size
    epochs = range(first // length, (first + batch_size - 1) // length + 1)
    order = np.concatenate([_shuffled(length, seed, epoch) for epoch in epochs])
    start = first - epochs[0] * length
    return order[start : start + batch_size]


@functools.lru_cache(maxsize=4)
def _shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 2, epoch]).permutation(length).astype(np.int32)


def make_step(
    supernet: Supernet,
    rule: Callable,
    transform: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    augment: Callable | None = None,
    mix: Callable | None = None,
    ema_decay: float = 0.999,
) -> Callable:
    """step(state, images, labels, indices, key) -> (state, metrics), jitted; the state is donated.

    The images of the step are gathered, augmented and mixed as one global batch, whatever the number of devices, then each
    device takes its part; statistics and gradients are means over the mesh.
    """
    objective = rule(supernet, "data")
    split, whole = PartitionSpec("data"), PartitionSpec()

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(whole, split, split, whole, split), out_specs=whole, check_vma=False
    )
    def update(variables, images, labels, key, mixed):
        return jax.lax.pmean(objective(variables, images, labels, key, **mixed), "data")

    def step(current: TrainState, images, labels, indices, key):
        augment_key, rule_key, mix_key = jax.random.split(jax.random.fold_in(key, current.step), 3)
        batch = images[indices]
        if augment is not None:
            batch = augment(augment_key, batch)
        own, mixed = labels[indices], {}
        if mix is not None:
            batch, mixed["targets"] = mix(mix_key, batch, jax.nn.one_hot(own, supernet.largest_net().arch.classes))
        made = update(current.variables, batch, own, rule_key, mixed)
        params = current.variables["params"]
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix integers and floats
            moves, optimizer = transform.update(made.gradient, current.optimizer, params)
        params = optax.apply_updates(params, moves)
        done = current.step + 1
        # A young average forgets its start quickly.
        decay = jnp.minimum(ema_decay, (1 + done) / (10 + done)).astype(jnp.float32)
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, current.ema, params)
        bad = (current.bad_step < 0) & ~jnp.isfinite(made.metrics["loss"])
        bad_step = jnp.where(bad, current.step, current.bad_step)
        logged = {**made.metrics, "gradient_norm": optax.tree.norm(made.gradient)}
        variables = {"params": params, "batch_stats": made.batch_stats}
        return TrainState(done, variables, ema, optimizer, bad_step), logged

    return jax.jit(step, donate_argnums=0)


def fit(
    supernet: Supernet,
    train: Any,
    rule: Callable,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 128,
    optimizer: dict | None = None,
    augment: Callable | None = None,
    mix: Callable | None = None,
    ema_decay: float = 0.999,
    mesh: jax.sharding.Mesh | None = None,
    directory: Path | None = None,
    checkpoint_every: int = 100,
    log_every: int = 10,
    evaluate: Callable[[dict], dict[str, float]] | None = None,
    evaluate_every: int = 0,
) -> TrainState:
    """Trains a supernet on a split (uint8 images, integer labels), which stays on the devices.

    Args:
      rule: what makes a gradient of a batch, such as `sandwich.rule()`.
      optimizer: keyword arguments of `state.optimizer`.
      augment: (key, uint8 images) -> uint8 images.
      mix: (key, uint8 images, one-hot labels) -> uint8 images, targets; such as `mixing.rule(mixup=0.2)`.
      directory: for checkpoints and metrics.jsonl; a run found there is resumed. Nothing is written without it.
      evaluate: called with variables (averaged params) every `evaluate_every` steps and at the end.

    Raises:
      ValueError: if the batch does not divide over the devices or exceeds the split, or if the loss is not finite (the step
        and the last good checkpoint are named).
    """
    mesh = mesh or data_mesh()
    _check(steps, batch_size, len(train), mesh)
    settings = optimizer or {}
    transform = state.optimizer(steps, **settings)
    key = jax.random.key(seed)
    whole = NamedSharding(mesh, PartitionSpec())

    def fresh(key):
        return state.create(init(supernet.largest_net(), key, train.images.shape[1:]), transform)

    store = checkpoints.Store(directory, every=checkpoint_every) if directory else None
    current = store.latest(jax.eval_shape(fresh, key), whole) if store else None
    current = jax.device_put(fresh(jax.random.fold_in(key, 0)), whole) if current is None else current
    step = make_step(supernet, rule, transform, mesh, augment=augment, mix=mix, ema_decay=ema_decay)
    images, labels = (jax.device_put(x, whole) for x in (train.images, train.labels.astype(np.int32)))
    log = metrics.Log(directory, int(current.step))
    rate = state.schedule(steps, **{k: v for k, v in settings.items() if k in ("learning_rate", "warm_up")})
    step_key = jax.random.fold_in(key, 1)
    clock, logged = time.perf_counter(), int(current.step)

    # A run that stops early leaves its newest checkpoint complete too.
    with (
        log,
        store or contextlib.nullcontext(),
        tqdm(total=steps, initial=int(current.step), desc="train", unit="step") as bar,
    ):
        for number in range(int(current.step), steps):
            indices = jnp.asarray(batch_indices(len(train), batch_size, number, seed))
            current, values = step(current, images, labels, indices, step_key)
            done = number + 1
            if done % log_every == 0 or done == steps:
                row = {name: float(value) for name, value in values.items()}
                _stop_if_bad(current, store)
                elapsed, clock = time.perf_counter() - clock, time.perf_counter()
                speed = (done - logged) * batch_size / elapsed
                logged = done
                log.write(done, {**row, "learning_rate": float(rate(number)), "images_per_s": speed})
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            if evaluate and (done == steps or (evaluate_every and done % evaluate_every == 0)):
                log.write(done, evaluate(averaged(current)))
                clock, logged = time.perf_counter(), done
            if store and (store.due(done) or done == steps):
                _stop_if_bad(current, store)
                store.save(done, current)
            bar.update()
    return current


def averaged(current: TrainState) -> dict:
    """The variables to use after training: averaged params; the statistics want recalibration."""
    return {"params": current.ema, "batch_stats": current.variables["batch_stats"]}


def _check(steps: int, batch_size: int, length: int, mesh: jax.sharding.Mesh) -> None:
    if steps < 1:
        raise ValueError(f"train: steps is {steps}, must be at least 1")
    if batch_size > length:
        raise ValueError(f"train: batch_size {batch_size} exceeds the {length} training images")
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(f"train: batch_size {batch_size} does not divide over {mesh.size} devices")


def _stop_if_bad(current: TrainState, store: Any) -> None:
    """Raises ValueError if some step's loss was not finite, or the params are not; such a state is never saved."""
    if int(current.bad_step) >= 0:
        what = f"the loss of step {int(current.bad_step)} is not finite"
    elif not math.isfinite(float(jax.jit(optax.tree.norm)(current.ema))):
        what = f"the averaged params are not finite at step {int(current.step)}"
    else:
        return
    good = store.latest_step() if store else None
    kept = f"the last good checkpoint is of step {good}" if good is not None else "there is no checkpoint yet"
    raise ValueError(f"train: {what}; {kept}. A lower learning_rate often helps")
