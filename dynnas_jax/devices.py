"""The devices of a run, those of all its processes: a mesh over them, and arrays that lie on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA, SUBNET = "data", "subnet"  # the axes of a mesh


def data_mesh(devices: int | None = None, subnet: int = 1) -> Mesh:
    """A mesh with the axis "data" over `devices` devices, by default all of every process.

    With `subnet` above 1 a second axis of that length, "subnet", takes its part of them.

    Raises:
      ValueError: if `subnet` does not divide the devices.
    """
    devices = devices or jax.device_count()
    if subnet < 1 or devices % subnet:
        raise ValueError(f"train: subnet_devices {subnet} does not divide the {devices} devices")
    shape, names = ((devices,), (DATA,)) if subnet == 1 else ((devices // subnet, subnet), (DATA, SUBNET))
    axis_types = (AxisType.Auto,) * len(names)
    if jax.process_count() == 1:  # in an order in which neighbours on the chip's network are next to each other
        return jax.make_mesh(shape, names, axis_types=axis_types)
    return Mesh(np.asarray(by_process(jax.devices())[:devices]).reshape(shape), names, axis_types=axis_types)


def by_process(devices: Iterable[jax.Device]) -> list[jax.Device]:
    """Devices of several processes in their order, so that each has its rows of a batch side by side.

    `jax.make_mesh` would scatter those of a TPU slice, and refuses those of several hosts or slices.
    """
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def local_mesh() -> Mesh:
    """A mesh with the axis "data" over the devices of this process, for what it does without the others."""
    own = jax.local_devices()
    return jax.make_mesh((len(own),), (DATA,), axis_types=(AxisType.Auto,), devices=own)


def replicated(on: Mesh, tree: Any) -> Any:
    """The arrays of a tree, whole on every device; every process gives the same."""
    return _placed(NamedSharding(on, PartitionSpec()), tree)


def split(on: Mesh, tree: Any) -> Any:
    """The arrays of a tree split over "data" along their first axis; every process gives the rows of `own_rows`."""
    return _placed(NamedSharding(on, PartitionSpec(DATA)), tree)


def own_rows(on: Mesh, length: int) -> range:
    """Which of `length` rows that are split over "data" lie on devices of this process."""
    sharding = NamedSharding(on, PartitionSpec(DATA))
    places = sharding.addressable_devices_indices_map((length,)).values()
    starts, stops = zip(*(place[0].indices(length)[:2] for place in places), strict=True)
    if sum(stop - start for start, stop in set(zip(starts, stops, strict=True))) != max(stops) - min(starts):
        raise ValueError("the devices of a process do not lie side by side on the mesh's axis 'data'")
    return range(min(starts), max(stops))


def _placed(sharding: NamedSharding, tree: Any) -> Any:
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # A device_put to devices of other processes would first compare the content over the network.
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def on_host(tree: Any) -> Any:
    """NumPy arrays of arrays that are whole on every device."""

    def fetched(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = leaf.addressable_data(0)
        return np.asarray(leaf)

    return jax.tree.map(fetched, tree)
