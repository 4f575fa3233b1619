"""One attempt at a training: from its newest checkpoint, or the start, to its end or to an incident."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from dynnas_jax import channel_sorting, devices, processes, progress
from dynnas_jax.elastic import Supernet, init_supernet
from dynnas_jax.train import checkpoints, feed, incidents, metrics, preemption, rules, state, watch
from dynnas_jax.train.progressive_shrinking import Phases
from dynnas_jax.train.state import TrainState
from dynnas_jax.train.stopwatch import Stopwatch


class Setting(NamedTuple):
    """What every attempt at a training has in common; fields as the arguments of `loop.fit` where they have their names."""

    supernet: Supernet
    train: Any
    mesh: Mesh
    steps: int
    seed: int
    batch_size: int
    optimizer: state.Optimizer
    step: Callable  # of `step.make_step`
    teacher: Any  # variables on the mesh
    initial: dict | None
    phases: Phases | None
    rule: rules.Rule
    together: int  # steps of a call
    directory: Path | None
    checkpoint_every: int
    log_every: int
    evaluate: Callable[[dict], dict[str, float]] | None
    evaluate_every: int
    follow: dict  # keyword arguments of `metrics.Log`
    incidents: incidents.Rule
    heartbeat_s: float


class Attempt:
    """Attempt(setting, roll_backs).run(asked) -> the final state.

    Raises what `loop.fit` raises, `incidents.RollBack` where another attempt is to follow, and `preemption.Preempted`.
    """

    def __init__(self, setting: Setting, roll_backs: int | None = None):
        """`roll_backs`, where given, counts the roll-back that this attempt begins with."""
        self.setting, directory = setting, setting.directory
        self.store = checkpoints.Store(directory, every=setting.checkpoint_every) if directory else None
        key = jax.random.key(setting.seed)
        self.current, extra = _begin(setting, self.store, key, roll_backs)
        done_before = int(self.current.roll_backs)
        self.seed, self.best = incidents.other_seed(setting.seed, done_before), extra.get("best")
        self.first, self.step_key = int(self.current.step), incidents.other_key(jax.random.fold_in(key, 1), done_before)
        self.log = metrics.Log(directory, self.first, **setting.follow)
        self.stopwatch = Stopwatch(self.first)
        sizes = self.first, setting.steps, setting.batch_size
        self.heart = watch.Heartbeat(*sizes, every_s=setting.heartbeat_s)
        quiet = not processes.is_first()
        self.bar = tqdm(total=setting.steps, initial=self.first, desc="train", unit="step", disable=quiet or None)

    def run(self, asked: Callable[[], bool]) -> TrainState:
        """Trains to the end, or until `asked`, of `preemption.notice`, says so."""
        setting = self.setting
        evaluate_every = setting.evaluate_every if setting.evaluate else 0
        every = (setting.checkpoint_every if self.store else 0, evaluate_every, setting.rule.pool_refresh)
        starts = () if setting.phases is None else setting.phases.first_step.tolist()
        plan = feed.calls(self.first, setting.steps, setting.together, every, starts)
        fed = feed.feed(setting.train, setting.batch_size, plan, self.seed, setting.mesh)
        # A run that stops early leaves its newest checkpoint complete too.
        store = self.store or contextlib.nullcontext()
        told = progress.training(self.heart, setting.directory, line_every_s=setting.heartbeat_s)
        with told, contextlib.closing(self.stopwatch), self.log, store, self.bar:
            for call, batch in zip(plan, fed, strict=True):
                self._report(call, self._step(call, batch))
                self._evaluate(call.stop)
                self._save(call.stop, asked())
                self.bar.update(len(call))
        return self.current

    def _step(self, call: range, batch: feed.Fed) -> dict[str, jax.Array]:
        """Does the steps of a call; what they measured, not waited for."""
        setting = self.setting
        self.current = _sorted(setting.supernet, self.current, call.start, setting.phases)
        resolution = drawn_resolution(setting.supernet, call.start, self.seed, setting.phases)
        self.stopwatch.begins()
        given = (*batch, self.step_key, setting.teacher)
        static = {"resolution": resolution}
        if (pool := self._pool(call.start)) is not None:
            static["pool"] = pool
        self.current, values = setting.step(self.current, *given, **static)
        self.stopwatch.dispatched(values["loss"])
        return values

    def _pool(self, step: int) -> tuple | None:
        setting = self.setting
        least = None if setting.phases is None else setting.phases.on_host(step).least
        return setting.rule.pool(setting.supernet.space, step, self.seed, least)

    def _report(self, call: range, values: dict[str, jax.Array]) -> None:
        """Logs those steps of a call whose turn it is."""
        setting, done = self.setting, call.stop
        logged = [step for step in call if (step + 1) % setting.log_every == 0 or step + 1 == setting.steps]
        if not logged:
            return
        self._stop_if_bad()
        values, speed = devices.on_host(values), self.stopwatch.look(done)
        for step in logged:
            own = {name: np.atleast_1d(value)[step - call.start] for name, value in values.items()}
            row = _row(own, step, setting.optimizer, setting.phases)
            spent = {"images_per_s": setting.batch_size * speed.steps_per_s, "wait_share": speed.wait_share}
            self.log.write(step + 1, {**row, **spent})
        self.heart.beat(done, speed, row["loss"])
        self.bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)

    def _evaluate(self, done: int) -> None:
        setting = self.setting
        due = done == setting.steps or (setting.evaluate_every and done % setting.evaluate_every == 0)
        if not (setting.evaluate and due):
            return
        measured = setting.evaluate(self.current.averaged)
        self.log.write(done, measured)
        accuracy = measured.get("holdout_accuracy_largest", measured.get("holdout_accuracy", 0.0))
        if self.best is None or accuracy > self.best["accuracy"]:
            self.best = {"step": done, "accuracy": accuracy}
        self.stopwatch.restart(done)

    def _save(self, done: int, preempted: bool) -> None:
        store, steps = self.store, self.setting.steps
        if store and (store.due(done) or done == steps or preempted):
            self._stop_if_bad()
            store.save(done, self.current, {"best": self.best})
        if preempted:
            if store:
                store.wait()
            raise preemption.Preempted(f"terminated after step {done} of {steps}; the same command goes on from there")

    def _stop_if_bad(self) -> None:
        """Ends this attempt if a step went wrong; such a state is never saved."""
        incident, setting = incidents.found(self.current), self.setting
        if incident is None:
            return
        indices = feed.batch_indices(len(setting.train), setting.batch_size, incident.step, self.seed).tolist()
        when = self.step_key, incident.step, setting.phases, self._pool(incident.step)
        drawn = incidents.drawn(setting.rule, setting.supernet.space, *when)
        newest = self.store.latest_step() if self.store else None
        details = {"image_indices": indices, "genomes": drawn}
        incidents.settle(incident, setting.incidents, newest, setting.directory, **details)


def drawn_resolution(supernet: Supernet, step: int, seed: int, phases: Phases | None = None) -> int | None:
    """The resolution of a step, in pixels: all subnets of a step share one. None where the space has no such gene."""
    if "resolution" not in supernet.space:
        return None
    index = supernet.space.index("resolution")
    least = 0 if phases is None else int(phases.on_host(step).least[index])
    return int(np.random.default_rng([seed, 3, step]).choice(supernet.space.genes[index].choices[least:]))


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


def _begin(
    setting: Setting, store: checkpoints.Store | None, key: jax.Array, roll_backs: int | None
) -> tuple[TrainState, dict]:
    """The state of the newest checkpoint and what was saved with it; else a fresh one."""

    def fresh(key):
        return state.create(_first_variables(setting, key), setting.optimizer.transform)

    read = None if store is None else store.latest if roll_backs is None else store.roll_back
    found = read(jax.eval_shape(fresh, key), NamedSharding(setting.mesh, PartitionSpec())) if read else None
    start, extra = found or (devices.replicated(setting.mesh, fresh(jax.random.fold_in(key, 0))), {})
    if roll_backs is not None:
        start = start._replace(roll_backs=devices.replicated(setting.mesh, jnp.int32(roll_backs)))
    return start, extra


def _first_variables(setting: Setting, key: jax.Array) -> dict:
    """What a fresh run starts from."""
    supernet, image_shape = setting.supernet, setting.train.images.shape[1:]
    if setting.initial is None:
        return init_supernet(supernet, key, image_shape)
    wanted = jax.eval_shape(functools.partial(init_supernet, supernet, image_shape=image_shape), key)
    if jax.tree.map(jnp.shape, setting.initial) != jax.tree.map(jnp.shape, wanted):
        raise ValueError("train: the initial variables are not those of this supernet's largest net")
    # Copies: the state's buffers are donated, and these are the caller's.
    return jax.tree.map(lambda leaf, shape: jnp.array(leaf, shape.dtype), setting.initial, wanted)
