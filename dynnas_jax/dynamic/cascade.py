"""A dynamic network on whole batches: each choice runs only on the images that the ones before it left undecided.

Undecided images are gathered into chunks of a fixed capacity, as many chunks as they fill, so that one compiled program
serves every batch and all thresholds, and no image is ever dropped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dynnas_jax.dynamic import routers
from dynnas_jax.dynamic.protocol import Dynamic, Step

# Images of a chunk, by backend: of the first choice, which all images meet, and of the others. A CPU wants its tensors in cache,
# yet enough work for both cores, and little filling in the last chunk: docs/performance.md. An accelerator is not measured.
CAPACITY = {"cpu": (64, 32)}
ELSEWHERE = (1024, 64)


class Answers(NamedTuple):
    """What a dynamic network of S choices answers on a batch, each image by the choice that its scores lead to."""

    logits: jax.Array  # [B, C]
    prediction: jax.Array  # int32[B]
    choice: jax.Array  # int32[B]
    answered: jax.Array  # int32[S], images of each choice


class _Undecided(NamedTuple):
    """The images the next choice runs on, in front of others."""

    carry: Any  # leaves [rows, ...], what the choice before left, decided images among it
    row: jax.Array  # int32[B]: where in the carry each is; beyond `count` any row
    image: jax.Array  # int32[B]: which of the batch each is; beyond `count` B
    count: Any  # int32[]


def build(dynamic: Dynamic, *, capacity: int | Sequence[int] | None = None) -> Callable[..., Answers]:
    """The jitted function `(variables, images[B, ...], thresholds[S - 1]) -> Answers`.

    It answers as `dynamic.outputs` with `dynamic.policy` does, without running what nobody reads. It is compiled once for each
    shape of the images; thresholds are traced.

    Args:
      dynamic: any number of choices S; its policy must be `routers.policy`, the first score above its threshold.
      capacity: images of a chunk, one number or one for each choice; at most the batch is taken. The default is
        `default_capacity`.

    Raises:
      ValueError: for another policy or a capacity that is none; the function itself for thresholds outside [0, 1], or not one
        for each choice but the last.
    """
    choices = len(dynamic.steps)
    if dynamic.policy is not routers.policy:
        raise ValueError("a cascade exits at the first score above its threshold; this network's policy is another")
    capacities = default_capacity(choices) if capacity is None else _capacities(capacity, choices)
    run = jax.jit(functools.partial(_routed if dynamic.first else _cascade, dynamic, capacities))

    def answer(variables: dict, images: jax.Array, thresholds: Any) -> Answers:
        routers.check(thresholds)
        return run(variables, images, jnp.asarray(thresholds, float))

    return answer


def default_capacity(choices: int) -> tuple[int, ...]:
    """Images of a chunk of every choice on this backend."""
    first, other = CAPACITY.get(jax.default_backend(), ELSEWHERE)
    return (first, *(other,) * (choices - 1))


def _capacities(capacity: int | Sequence[int], choices: int) -> tuple[int, ...]:
    given = tuple(capacity) if isinstance(capacity, Sequence) else (capacity,) * choices
    whole = all(isinstance(value, Integral) and not isinstance(value, bool) and value >= 1 for value in given)
    if len(given) != choices or not whole:
        raise ValueError(f"capacity is {capacity!r}: give a whole number of images from 1, or {choices}, one a choice")
    return tuple(int(value) for value in given)


def _everyone(steps: tuple[Step, ...], images: jax.Array, thresholds: jax.Array) -> _Undecided:
    """All images, before any choice. Raises ValueError for another number of thresholds."""
    if thresholds.shape != (len(steps) - 1,):
        raise ValueError(
            f"thresholds of shape {thresholds.shape} for {len(steps)} choices: give one for each but the last"
        )
    everyone = jnp.arange(len(images), dtype=jnp.int32)
    return _Undecided(images, everyone, everyone, jnp.int32(len(images)))


def _routed(dynamic: Dynamic, capacities: tuple[int, ...], variables, images, thresholds) -> Answers:
    """The router on all images first, then either net on its own."""
    batch, undecided = len(images), _everyone(dynamic.steps, images, thresholds)

    def router(variables, images):
        score, carry = dynamic.first(variables, images)
        return score, score, carry

    size = min(capacities[0], batch)
    _, score, carry = _in_chunks(router, size, variables, undecided, keep_carry=True)
    stays = routers.exits(score, thresholds[0].astype(score.dtype))
    logits, choice, counts = None, jnp.zeros(batch, jnp.int32), []
    for s, (step, capacity, others) in enumerate(zip(dynamic.steps, capacities, (~stays, stays), strict=True)):
        mine = _going_on(undecided, carry, others)
        answers, _, _ = _in_chunks(step, min(capacity, batch), variables, mine, keep_carry=False)
        logits, choice = _answered(logits, choice, s, answers, mine)
        counts.append(mine.count)
    return Answers(logits, jnp.argmax(logits, axis=-1).astype(jnp.int32), choice, jnp.stack(counts))


def _cascade(dynamic: Dynamic, capacities: tuple[int, ...], variables, images, thresholds) -> Answers:
    steps, batch = dynamic.steps, len(images)
    undecided = _everyone(steps, images, thresholds)
    logits, choice, counts = None, jnp.zeros(batch, jnp.int32), []
    for s, (step, capacity) in enumerate(zip(steps, capacities, strict=True)):
        last = s == len(steps) - 1
        answers, score, carry = _in_chunks(step, min(capacity, batch), variables, undecided, keep_carry=not last)
        # Those who go on are overwritten by the choice that answers them.
        logits, choice = _answered(logits, choice, s, answers, undecided)
        counts.append(undecided.count)
        if not last:
            undecided = _going_on(undecided, carry, routers.exits(score, thresholds[s].astype(score.dtype)))
    counts = jnp.stack([*counts, jnp.int32(0)])
    return Answers(logits, jnp.argmax(logits, axis=-1).astype(jnp.int32), choice, counts[:-1] - counts[1:])


def _answered(
    logits: Any, choice: jax.Array, s: int, answers: jax.Array, which: _Undecided
) -> tuple[jax.Array, jax.Array]:
    """The batch's logits (None before any) and choices with what choice s answers these."""
    batch = len(choice)
    if logits is None:
        logits = jnp.zeros((batch, *answers.shape[1:]), answers.dtype)
    image = _padded(which.image, len(answers), batch)  # rows without an image fall outside, and away
    return logits.at[image].set(answers, mode="drop"), choice.at[image].set(s, mode="drop")


def by_choice(
    functions: Sequence[Callable], capacity: int, variables: dict, carry: jax.Array, choice: jax.Array
) -> jax.Array:
    """Each image through the function that was chosen for it: functions[choice[b]](variables, carry[b]), in chunks of alike ones.

    Args:
      functions: (variables, carry[capacity, ...]) -> array [capacity, ...], all of one shape.
      capacity: images of a chunk; at most the batch is taken.
      carry: [B, ...]; choice: int32[B].
    """
    batch, found = len(carry), None
    everyone = jnp.arange(batch, dtype=jnp.int32)
    whole = _Undecided(carry, everyone, everyone, jnp.int32(batch))
    for number, function in enumerate(functions):
        mine = _going_on(whole, carry, choice != number)
        step = lambda v, x, function=function: (function(v, x), None, None)  # noqa: E731
        answers, _, _ = _in_chunks(step, min(capacity, batch), variables, mine, keep_carry=False)
        if found is None:
            found = jnp.zeros((batch, *answers.shape[1:]), answers.dtype)
        found = found.at[_padded(mine.image, len(answers), batch)].set(answers, mode="drop")
    return found


def _in_chunks(step: Step, capacity: int, variables: dict, undecided: _Undecided, *, keep_carry: bool):
    """A choice's (logits, score, carry) of the undecided, row by row; the rows are a multiple of `capacity`.

    Rows behind the undecided hold zeros, or repeat some image to fill the last chunk.
    """
    rows = -(-len(undecided.row) // capacity) * capacity
    row = _padded(undecided.row, rows, 0)

    def one(start):
        chosen = jax.lax.dynamic_slice_in_dim(row, start, capacity)
        carry = jax.tree.map(lambda leaf: leaf.at[chosen].get(mode="promise_in_bounds"), undecided.carry)
        logits, score, left = step(variables, carry)
        return logits, score, left if keep_carry else None

    def chunk(index, done):
        start = index * capacity
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(put, done, one(start))

    empty = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), jax.eval_shape(one, jnp.int32(0)))
    chunks = (undecided.count + (capacity - 1)) // capacity
    return jax.lax.fori_loop(jnp.int32(0), chunks, chunk, empty)


def _going_on(undecided: _Undecided, carry: Any, exits: jax.Array) -> _Undecided:
    """The undecided whose row does not exit, in their order."""
    batch = len(undecided.row)
    place = jnp.arange(len(exits), dtype=jnp.int32)
    stays = (place < undecided.count) & ~exits
    (row,) = jnp.nonzero(stays, size=batch, fill_value=0)
    count = jnp.sum(stays, dtype=jnp.int32)
    image = jnp.where(jnp.arange(batch, dtype=jnp.int32) < count, undecided.image[row], jnp.int32(batch))
    return _Undecided(carry, row.astype(jnp.int32), image, count)


def _padded(values: jax.Array, length: int, fill: int) -> jax.Array:
    return jnp.pad(values, (0, length - len(values)), constant_values=fill)
