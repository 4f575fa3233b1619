"""Channel sorting: the channels a subnet keeps, the leading ones, are made the most important ones.

Cai et al. 2020, "Once-for-All" (arXiv 1908.09791), section 3.3: before widths shrink, channels are ordered by the L1 norm of the
weights that read them. What the whole net computes stays the same.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.elastic import Position, Supernet, positions


class Place(NamedTuple):
    """An axis of a leaf, by the leaf's path in the variables without the collection."""

    path: tuple[str, ...]
    axis: int


class Group(NamedTuple):
    """Channels that must be ordered alike, wherever they are written, normalised or read."""

    genes: tuple[int, ...]  # that decide how many there are
    lengths: np.ndarray  # int32[joint choices of the genes]
    places: tuple[Place, ...]


@functools.lru_cache(maxsize=16)
def groups(supernet: Supernet) -> tuple[Group, ...]:
    """Every set of channels whose number some gene decides, read from the axes of the blocks.

    Channels that only a width decides are one residual stream, whatever blocks it passes; others belong to their block.
    Streams of equal numbers may fall together: one order for both keeps what the net computes all the same.

    Raises:
      ValueError: where the widths of two streams decide whether a shortcut joins them.
    """
    if supernet.whole is not None and not supernet.exits:
        raise ValueError(
            "channels of a space whose widths decide where shortcuts stand cannot be sorted; "
            "give train.progressive_shrinking.sort_channels=False"
        )
    found: dict[tuple, Group] = {}
    for position in positions(supernet):
        for path, table in position.lengths.items():
            if path in position.homes:  # sorted where they are at home
                continue
            # The leading axes of a convolution's kernel are those of its window.
            for axis in range(2 if table.shape[1] == 4 else 0, table.shape[1]):
                genes, lengths = _needed(position, table[:, axis])
                if not genes:
                    continue
                stream = len(genes) == 1 and supernet.space.genes[genes[0]].name.endswith("width")
                key = (() if stream else position.name, genes, lengths.tobytes())
                group = found.setdefault(key, Group(genes, lengths, ()))
                places = (Place((position.name, *path[1:]), axis),)
                if supernet.coupling and places[0] == supernet.coupling.alike[1]:
                    places += (Place(*supernet.coupling.alike[0]),)
                found[key] = group._replace(places=tuple(dict.fromkeys((*group.places, *places))))
    alike = _alike(supernet)
    return tuple(
        group._replace(places=(*group.places, *(own for own, other in alike if other in group.places)))
        for group in found.values()
    )


def _alike(supernet: Supernet) -> list[tuple[Place, Place]]:
    """(of a leaf that is a window of a larger one of its own, of another block's leaf): last axes of the same channels."""
    return [
        (Place((position.name, *path[1:]), last), Place((*other, path[-1]), last))
        for position in positions(supernet)
        for path, other in position.channels.items()
        for last in (position.lengths[path].shape[1] - 1,)
    ]


def _needed(position: Position, column: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """The genes a column of lengths depends on, and the lengths over their joint choices."""
    grid = column.reshape(position.sizes)
    depends = [axis for axis in range(grid.ndim) if (grid != np.take(grid, [0], axis)).any()]
    others = tuple(-1 if axis not in depends else slice(None) for axis in range(grid.ndim))
    return tuple(position.genes[axis] for axis in depends), np.ascontiguousarray(grid[others]).reshape(-1)


def importance(group: Group, params: dict) -> jax.Array:
    """float32[channels]: the L1 norm of all weights that read a channel."""
    total = jnp.zeros((), jnp.float32)
    for path, axis in group.places:
        leaf = functools.reduce(lambda node, key: node.get(key, {}), path, params)
        reads = path[-1] == "kernel" and axis == leaf.ndim - 2
        if reads:
            total = total + jnp.abs(leaf).sum(tuple(other for other in range(leaf.ndim) if other != axis))
    return total


def sort(supernet: Supernet, params: dict, tree: Any, least: np.ndarray) -> Any:
    """`tree` with its channels in the order of their importance in `params`, the most important first.

    Args:
      params: of the supernet.
      tree: any pytree with leaves under the params' and statistics' paths: variables, averages, optimizer states.
      least: int32[genes], the smallest choices in use so far. What subnets of those keep stays the same set, so that they
        compute what they did; only among the channels that all of them have does the order change.
    """
    orders: dict[tuple[str, ...], list[tuple[int, jax.Array]]] = {}
    for group in groups(supernet):
        fixed = _fewest(supernet, group, least)
        score = importance(group, params)
        if score.ndim == 0:  # nothing reads these channels
            continue
        order = jnp.argsort(-score[:fixed], stable=True).astype(jnp.int32)
        order = jnp.concatenate([order, jnp.arange(fixed, len(score), dtype=jnp.int32)])
        for path, axis in group.places:
            orders.setdefault(path, []).append((axis, order))

    def ordered(path, leaf):
        keys = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        for start in range(len(keys)):
            for axis, order in orders.get(keys[start:], ()):
                leaf = jnp.take(leaf, order, axis=axis)
        return leaf

    return jax.tree_util.tree_map_with_path(ordered, tree)


def _fewest(supernet: Supernet, group: Group, least: np.ndarray) -> int:
    """The smallest number of channels that a subnet with choices from `least` on keeps."""
    sizes = [supernet.space.sizes[gene] for gene in group.genes]
    joint = itertools.product(*(range(size) for size in sizes))
    allowed = [all(c >= least[g] for c, g in zip(choice, group.genes, strict=True)) for choice in joint]
    return int(group.lengths[np.asarray(allowed)].min())
