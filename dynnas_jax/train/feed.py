"""What each call of the training step reads: the same images in the same order, on the devices or still in their files."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dynnas_jax import devices
from dynnas_jax.data.streams import Streamed


class Fed(NamedTuple):
    """The images of a call."""

    images: jax.Array  # uint8[n, h, w, c] of the whole split, or [b, h, w, c] of the step
    labels: jax.Array  # int32[n] or [b]
    indices: np.ndarray | None  # int32[b] into the split, [k, b] for k steps; None where `images` are the step's


def calls(first: int, steps: int, together: int, every: Iterable[int] = (), at: Iterable[int] = ()) -> list[range]:
    """The steps of each call from `first` on: `together` at a time, one at a time where a cut lies within.

    Which steps go together depends on their numbers alone: a resumed run calls the same programs as one that never stopped.

    Args:
      every: the state is wanted each time that so many steps are done; 0: never.
      at: it is wanted before these steps.
    """
    found, at = [], tuple(at)
    while first < steps:
        last = first + together
        whole = first % together == 0 and last <= steps
        cut = any(n and first // n != (last - 1) // n for n in every) or any(first < step < last for step in at)
        found.append(range(first, last if whole and not cut else first + 1))
        first = found[-1].stop
    return found


def feed(train: Any, batch_size: int, plan: Sequence[range], seed: int, mesh: jax.sharding.Mesh) -> Iterator[Fed]:
    """One `Fed` for each call. A split in memory goes to the devices once, a streamed one step after step.

    A streamed call is of one step, and each process reads the images of its own devices only.
    """
    labels = train.labels.astype(np.int32)
    if not isinstance(train.images, Streamed):
        on_devices = devices.replicated(mesh, (train.images, labels))
        return (Fed(*on_devices, _indices(len(train), batch_size, call, seed)) for call in plan)
    order = functools.partial(_index_at, len(train), seed)
    steps = range(plan[0].start, plan[-1].stop) if plan else range(0)
    stream = train.images.batches(labels, batch_size, order, steps, devices.own_rows(mesh, batch_size))
    return (Fed(*devices.split(mesh, batch), None) for batch in stream)


def _indices(length: int, batch_size: int, call: range, seed: int) -> np.ndarray:
    """int32[b] of the one step of a call, [k, b] of its k steps."""
    rows = [batch_indices(length, batch_size, step, seed) for step in call]
    return np.stack(rows) if len(rows) > 1 else rows[0]


def batch_indices(length: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """int32[batch_size]: the images of a step. Epoch after epoch is shuffled anew, and every image has its turn in each."""
    first = step * batch_size
    epochs = range(first // length, (first + batch_size - 1) // length + 1)
    order = np.concatenate([_shuffled(length, seed, epoch) for epoch in epochs])
    start = first - epochs[0] * length
    return order[start : start + batch_size]


def _index_at(length: int, seed: int, position: int) -> int:
    """The image at a position of the endless order that `batch_indices` cuts into steps."""
    epoch, place = divmod(position, length)
    return int(_shuffled(length, seed, epoch)[place])


@functools.lru_cache(maxsize=4)
def _shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 2, epoch]).permutation(length).astype(np.int32)
