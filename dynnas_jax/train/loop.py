"""The training loop: calls of one jitted step over a mesh of all devices, metrics, checkpoints, resume."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from dynnas_jax import channel_sorting, devices, processes
from dynnas_jax.data.streams import Streamed
from dynnas_jax.elastic import Supernet, init_supernet
from dynnas_jax.train import checkpoints, feed, incidents, metrics, preemption, state, watch
from dynnas_jax.train.distillation import Teacher
from dynnas_jax.train.progressive_shrinking import Phases
from dynnas_jax.train.state import TrainState
from dynnas_jax.train.step import make_step
from dynnas_jax.train.stopwatch import Stopwatch

BATCH_SIZE = 128
STEPS_PER_CALL = 8


def drawn_resolution(supernet: Supernet, step: int, seed: int, phases: Phases | None = None) -> int | None:
    """The resolution of a step, in pixels: all subnets of a step share one. None where the space has no such gene."""
    if "resolution" not in supernet.space:
        return None
    index = supernet.space.index("resolution")
    least = 0 if phases is None else int(phases.on_host(step).least[index])
    return int(np.random.default_rng([seed, 3, step]).choice(supernet.space.genes[index].choices[least:]))


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
    steps_per_call: int | None = None,
    directory: Path | None = None,
    checkpoint_every: int = 100,
    log_every: int = 10,
    evaluate: Callable[[dict], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    trackers: tuple[str, ...] | None = None,
    wandb: dict | None = None,
    config: dict | None = None,
    spike_factor: float = 0.0,
    on_incident: str = "stop",
    most_roll_backs: int = 3,
    heartbeat_s: float = 60.0,
    genomes: Callable[[jax.Array, int], list] | None = None,
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
      steps_per_call: done in a row by one call of the program, so that the devices do not wait for the host; None: one on a
        CPU, `STEPS_PER_CALL` elsewhere. One for streamed images, and where steps have resolutions of their own.
      directory: for checkpoints and metrics.jsonl; a run found there is resumed. Nothing is written without it.
      evaluate: called with variables (averaged params) every `evaluate_every` steps and at the end.
      trackers: names of `metrics.TRACKERS` that follow metrics.jsonl; by default "tensorboard" where its extra is installed.
      wandb: keyword arguments of `metrics.weights_and_biases`.
      config: of the whole run, for the trackers.
      spike_factor, on_incident, most_roll_backs: see `incidents.rule`.
      heartbeat_s: see `watch.Heartbeat`.
      genomes: (key of the steps, step) -> JSON-able subnets of a step, for the report of an incident.

    Raises:
      ValueError: if the batch does not divide over the devices or exceeds the split, if `initial` is of another net, if the
        loss is not finite (the step and the last good checkpoint are named), or for trackers that `metrics.chosen` refuses.
    """
    how = incidents.rule(spike_factor=spike_factor, on_incident=on_incident, most_roll_backs=most_roll_backs)
    mesh = mesh or devices.data_mesh()
    check(steps, batch_size, len(train), mesh)
    trackers = metrics.chosen(trackers, wandb)
    optimizer = state.optimizer(steps, **(optimizer or {}), starts=(0,) if phases is None else phases.starts)
    key, (answers, teacher) = jax.random.key(seed), teacher or (None, None)
    teacher = devices.replicated(mesh, teacher)
    options = {"augment": augment, "mix": mix, "ema_decay": ema_decay, "phases": phases, "answers": answers}
    options["spike_factor"] = how.spike_factor
    step = make_step(supernet, rule, optimizer.transform, mesh, **options)

    def attempt(roll_backs):
        store = checkpoints.Store(directory, every=checkpoint_every) if directory else None
        current, extra = _begin(supernet, train.images.shape[1:], key, optimizer, store, mesh, initial, roll_backs)
        roll_backs = int(current.roll_backs)
        own_seed, best = incidents.other_seed(seed, roll_backs), extra.get("best")
        first, step_key = int(current.step), incidents.other_key(jax.random.fold_in(key, 1), roll_backs)
        together = _together(steps_per_call, supernet, train)
        cuts = (checkpoint_every if store else 0, evaluate_every if evaluate else 0)
        plan = feed.calls(first, steps, together, cuts, () if phases is None else phases.first_step.tolist())
        fed = feed.feed(train, batch_size, plan, own_seed, mesh)
        log = metrics.Log(directory, first, trackers=trackers, wandb=wandb, config=config)
        stopwatch, heart = Stopwatch(first), watch.Heartbeat(directory, first, steps, batch_size, every_s=heartbeat_s)

        def stop_if_bad():
            if incident := incidents.found(current):
                indices = feed.batch_indices(len(train), batch_size, incident.step, own_seed).tolist()
                drawn = genomes(step_key, incident.step) if genomes else None
                newest = store.latest_step() if store else None
                incidents.settle(incident, how, newest, directory, image_indices=indices, genomes=drawn)

        bar = tqdm(total=steps, initial=first, desc="train", unit="step", disable=not processes.is_first())
        # A run that stops early leaves its newest checkpoint complete too.
        with contextlib.closing(stopwatch), log, store or contextlib.nullcontext(), bar, preemption.notice() as asked:
            for call, batch in zip(plan, fed, strict=True):
                current = _sorted(supernet, current, call.start, phases)
                resolution = drawn_resolution(supernet, call.start, own_seed, phases)
                stopwatch.begins()
                current, values = step(current, *batch, step_key, teacher, resolution=resolution)
                stopwatch.dispatched(values["loss"])
                done = call.stop
                if rows := _rows(values, call, log_every, steps, optimizer, phases):
                    stop_if_bad()
                    speed = stopwatch.look(done)
                    for number, row in rows.items():
                        log.write(
                            number,
                            {**row, "images_per_s": batch_size * speed.steps_per_s, "wait_share": speed.wait_share},
                        )
                    heart.beat(done, speed, row["loss"])
                    bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                if evaluate and (done == steps or (evaluate_every and done % evaluate_every == 0)):
                    measured = evaluate(averaged(current))
                    log.write(done, measured)
                    best = _better(best, done, measured)
                    stopwatch.restart(done)
                preempted = asked()
                if store and (store.due(done) or done == steps or preempted):
                    stop_if_bad()
                    store.save(done, current, {"best": best})
                if preempted:
                    if store:
                        store.wait()
                    raise preemption.Preempted(
                        f"terminated after step {done} of {steps}; the same command goes on from there"
                    )
                bar.update(len(call))
        return current

    roll_backs = None
    while True:
        try:
            return attempt(roll_backs)
        except incidents.RollBack as wanted:
            roll_backs = wanted.roll_backs


def _better(best: dict | None, step: int, measured: dict[str, float]) -> dict:
    """The best held-out accuracy of the largest so far, and where it was."""
    accuracy = measured.get("holdout_accuracy_largest", 0.0)
    return {"step": step, "accuracy": accuracy} if best is None or accuracy > best["accuracy"] else best


def _together(steps_per_call: int | None, supernet: Supernet, train: Any) -> int:
    """Steps of a call; one where each has its own resolution, or images that are not on the devices yet."""
    if "resolution" in supernet.space or isinstance(train.images, Streamed):
        return 1
    if steps_per_call is not None:
        return steps_per_call
    # On a CPU the convolutions of a loop body are several times slower; elsewhere dispatch would be waited for.
    return 1 if jax.default_backend() == "cpu" else STEPS_PER_CALL


def _rows(
    values: dict, call: range, log_every: int, steps: int, optimizer: state.Optimizer, phases: Phases | None
) -> dict[int, dict[str, float]]:
    """The rows of those steps of a call that are logged, by the number of steps then done."""
    logged = [step for step in call if (step + 1) % log_every == 0 or step + 1 == steps]
    if not logged:
        return {}
    values = jax.device_get(values)
    one = lambda step: {name: np.atleast_1d(value)[step - call.start] for name, value in values.items()}  # noqa: E731
    return {step + 1: _row(one(step), step, optimizer, phases) for step in logged}


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


def _begin(supernet, image_shape, key, optimizer, store, mesh, initial, roll_backs) -> tuple[TrainState, dict]:
    """The state of the newest checkpoint, else a fresh one."""

    def fresh(key):
        return state.create(_first_variables(supernet, key, image_shape, initial), optimizer.transform)

    whole = NamedSharding(mesh, PartitionSpec())
    read = None if store is None else store.latest if roll_backs is None else store.roll_back
    found = read(jax.eval_shape(fresh, key), whole) if read else None
    start, extra = found or (devices.replicated(mesh, fresh(jax.random.fold_in(key, 0))), {})
    if roll_backs is not None:
        start = start._replace(roll_backs=devices.replicated(mesh, jnp.int32(roll_backs)))
    return start, extra


def _first_variables(supernet: Supernet, key: jax.Array, image_shape: tuple, initial: dict | None) -> dict:
    """What a fresh run starts from."""
    if initial is None:
        return init_supernet(supernet, key, image_shape)
    wanted = jax.eval_shape(functools.partial(init_supernet, supernet, image_shape=image_shape), key)
    if jax.tree.map(jnp.shape, initial) != jax.tree.map(jnp.shape, wanted):
        raise ValueError("train: the initial variables are not those of this supernet's largest net")
    # Copies: the state's buffers are donated, and these are the caller's.
    return jax.tree.map(lambda leaf, shape: jnp.array(leaf, shape.dtype), initial, wanted)


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
