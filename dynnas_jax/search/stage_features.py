"""The features of a net's stages: what the last module of each puts out, pooled to few pixels, over some training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.search.stage_importance import Bounds

_PIXELS = 2**20  # of images that are run together


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
    images: np.ndarray,
    bounds: Sequence[Bounds],
) -> tuple[np.ndarray, ...]:
    """float32[samples, features] of each stage: of the first images, as many and pooled as its bounds say.

    Images are run in parts, so that memory does not grow with their number or their size.

    Args:
      stage_maps: (variables, images) -> [b, h, w, c] of each stage.
      images: uint8[n, h, w, c].
    """
    batch = int(max(1, min(128, len(images), _PIXELS // (images.shape[1] * images.shape[2]))))

    @jax.jit
    def run(variables, images):
        maps = stage_maps(variables, images)
        return [pooled(own, bound.side) for own, bound in zip(maps, bounds, strict=True)]

    found = [[] for _ in bounds]
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        # The last part is filled up, so that one program serves all.
        filled = np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)])
        for own, features in zip(found, run(variables, filled), strict=True):
            own.append(np.asarray(features)[: len(part)])
    return tuple(np.concatenate(own)[: bound.samples] for own, bound in zip(found, bounds, strict=True))
