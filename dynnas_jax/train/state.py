"""What training carries from step to step, and the optimizer that moves it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Optimizer(NamedTuple):
    """What moves the params, and how fast."""

    transform: optax.GradientTransformation
    learning_rate: optax.Schedule  # step -> rate


class TrainState(NamedTuple):
    """A pytree; everything a resumed run needs to equal one that never stopped."""

    step: jax.Array  # int32[], steps done
    variables: dict  # {"params", "batch_stats"} of the largest net
    ema: dict  # params, their exponential moving average
    optimizer: Any  # optax state
    bad_step: jax.Array  # int32[], the first step whose loss was not finite or a spike, -1 while there is none
    bad_loss: jax.Array  # float32[], the loss of that step
    average_loss: jax.Array  # float32[], running, which spikes are measured by
    roll_backs: jax.Array  # int32[], how often training has gone back to a checkpoint after such a step

    @property
    def averaged(self) -> dict:
        """The variables to use after training: averaged params; the statistics want recalibration."""
        return {"params": self.ema, "batch_stats": self.variables["batch_stats"]}


def create(variables: dict, transform: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    # A copy: the state's buffers are donated, and one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, variables["params"])
    # One buffer for each field, for the same reason.
    zero = functools.partial(jnp.zeros, ())
    return TrainState(
        step=zero(jnp.int32),
        variables=variables,
        ema=ema,
        optimizer=transform.init(variables["params"]),
        bad_step=jnp.full((), -1, jnp.int32),
        bad_loss=zero(jnp.float32),
        average_loss=zero(jnp.float32),
        roll_backs=zero(jnp.int32),
    )


def schedule(
    steps: int, *, learning_rate: float, warm_up: float, starts: Sequence[int] = (0,), drops: Sequence[float] = ()
) -> optax.Schedule:
    """Linear warm-up over the first `warm_up` share of the steps, then a cosine to zero; anew from each of `starts` on.

    With `drops` it stays in place of the cosine, and falls to a tenth at each of these shares of the steps.
    """
    lengths = np.diff([*starts, steps]).tolist()
    make = functools.partial(_falling, drops=drops) if drops else optax.warmup_cosine_decay_schedule
    parts = [make(0.0, learning_rate, max(1, round(n * warm_up)), max(2, n)) for n in lengths]
    return optax.join_schedules(parts, list(starts[1:]))


def _falling(first: float, peak: float, warm_up_steps: int, steps: int, *, drops: Sequence[float]) -> optax.Schedule:
    """From `first` to `peak` in the steps of the warm-up, then a tenth of it from each share of the steps on."""
    level = optax.piecewise_constant_schedule(peak, {round(share * steps): 0.1 for share in drops})
    ramp = optax.linear_schedule(first, peak, warm_up_steps)
    return lambda step: jnp.where(step < warm_up_steps, ramp(step), level(step))


def optimizer(
    steps: int,
    *,
    learning_rate: float = 0.1,
    warm_up: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    clip_norm: float = 5.0,
    drops: Sequence[float] = (),
    starts: Sequence[int] = (0,),
) -> Optimizer:
    """SGD with Nesterov momentum; decay on kernels only, gradients clipped by their global norm (0: not clipped).

    Args:
      drops: shares of the steps at which the learning rate falls to a tenth, ascending; () for a cosine to zero.
      starts: steps at which the schedule of the learning rate begins anew, the first 0.

    Raises:
      ValueError: for a learning rate, decay or clip below zero, a momentum or warm-up outside [0, 1), or drops out of order.
    """
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay), ("clip_norm", clip_norm)):
        if value < 0:
            raise ValueError(f"optimizer: {name} is {value}, must not be negative")
    for name, value in (("momentum", momentum), ("warm_up", warm_up)):
        if not 0 <= value < 1:
            raise ValueError(f"optimizer: {name} is {value}, must be at least 0 and below 1")
    if list(drops) != sorted(drops) or not all(0 < share < 1 for share in drops):
        raise ValueError(f"optimizer: drops is {tuple(drops)}, must be ascending shares of the steps between 0 and 1")
    rate = schedule(steps, learning_rate=learning_rate, warm_up=warm_up, starts=starts, drops=drops)
    transform = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay, mask=_kernels),
        optax.sgd(rate, momentum, nesterov=True),
    )
    return Optimizer(transform, rate)


def _kernels(params: dict) -> dict:
    """True for the leaves that decay: kernels, not norms and biases, nor what a gate has."""

    def decays(path, _):
        return path[-1].key == "kernel" and all(entry.key != "gate" for entry in path)

    return jax.tree_util.tree_map_with_path(decays, params)
