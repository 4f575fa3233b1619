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
    steps: int,
    *,
    learning_rate: float,
    warm_up: float,
    starts: Sequence[int] = (0,),
    drops: Sequence[float] = (),
    final: float = 0.0,
    factor: float = 1.0,
    factor_every: int = 1,
) -> optax.Schedule:
    """Linear warm-up over the first `warm_up` share of the steps, then a cosine; anew from each of `starts` on.

    The rest is told by `optimizer`.
    """
    lengths = np.diff([*starts, steps]).tolist()
    if drops or factor != 1.0:
        make = functools.partial(_falling, drops=drops, factor=factor, factor_every=factor_every)
    else:
        make = functools.partial(optax.warmup_cosine_decay_schedule, end_value=final * learning_rate)
    parts = [make(0.0, learning_rate, max(1, round(n * warm_up)), max(2, n)) for n in lengths]
    return optax.join_schedules(parts, list(starts[1:]))


def _falling(
    first: float,
    peak: float,
    warm_up_steps: int,
    steps: int,
    *,
    drops: Sequence[float],
    factor: float,
    factor_every: int,
) -> optax.Schedule:
    """From `first` to `peak` in the steps of the warm-up; a tenth of it from each share of the steps on, or a factor at times."""
    if drops:
        level = optax.piecewise_constant_schedule(peak, {round(share * steps): 0.1 for share in drops})
    else:
        level = optax.exponential_decay(peak, factor_every, factor, staircase=True)
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
    final: float = 0.0,
    factor: float = 1.0,
    factor_every: int = 1,
    starts: Sequence[int] = (0,),
) -> Optimizer:
    """SGD with Nesterov momentum; decay on kernels only, gradients clipped by their global norm (0: not clipped).

    Args:
      drops: shares of the steps at which the learning rate falls to a tenth, ascending; () for a cosine.
      final: share of the learning rate that the cosine ends at.
      factor: what the learning rate is multiplied by each `factor_every` steps, in place of the cosine; 1 for the cosine.
      starts: steps at which the schedule of the learning rate begins anew, the first 0.

    Raises:
      ValueError: for a learning rate, decay or clip below zero, a momentum or warm-up outside [0, 1), drops out of order, a
        final share outside [0, 1], a factor outside (0, 1], or two of these three.
    """
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay), ("clip_norm", clip_norm)):
        if value < 0:
            raise ValueError(f"optimizer: {name} is {value}, must not be negative")
    for name, value in (("momentum", momentum), ("warm_up", warm_up)):
        if not 0 <= value < 1:
            raise ValueError(f"optimizer: {name} is {value}, must be at least 0 and below 1")
    fall = {"drops": drops, "final": final, "factor": factor, "factor_every": factor_every}
    _check_fall(**fall)
    rate = schedule(steps, learning_rate=learning_rate, warm_up=warm_up, starts=starts, **fall)
    transform = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay, mask=_kernels),
        optax.sgd(rate, momentum, nesterov=True),
    )
    return Optimizer(transform, rate)


def _check_fall(*, drops: Sequence[float], final: float, factor: float, factor_every: int) -> None:
    """Raises ValueError for ways to lower the learning rate that there are none of."""
    if list(drops) != sorted(drops) or not all(0 < share < 1 for share in drops):
        raise ValueError(f"optimizer: drops is {tuple(drops)}, must be ascending shares of the steps between 0 and 1")
    if not 0 <= final <= 1:
        raise ValueError(f"optimizer: final is {final}, must be a share of the learning rate, 0 to 1")
    if not 0 < factor <= 1:
        raise ValueError(f"optimizer: factor is {factor}, must be above 0 and at most 1")
    if factor_every < 1:
        raise ValueError(f"optimizer: factor_every is {factor_every}, must be at least 1 step")
    if bool(len(drops)) + bool(final) + (factor != 1.0) > 1:
        raise ValueError("optimizer: drops, final and factor lower the learning rate in three ways; give one of them")


def _kernels(params: dict) -> dict:
    """True for the leaves that decay: kernels, not norms and biases, nor what a gate has."""

    def decays(path, _):
        return path[-1].key == "kernel" and all(entry.key != "gate" for entry in path)

    return jax.tree_util.tree_map_with_path(decays, params)
