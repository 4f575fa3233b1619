"""Steps whose loss is not finite or jumps up: found inside the training step, described in a file, and what then happens.

A run that rolls back goes on from its newest regular checkpoint with another order of the images and other random draws, both
by the number of roll-backs so far. All of it follows from the seed: a run that was killed rolls back where one that was not does.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dynnas_jax import processes
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.train.progressive_shrinking import Phases
from dynnas_jax.train.state import TrainState
from dynnas_jax.workdir import write_json

ON_INCIDENT = ("stop", "roll_back")
FIRST_STEPS = 100  # in which a loss may do as it likes
DECAY = 0.98  # of the running average


class Rule(NamedTuple):
    """What counts as an incident, and what is done about it."""

    spike_factor: float
    on_incident: str
    most_roll_backs: int


def rule(*, spike_factor: float = 0.0, on_incident: str = "stop", most_roll_backs: int = 3) -> Rule:
    """What counts as an incident, beside a loss that is not finite, and what is done about it.

    Args:
      spike_factor: a loss above this multiple of its running average is a spike; 0: none is. Off by default, since what a loss
        may do depends on the recipe: it rises where a phase begins anew, and near zero single batches are many times the average.
      on_incident: "stop", or "roll_back" to the newest checkpoint.
      most_roll_backs: after so many, stop.

    Raises:
      ValueError: for a factor from above 0 to 1, an unknown `on_incident`, or a number of roll-backs below 0.
    """
    if spike_factor and not spike_factor > 1:
        raise ValueError(f"train.spike_factor is {spike_factor}, must be above 1, or 0 for no such check")
    if on_incident not in ON_INCIDENT:
        raise ValueError(f"train.on_incident is {on_incident!r}, choose from {list(ON_INCIDENT)}")
    if most_roll_backs < 0:
        raise ValueError(f"train.most_roll_backs is {most_roll_backs}, must not be negative")
    return Rule(float(spike_factor), on_incident, most_roll_backs)


# Inside the training step.


def update(average: jax.Array, loss: jax.Array, step: jax.Array, *, spike_factor: float) -> tuple[jax.Array, jax.Array]:
    """(average, spiked): the running average after a step, all float32[] and bool[].

    The plain mean at first, later average + (1 - DECAY) (loss - average). A spike leaves it as it is, and so does a loss that is
    not finite.
    """
    loss = loss.astype(jnp.float32)
    spiked = jnp.zeros((), bool)
    if spike_factor:
        spiked = (step >= FIRST_STEPS) & (loss > jnp.float32(spike_factor) * average)
    weight = jnp.maximum(jnp.float32(1 - DECAY), 1 / (1 + step.astype(jnp.float32)))
    return jnp.where(spiked | ~jnp.isfinite(loss), average, average + weight * (loss - average)), spiked


def watched(current: TrainState, loss: jax.Array, *, spike_factor: float = 0.0) -> dict[str, jax.Array]:
    """The fields of the next state that tell of incidents, from the state before a step and the loss of the step."""
    average, spiked = update(current.average_loss, loss, current.step, spike_factor=spike_factor)
    bad = (current.bad_step < 0) & (spiked | ~jnp.isfinite(loss))
    return {
        "bad_step": jnp.where(bad, current.step, current.bad_step),
        "bad_loss": jnp.where(bad, loss.astype(jnp.float32), current.bad_loss),
        "average_loss": average,
        "roll_backs": current.roll_backs,
    }


# After a roll-back.


def other_seed(seed: int, roll_backs: int) -> int:
    """The seed of what NumPy draws: the order of the images, resolutions. The seed itself before the first roll-back."""
    return seed + (roll_backs << 32)


def pool_key(seed: int) -> jax.Array:
    """A key of a seed of `other_seed`: the seed's own before the first roll-back. `jax.random.key` drops what is added later."""
    return other_key(jax.random.key(seed & 0xFFFFFFFF), seed >> 32)


def other_key(key: jax.Array, roll_backs: int) -> jax.Array:
    """The key of the steps. The key itself before the first roll-back."""
    return jax.random.fold_in(key, roll_backs) if roll_backs else key


# On the host.


class Incident(NamedTuple):
    """A step that went wrong."""

    step: int
    what: str  # a phrase
    loss: float
    average_loss: float
    roll_backs: int  # before it


class RollBack(Exception):
    """Training shall go on from the newest regular checkpoint, after so many roll-backs."""

    def __init__(self, roll_backs: int):
        super().__init__(f"roll-back {roll_backs}")
        self.roll_backs = roll_backs


def found(current: TrainState) -> Incident | None:
    """What went wrong up to this state, if anything; such a state is never saved."""
    step, bad = int(current.step), int(current.bad_step)
    loss, average, roll_backs = float(current.bad_loss), float(current.average_loss), int(current.roll_backs)
    if bad >= 0 and math.isfinite(loss):
        what = f"the loss of step {bad} is {loss:.4g}, {loss / average:.3g} times its running average"
        return Incident(bad, what, loss, average, roll_backs)
    if bad >= 0:
        return Incident(bad, f"the loss of step {bad} is not finite", loss, average, roll_backs)
    if not math.isfinite(float(jax.jit(optax.tree.norm)(current.ema))):
        what = f"the averaged params are not finite at step {step}"
        return Incident(step - 1, what, math.nan, average, roll_backs)
    return None


def drawn(
    rule: Any, space: SearchSpace, step_key: jax.Array, step: int, phases: Phases | None, pool: Any
) -> list[dict] | None:
    """The random subnets of a step, drawn again as the step and its rule draw them; JSON-able, one for each that counted.

    None where the rule draws nothing.
    """
    _, rule_key, _ = jax.random.split(jax.random.fold_in(step_key, step), 3)
    allowed = None if phases is None else phases.on_host(step)
    found = rule.drawn(space, rule_key, allowed and allowed.least, pool)
    return found if found is None or allowed is None else found[: int(allowed.random_subnets)]


def settle(incident: Incident, how: Rule, newest: int | None, directory: Path | None = None, **details: Any) -> None:
    """Writes `incident_STEP.json`, then ends the run or asks for a roll-back.

    Args:
      newest: the step of the newest checkpoint, None where there is none.
      details: of the step, JSON-able: `image_indices` of its batch in the training split, `genomes` of its random subnets.

    Raises:
      RollBack: where the rule says so, and there is a directory to go back in.
      ValueError: where the run ends.
    """
    rolls = how.on_incident == "roll_back" and directory is not None and incident.roll_backs < how.most_roll_backs
    kept = f"the last good checkpoint is of step {newest}" if newest is not None else "there is no checkpoint yet"
    done = "rolled back" if rolls else "stopped; a lower learning_rate often helps"
    where = ""
    if directory is not None:
        again = f"_roll_back_{incident.roll_backs}" if incident.roll_backs else ""
        file = directory / f"incident_{incident.step}{again}.json"
        where = f" (its images and subnets: {file})"
        if processes.is_first():
            numbers = {"loss": incident.loss, "average_loss": incident.average_loss}
            numbers = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
            facts = {"step": incident.step, "what": incident.what, **numbers, "roll_backs": incident.roll_backs}
            write_json(file, {**facts, "done": done, **details})
    if rolls:
        raise RollBack(incident.roll_backs + 1)
    spent = f", after {incident.roll_backs} roll-backs" if incident.roll_backs else ""
    raise ValueError(f"train: {incident.what}{spent}; {kept}{where}. A lower learning_rate often helps")
