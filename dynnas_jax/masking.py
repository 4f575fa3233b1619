"""Masking: variables with which the largest net computes a subnet, the genome traced (DESIGN: "there are no dynamic layers").

What slicing would cut away is zeroed; which leaves that takes is read from the same description, `elastic.positions`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dynnas_jax import kernel_transforms
from dynnas_jax.elastic import Position, Supernet, joint_index, leaf_rule, positions


class LeafMask(NamedTuple):
    """What masking does to one leaf of a position."""

    path: tuple[str, ...]
    rule: str
    lengths: np.ndarray  # int32[joint choices]: live channels, or the live window's side; 0 where there is no such leaf
    home: str  # the block whose leaf it is
    starts: np.ndarray | None = (
        None  # int32[joint choices]: the first live channel, of a window of another block's leaf
    )


@functools.lru_cache(maxsize=16)
def mask_plan(supernet: Supernet) -> tuple[tuple[Position, tuple[LeafMask, ...]], ...]:
    """For each position the leaves that masking touches. A position that can be skipped has all its norms masked."""
    plan = []
    for position in positions(supernet):
        masks = []
        for path, table in position.lengths.items():
            rule = leaf_rule(path, position.lengths)
            is_norm = path[0] == "params" and (*path[:-1], "scale") in position.lengths
            if rule is None and position.depth and is_norm:
                rule = "channels"
            if rule is not None:
                lengths, home = table[:, -1 if rule == "channels" else 0], position.homes.get(path, position.name)
                masks.append(LeafMask(path, rule, lengths, home, position.starts.get(path)))
        plan.append((position, tuple(masks)))
    return tuple(plan)


def _live(rule: str, leaf: jax.Array, start: jax.Array | int, length: jax.Array, exists: jax.Array) -> jax.Array:
    """bool, of the leaf's rank: what of it the subnet uses."""
    if rule == "channels":
        place = jnp.arange(leaf.shape[-1], dtype=jnp.int32)
        mask = (place >= start) & (place < start + length) & exists
        return mask.reshape((1,) * (leaf.ndim - 1) + (-1,))
    side = jnp.arange(leaf.shape[0], dtype=jnp.int32)
    edge = (leaf.shape[0] - length) // 2
    inside = (side >= edge) & (side < edge + length)
    return (inside[:, None] & inside[None, :])[:, :, None, None]


def identity_kernel(leaf: jax.Array) -> jax.Array:
    """The 1x1 convolution kernel of the leaf's shape that passes its input on. Raises ValueError where it is none."""
    if leaf.ndim != 4:
        raise ValueError(f"a leaf of shape {leaf.shape} that some subnets lack: only 1x1 convolutions can be left out")
    return jnp.eye(*leaf.shape[-2:], dtype=leaf.dtype).reshape(leaf.shape)


def mask_variables(supernet: Supernet, variables: dict, genome: jax.Array) -> dict:
    """Variables with which the *largest* net computes the genome's subnet; jit- and vmap-able over genomes.

    Zeroed are the scale and bias of norms whose channels are cut, the outer ring of depthwise kernels, the cut hidden
    units of squeeze-excite (columns and bias), and the norms of a skipped residual block, which makes it the identity.
    A pointwise kernel that the subnet does without becomes the identity. All others stay as they are, hence unbatched
    under vmap, but for those with no norm behind them. With kernel transforms the depthwise kernel is that learned for its size.
    A block whose leaves are windows of another's has all of the other's, masked to its window.
    """
    transforms = variables["params"].get(kernel_transforms.PLACE, {})
    variables = _with_parts(supernet, variables)
    params = traverse_util.flatten_dict(variables["params"])
    for position, masks in mask_plan(supernet):
        joint = joint_index(position, genome)
        exists = genome[position.depth[0]] >= position.depth[1] if position.depth else jnp.asarray(True)
        for path, rule, lengths, home, starts in masks:
            key = (position.name, *path[1:])
            if rule == "ring" and home in transforms:
                sides = np.unique(lengths[lengths > 0])
                made = kernel_transforms.candidates(params[key], sides.tolist(), transforms[home])
                params[key] = made[jnp.asarray(np.searchsorted(sides, lengths))[joint]]
                continue
            start = 0 if starts is None else jnp.asarray(starts)[joint]
            live = _live(rule, params[key], start, jnp.asarray(lengths)[joint], exists)
            outside = jnp.zeros((), params[key].dtype)
            if (lengths == 0).any() and starts is None:
                outside = jnp.where(jnp.asarray(lengths)[joint] == 0, identity_kernel(params[key]), outside)
            params[key] = jnp.where(live, params[key], outside)
    return {**variables, "params": traverse_util.unflatten_dict(params)}


def _with_parts(supernet: Supernet, variables: dict) -> dict:
    """The variables with the whole leaf of the other block wherever a block's is a window of it."""
    if supernet.spread is None:
        return variables
    flat = traverse_util.flatten_dict(variables)
    whole = {
        (path[0], position.name, *path[1:]): flat[path[0], home, *path[1:]]
        for position in positions(supernet)
        for path, home in position.homes.items()
    }
    return {**variables, **traverse_util.unflatten_dict({**flat, **whole})}
