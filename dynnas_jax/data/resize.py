"""Images at another resolution, inside jit: one compiled program per resolution."""

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.data.splits import AT_ONCE, Split, in_batches, parts


def resized(images: jax.Array, side: int) -> jax.Array:
    """uint8[..., h, w, c] -> uint8[..., side, side, c], bilinear and antialiased; the same array where it fits already."""
    shape = (*images.shape[:-3], side, side, images.shape[-1])
    if shape == images.shape:
        return images
    pixels = jax.image.resize(images.astype(jnp.float32), shape, "bilinear")
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


def at_resolution(split: Split, side: int, at_once: int = AT_ONCE) -> Split:
    """A split with its images at another resolution."""
    if not len(split) or split.images.shape[1:3] == (side, side):
        return split
    resize, smaller = jax.jit(lambda batches: jax.lax.map(lambda x: resized(x, side), batches)), []
    for part in parts(split, at_once):
        images, _ = in_batches(part, min(256, len(split)))
        smaller.append(np.concatenate(resize(images))[: len(part)])
    return Split(np.concatenate(smaller), split.labels, split.image_id)
