"""The features of a net's stages: what the last module of each puts out, pooled to few pixels, over some training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.data.splits import Split
from dynnas_jax.search.stage_importance import Bounds

_PIXELS = 2**20  # of images that are run together
_MAP_BYTES = 2**27  # of what they make in one stage; a net holds a few such maps at a time


class Collected(NamedTuple):
    """The features of a net's stages, and whose they are."""

    stages: tuple[np.ndarray, ...]  # float32[samples, features] of each; some may have fewer samples
    labels: np.ndarray  # int32[n], of the images as they were found: a damaged one has another in its place


def averaging(size: int, pooled: int) -> np.ndarray:
    """float32[pooled, size]: row i averages the pixels from floor(i size / pooled) to before ceil((i + 1) size / pooled)."""
    rows = np.zeros((pooled, size), np.float32)
    for i in range(pooled):
        first, last = i * size // pooled, -(-(i + 1) * size // pooled)
        rows[i, first:last] = 1 / (last - first)
    return rows


def pooled(maps: jax.Array, side: int) -> jax.Array:
    """[b, h, w, c] -> float32[b, side * side * c]: means over side x side windows that cover the map."""
    height, width = (jnp.asarray(averaging(size, side)) for size in maps.shape[1:3])
    means = jnp.einsum("ah,bw,nhwc->nabc", height, width, maps.astype(jnp.float32), precision="highest")
    return means.reshape(len(maps), -1)


def collected(
    stage_maps: Callable[[dict, jax.Array], Sequence[jax.Array]],
    variables: dict,
    split: Split,
    chosen: np.ndarray,
    bounds: Sequence[Bounds],
) -> Collected:
    """The features of the first images that are chosen of a split, as many and pooled as the bounds of each stage say.

    Images are taken from the split and run in parts, so that memory grows neither with their number nor with their size, up to
    where a single one takes more.

    Args:
      stage_maps: (variables, images) -> [b, h, w, c] of each stage.
      chosen: int[n], places in the split.
    """
    chosen = chosen[: max(bound.samples for bound in bounds)]
    one = jax.ShapeDtypeStruct((1, *split.images.shape[1:]), np.uint8)
    largest = max(maps.size * maps.dtype.itemsize for maps in jax.eval_shape(stage_maps, variables, one))
    batch = max(1, min(128, len(chosen), _PIXELS // (one.shape[1] * one.shape[2]), _MAP_BYTES // largest))

    @jax.jit
    def run(variables, images):
        maps = stage_maps(variables, images)
        return [pooled(own, bound.side) for own, bound in zip(maps, bounds, strict=True)]

    found, labels = [[] for _ in bounds], []
    for start in range(0, len(chosen), batch):
        part = split[chosen[start : start + batch]]
        # The last part is filled up, so that one program serves all.
        filled = np.concatenate([part.images, np.repeat(part.images[:1], batch - len(part), axis=0)])
        labels.append(part.labels)
        for own, features in zip(found, run(variables, filled), strict=True):
            own.append(np.asarray(features)[: len(part)])
    stages = tuple(np.concatenate(own)[: bound.samples] for own, bound in zip(found, bounds, strict=True))
    return Collected(stages, np.concatenate(labels))
