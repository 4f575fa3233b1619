"""Relaxed widths where channels are read: every layer that mixes channels reads each one scaled by the chance that it is kept.

`relaxed.mask_variables` scales norms. At a chance of 0 the activation behind such a norm is at 0, where ReLU has no slope, so no
loss says what a channel would do that is cut. Here the largest net computes all channels as they would be, and what is cut is
lost where it is read: of a genome that is the same subnet, and the gradient of a chance is what the channels would add.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dynnas_jax import relaxed
from dynnas_jax.elastic import Position, Supernet, positions


class _Read(NamedTuple):
    """The channels that one layer reads."""

    position: Position
    kept: np.ndarray  # bool[joint choices of the position, channels of the largest net]


@functools.lru_cache(maxsize=16)
def _layers(supernet: Supernet) -> dict[tuple[str, ...], _Read]:
    """By their path from the net, the layers whose input channels are elastic. A depthwise kernel reads one channel always."""
    found = {}
    for position in positions(supernet):
        for (collection, *module, leaf), table in position.lengths.items():
            if collection == "params" and leaf == "kernel" and (table[:, -2] != table[0, -2]).any():
                lengths = table[:, -2]
                kept = np.arange(lengths.max()) < lengths[:, None]
                found[position.name, *module] = _Read(position, kept)
    return found


def scaled(supernet: Supernet, genome: jax.Array, inside: tuple[str, ...] = ()) -> contextlib.AbstractContextManager:
    """A context in which the modules of the largest net that are applied compute a relaxed subnet, on unmasked variables.

    Kernels stay as they are, hence unbatched under vmap, and so does the slope of every channel that is cut. Ratios alone are
    relaxed so, neither kernels nor depths: it is for nets whose genes size channels.

    Args:
      genome: float[genes, most choices], as `relaxed.one_hot` makes it of a genome.
      inside: the path from the net of the module that is applied; () for the net itself.
    """
    known = _layers(supernet)

    def read(call: Any, arguments: tuple, options: dict, context: nn.module.InterceptorContext) -> Any:
        layer = known.get((*inside, *context.module.path)) if context.method_name == "__call__" else None
        if layer is None:
            return call(*arguments, **options)
        x, *more = arguments
        chance = relaxed.kept_chances(layer.position, layer.kept, genome).astype(x.dtype)
        return call(x * chance.reshape((1,) * (x.ndim - 1) + (-1,)), *more, **options)

    return nn.intercept_methods(read)
