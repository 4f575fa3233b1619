"""What each training step reads: the same images in the same order, whether they are on the devices or in their files."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dynnas_jax.data.streams import Streamed


class Fed(NamedTuple):
    """The images of a step."""

    images: jax.Array  # uint8[n, h, w, c] of the whole split, or [b, h, w, c] of the step
    labels: jax.Array  # int32[n] or [b]
    indices: np.ndarray | None  # int32[b] into the split; None where `images` are the step's


def feed(train: Any, batch_size: int, steps: range, seed: int, mesh: jax.sharding.Mesh) -> Iterator[Fed]:
    """One `Fed` for each of `steps`. A split in memory goes to the devices once, a streamed one batch after batch."""
    labels = train.labels.astype(np.int32)
    if not isinstance(train.images, Streamed):
        on_devices = jax.device_put((train.images, labels), NamedSharding(mesh, PartitionSpec()))
        return (Fed(*on_devices, batch_indices(len(train), batch_size, step, seed)) for step in steps)
    order = functools.partial(_index_at, len(train), seed)
    stream = train.images.batches(labels, batch_size, order, steps.start, steps.stop)
    split = NamedSharding(mesh, PartitionSpec("data"))
    return (Fed(*jax.device_put(batch, split), None) for batch in stream)


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
