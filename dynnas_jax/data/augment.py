"""Augmentation of uint8 image batches inside jit: random crop, horizontal flip, cutout."""

import jax
import jax.numpy as jnp


def rule(*, pad=4, flip=True, cutout=0, rotate=0.0, zoom=0.0, shift=0.0):
    """An augmentation `augment(key, images) -> images`.

    Every image draws its own offset, flip and square from the one key; the batch keeps its shape, dtype and order.

    Args:
      pad: pixels of zeros put around each image before a crop of the original size is taken at a uniformly random
        place (offsets -pad ... pad in both directions). 0: no crop.
      flip: mirror each image left to right with probability 1/2. False where mirroring changes the class (digits).
      cutout: side in pixels of a square set to 0 (black), its centre uniform over the image, cut off at the borders
        (DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552). 0: none.
      rotate, zoom, shift: a random affine map of each image, sampled bilinearly with 0 (black) outside: rotation by up
        to `rotate` degrees either way, size times 1 - zoom ... 1 + zoom, and up to `shift` pixels in both directions.

    Returns:
      augment(key, images uint8[b, h, w, c]) -> uint8[b, h, w, c]; the identity where everything is 0 and flip False.

    Raises:
      ValueError: a negative value or a zoom of 1 or more here; at trace time, a pad or cutout that exceeds the image.
    """
    for name, value in (("rotate", rotate), ("zoom", zoom), ("shift", shift)):
        if value < 0 or (name == "zoom" and value >= 1):
            raise ValueError(f"{name}={value!r} in data.augment.rule: must not be negative, and a zoom below 1")
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
        warp_key, crop_key, flip_key, cutout_key = jax.random.split(key, 4)
        if rotate or zoom or shift:
            keys = jax.random.split(warp_key, len(images))
            images = jax.vmap(lambda k, image: _warp(k, image, rotate, zoom, shift))(keys, images)
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


def _warp(key, image, rotate, zoom, shift):
    """One image uint8[h, w, c] read at the places an affine map about its centre sends its pixels to."""
    height, width, _ = image.shape
    draw = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    angle, scale = draw[0] * (rotate * jnp.pi / 180), 1 / (1 + draw[1] * zoom)
    row = (jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2)[:, None]
    column = (jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2)[None]
    cosine, sine = scale * jnp.cos(angle), scale * jnp.sin(angle)
    rows = cosine * row - sine * column + (height - 1) / 2 + draw[2] * shift
    columns = sine * row + cosine * column + (width - 1) / 2 + draw[3] * shift
    top, left = jnp.floor(rows), jnp.floor(columns)
    total = jnp.zeros(image.shape, jnp.float32)
    for corner_row, row_weight in ((top, 1 - (rows - top)), (top + 1, rows - top)):
        for corner_column, column_weight in ((left, 1 - (columns - left)), (left + 1, columns - left)):
            inside = (corner_row >= 0) & (corner_row < height) & (corner_column >= 0) & (corner_column < width)
            r = jnp.clip(corner_row, 0, height - 1).astype(jnp.int32)
            c = jnp.clip(corner_column, 0, width - 1).astype(jnp.int32)
            weight = jnp.where(inside, row_weight * column_weight, 0.0)
            total = total + weight[:, :, None] * image[r, c].astype(jnp.float32)
    return jnp.round(total).astype(jnp.uint8)
