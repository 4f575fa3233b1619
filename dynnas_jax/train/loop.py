"""Training a supernet: a call that ends with the trained state, whatever was interrupted in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from dynnas_jax import devices, processes
from dynnas_jax.data.streams import Streamed
from dynnas_jax.elastic import Supernet
from dynnas_jax.train import incidents, metrics, preemption, rules, state
from dynnas_jax.train.attempt import Attempt, Setting
from dynnas_jax.train.distillation import Teacher
from dynnas_jax.train.progressive_shrinking import Phases
from dynnas_jax.train.state import TrainState
from dynnas_jax.train.step import make_step

BATCH_SIZE = 128
STEPS_PER_CALL = 8


def fit(
    supernet: Supernet,
    train: Any,
    rule: rules.Rule | Callable,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    optimizer: dict | None = None,
    augment: Callable | None = None,
    mix: Callable | None = None,
    drop: Callable | None = None,
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
) -> TrainState:
    """Trains a supernet on a split (uint8 images, integer labels), which stays on the devices or is streamed to them.

    Args:
      rule: what makes a gradient of a batch, such as `sandwich.rule()`: of `rules.Rule`, or a function with its call.
      optimizer: keyword arguments of `state.optimizer`.
      augment: (key, uint8 images) -> uint8 images.
      initial: variables of the largest net to start from, instead of random ones; a resumed run has its own.
      mix: (key, uint8 images, one-hot labels) -> uint8 images, targets; such as `mixing.rule(mixup=0.2)`.
      drop: (key, labels or targets) -> bool[b, classes], the logits that the loss of each image knows; such as
        `superclass_dropout.rule`.
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
      heartbeat_s: how often a line on standard error says how far it is; see `progress.training`.

    Raises:
      ValueError: if the batch does not divide over the devices or exceeds the split, if `initial` is of another net, if the
        loss is not finite (the step and the last good checkpoint are named), or for trackers that `metrics.chosen` refuses.
    """
    how = incidents.rule(spike_factor=spike_factor, on_incident=on_incident, most_roll_backs=most_roll_backs)
    mesh = mesh or devices.data_mesh()
    check(steps, batch_size, len(train), mesh)
    follow = {"trackers": metrics.chosen(trackers, wandb), "wandb": wandb, "config": config}
    mover = state.optimizer(steps, **(optimizer or {}), starts=(0,) if phases is None else phases.starts)
    answers, teacher = teacher or (None, None)
    options = {
        "augment": augment,
        "mix": mix,
        "drop": drop,
        "ema_decay": ema_decay,
        "phases": phases,
        "answers": answers,
        "steps_in_all": steps,
    }
    setting = Setting(
        supernet=supernet,
        train=train,
        mesh=mesh,
        steps=steps,
        seed=seed,
        batch_size=batch_size,
        optimizer=mover,
        step=processes.Together(make_step(supernet, rule, mover.transform, mesh, spike_factor=spike_factor, **options)),
        teacher=devices.replicated(mesh, teacher),
        initial=initial,
        phases=phases,
        rule=rules.of(rule),
        together=_together(steps_per_call, supernet, train),
        directory=directory,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        follow=follow,
        incidents=how,
        heartbeat_s=heartbeat_s,
    )
    roll_backs = None
    with preemption.notice() as asked:  # around all attempts: what one was asked the next one still knows
        while True:  # an incident after the last roll-back ends the run
            try:
                return Attempt(setting, roll_backs).run(asked)
            except incidents.RollBack as wanted:
                roll_backs = wanted.roll_backs


def _together(steps_per_call: int | None, supernet: Supernet, train: Any) -> int:
    """Steps of a call; one where each has its own resolution, or images that are not on the devices yet."""
    if "resolution" in supernet.space or isinstance(train.images, Streamed):
        return 1
    if steps_per_call is not None:
        return steps_per_call
    # On a CPU the convolutions of a loop body are several times slower; elsewhere dispatch would be waited for.
    return 1 if jax.default_backend() == "cpu" else STEPS_PER_CALL


def check(steps: int, batch_size: int, length: int, mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError for steps or a batch that do not fit the images or the devices."""
    if steps < 1:
        raise ValueError(f"train: steps is {steps}, must be at least 1")
    if batch_size > length:
        raise ValueError(f"train: batch_size {batch_size} exceeds the {length} training images")
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(f"train: batch_size {batch_size} does not divide over {mesh.size} devices")
