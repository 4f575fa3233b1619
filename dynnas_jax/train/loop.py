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

from dynnas_jax import channel_sorting
from dynnas_jax.data.resize import resized
from dynnas_jax.elastic import Supernet, init_supernet
from dynnas_jax.train import checkpoints, feed, metrics, state
from dynnas_jax.train.distillation import Teacher
from dynnas_jax.train.progressive_shrinking import Phases
from dynnas_jax.train.sandwich import Given
from dynnas_jax.train.state import TrainState

BATCH_SIZE = 128


def data_mesh(devices: int | None = None) -> jax.sharding.Mesh:
    """A mesh with the one axis "data" over `devices` devices, all of them by default."""
    return jax.make_mesh((devices or jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def drawn_resolution(supernet: Supernet, step: int, seed: int, phases: Phases | None = None) -> int | None:
    """The resolution of a step, in pixels: all subnets of a step share one. None where the space has no such gene."""
    if "resolution" not in supernet.space:
        return None
    index = supernet.space.index("resolution")
    least = 0 if phases is None else int(phases.on_host(step).least[index])
    return int(np.random.default_rng([seed, 3, step]).choice(supernet.space.genes[index].choices[least:]))


def make_step(
    supernet: Supernet,
    rule: Callable,
    transform: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    augment: Callable | None = None,
    mix: Callable | None = None,
    ema_decay: float = 0.999,
    phases: Phases | None = None,
    answers: Callable | None = None,
) -> Callable:
    """step(state, images, labels, indices, key, teacher=None, resolution=None) -> (state, metrics), jitted.

    The state is donated. Images, labels and indices are those of a `feed.Fed`; `teacher` are the variables that `answers` takes.

    The resolution is static: one program for each; None is that of the images. The images of the step are gathered, augmented
    and mixed as one global batch, whatever the number of devices, then each device takes its part; statistics and gradients
    are means over the mesh.
    """
    objective = rule(supernet, "data", answers)
    split, whole = PartitionSpec("data"), PartitionSpec()

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(whole, split, split, whole, split), out_specs=whole, check_vma=False
    )
    def update(given, images, labels, key, mixed):
        return jax.lax.pmean(objective(given, images, labels, key, **mixed), "data")

    def step(current: TrainState, images, labels, indices, key, teacher=None, resolution=None):
        augment_key, rule_key, mix_key = jax.random.split(jax.random.fold_in(key, current.step), 3)
        batch, own = (images, labels) if indices is None else (images[indices], labels[indices])
        if augment is not None:
            batch = augment(augment_key, batch)
        if resolution is not None:
            batch = resized(batch, resolution)
        mixed = {}
        if mix is not None:
            batch, mixed["targets"] = mix(mix_key, batch, jax.nn.one_hot(own, supernet.largest_net().arch.classes))
        allowed = None if phases is None else phases.at(current.step)
        made = update(Given(current.variables, current.ema, teacher, allowed), batch, own, rule_key, mixed)
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
        bad = (current.bad_step < 0) & ~jnp.isfinite(made.metrics["loss"])
        bad_step = jnp.where(bad, current.step, current.bad_step)
        logged = {**made.metrics, "gradient_norm": optax.tree.norm(made.gradient)}
        variables = {"params": params, "batch_stats": made.batch_stats}
        return TrainState(done, variables, ema, optimizer, bad_step), logged

    return jax.jit(step, donate_argnums=0, static_argnames="resolution")


def fit(
    supernet: Supernet,
    train: Any,
    rule: Callable,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    optimizer: dict | None = None,
    augment: Callable | None = None,
    mix: Callable | None = None,
    ema_decay: float = 0.999,
    initial: dict | None = None,
    phases: Phases | None = None,
    teacher: Teacher | None = None,
    mesh: jax.sharding.Mesh | None = None,
    directory: Path | None = None,
    checkpoint_every: int = 100,
    log_every: int = 10,
    evaluate: Callable[[dict], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    trackers: tuple[str, ...] | None = None,
    wandb: dict | None = None,
    config: dict | None = None,
) -> TrainState:
    """Trains a supernet on a split (uint8 images, integer labels), which stays on the devices or is streamed to them.

    Args:
      rule: what makes a gradient of a batch, such as `sandwich.rule()`.
      optimizer: keyword arguments of `state.optimizer`.
      augment: (key, uint8 images) -> uint8 images.
      initial: variables of the largest net to start from, instead of random ones; a resumed run has its own.
      mix: (key, uint8 images, one-hot labels) -> uint8 images, targets; such as `mixing.rule(mixup=0.2)`.
      phases: what progressive shrinking leaves free, of `progressive_shrinking.schedule`.
      teacher: the net trained before whose answers a rule with that teacher learns.
      directory: for checkpoints and metrics.jsonl; a run found there is resumed. Nothing is written without it.
      evaluate: called with variables (averaged params) every `evaluate_every` steps and at the end.
      trackers: names of `metrics.TRACKERS` that follow metrics.jsonl; by default "tensorboard" where its extra is installed.
      wandb: keyword arguments of `metrics.weights_and_biases`.
      config: of the whole run, for the trackers.

    Raises:
      ValueError: if the batch does not divide over the devices or exceeds the split, if `initial` is of another net, if the
        loss is not finite (the step and the last good checkpoint are named), or for trackers that `metrics.chosen` refuses.
    """
    mesh = mesh or data_mesh()
    check(steps, batch_size, len(train), mesh)
    trackers = metrics.chosen(trackers, wandb)
    optimizer = state.optimizer(steps, **(optimizer or {}), starts=(0,) if phases is None else phases.starts)
    key, whole = jax.random.key(seed), NamedSharding(mesh, PartitionSpec())
    store = checkpoints.Store(directory, every=checkpoint_every) if directory else None
    current = _begin(supernet, train.images.shape[1:], key, optimizer, store, whole, initial)
    answers, teacher = teacher or (None, None)
    options = {"augment": augment, "mix": mix, "ema_decay": ema_decay, "phases": phases, "answers": answers}
    step = make_step(supernet, rule, optimizer.transform, mesh, **options)
    teacher = jax.device_put(teacher, whole)
    first, step_key = int(current.step), jax.random.fold_in(key, 1)
    fed = feed.feed(train, batch_size, range(first, steps), seed, mesh)
    log = metrics.Log(directory, first, trackers=trackers, wandb=wandb, config=config)
    watch = _Stopwatch(first)
    # A run that stops early leaves its newest checkpoint complete too.
    with log, store or contextlib.nullcontext(), tqdm(total=steps, initial=first, desc="train", unit="step") as bar:
        for number, batch in zip(range(first, steps), fed, strict=True):
            current = _sorted(supernet, current, number, phases)
            resolution = drawn_resolution(supernet, number, seed, phases)
            current, values = step(current, *batch, step_key, teacher, resolution=resolution)
            done = number + 1
            if done % log_every == 0 or done == steps:
                row = _row(values, number, optimizer, phases)
                _stop_if_bad(current, store)
                log.write(done, {**row, "images_per_s": batch_size * watch.steps_per_s(done)})
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            if evaluate and (done == steps or (evaluate_every and done % evaluate_every == 0)):
                log.write(done, evaluate(averaged(current)))
                watch.restart(done)
            if store and (store.due(done) or done == steps):
                _stop_if_bad(current, store)
                store.save(done, current)
            bar.update()
    return current


def _row(values: dict, step: int, optimizer: state.Optimizer, phases: Phases | None) -> dict[str, float]:
    """What the step with this number measured, once it is done, and its learning rate."""
    measured = {name: float(value) for name, value in values.items()}
    if math.isnan(measured.get("loss_random", 0.0)) and not math.isnan(measured["loss"]):  # none took part
        del measured["loss_random"]
    factor = 1.0 if phases is None else float(phases.on_host(step).learning_rate)
    return {**measured, "learning_rate": factor * float(optimizer.learning_rate(step))}


def _sorted(supernet: Supernet, current: TrainState, step: int, phases: Phases | None) -> TrainState:
    """The state with its channels in the order of their importance, if the phase that begins at this step wants it."""
    if phases is None or not phases.sort_channels or step not in phases.first_step:
        return current
    genes = sorted({gene for group in channel_sorting.groups(supernet) for gene in group.genes})
    least = phases.sorted_before(step, genes)
    if least is None:
        return current
    sort = jax.jit(lambda x: channel_sorting.sort(supernet, x.variables["params"], x, least), donate_argnums=0)
    return sort(current)


def _begin(supernet, image_shape, key, optimizer, store, sharding, initial) -> TrainState:
    """The state of the newest checkpoint, else a fresh one."""

    def fresh(key):
        return state.create(_first_variables(supernet, key, image_shape, initial), optimizer.transform)

    found = store.latest(jax.eval_shape(fresh, key), sharding) if store else None
    return jax.device_put(fresh(jax.random.fold_in(key, 0)), sharding) if found is None else found


def _first_variables(supernet: Supernet, key: jax.Array, image_shape: tuple, initial: dict | None) -> dict:
    """What a fresh run starts from."""
    if initial is None:
        return init_supernet(supernet, key, image_shape)
    wanted = jax.eval_shape(functools.partial(init_supernet, supernet, image_shape=image_shape), key)
    if jax.tree.map(jnp.shape, initial) != jax.tree.map(jnp.shape, wanted):
        raise ValueError("train: the initial variables are not those of this supernet's largest net")
    # Copies: the state's buffers are donated, and these are the caller's.
    return jax.tree.map(lambda leaf, shape: jnp.array(leaf, shape.dtype), initial, wanted)


class _Stopwatch:
    """The speed between two looks at it."""

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        """Leaves out the time until now."""
        self._step, self._time = step, time.perf_counter()

    def steps_per_s(self, step: int) -> float:
        """Since the last look or restart."""
        speed = (step - self._step) / (time.perf_counter() - self._time)
        self.restart(step)
        return speed


def averaged(current: TrainState) -> dict:
    """The variables to use after training: averaged params; the statistics want recalibration."""
    return {"params": current.ema, "batch_stats": current.variables["batch_stats"]}


def check(steps: int, batch_size: int, length: int, mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError for steps or a batch that do not fit the images or the devices."""
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
