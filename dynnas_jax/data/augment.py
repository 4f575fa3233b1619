"""Augmentation of uint8 image batches inside jit; what it is made of stands in `warps`, `colours` and `randaugment`."""

import math

import jax
import jax.numpy as jnp

from dynnas_jax.data import colours, randaugment, warps

_MOST = {"zoom": 1, "hue": 0.5, "magnitude": randaugment.MOST}


def rule(
    *,
    pad=4,
    flip=True,
    cutout=0,
    rotate=0.0,
    zoom=0.0,
    shift=0.0,
    crop_scale=None,
    crop_ratio=(3 / 4, 4 / 3),
    crop_size=None,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    operations=0,
    magnitude=9.0,
):
    """An augmentation `augment(key, images) -> images`.

    Every image has its own draws from the one key; the batch keeps its dtype and order, and but for `crop_size` its shape.
    The order: resized crop, affine map, crop and flip, RandAugment, colours, cutout.

    Args:
      pad: pixels of zeros put around each image before a crop of the original size is taken at a uniformly random
        place (offsets -pad ... pad in both directions). 0: no crop.
      flip: mirror each image left to right with probability 1/2. False where mirroring changes the class (digits).
      cutout: side in pixels of a square set to 0 (black), its centre uniform over the image, cut off at the borders
        (DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552). 0: none.
      rotate, zoom, shift: a random affine map of each image, sampled bilinearly with 0 (black) outside: rotation by up
        to `rotate` degrees either way, size times 1 - zoom ... 1 + zoom, and up to `shift` pixels in both directions.
      crop_scale: (low, high), a random crop of such a part of the image's area, such as (0.08, 1.0), is resized bilinearly
        (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842). None: none; needs pad=0.
      crop_ratio: (low, high) of that crop's width to height.
      crop_size: side in pixels it is resized to. None: the image's own height.
      brightness, contrast, saturation, hue: each image's factors lie in 1 - value ... 1 + value (at least 0), its hue turns by
        up to `hue` of a circle (at most 0.5) either way; in random order, as torchvision's ColorJitter. 0: none.
      operations, magnitude: RandAugment's N, 0 for none, and M, 0 to 10 (Cubuk et al. 2019, arXiv 1909.13719).

    Returns:
      augment(key, images uint8[b, h, w, c]) -> uint8[b, h, w, c]; the identity where everything is 0 and flip False.

    Raises:
      ValueError: an impossible value here; at trace time, a pad or cutout that exceeds the image, colours of 2 channels.
    """
    jitter = (brightness, contrast, saturation, hue)
    _check_whole(pad=pad, cutout=cutout, operations=operations)
    _check_amounts(rotate=rotate, zoom=zoom, shift=shift, magnitude=magnitude)
    _check_amounts(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    _check_crop(crop_scale, crop_ratio, crop_size, pad)

    def augment(key, images):
        keys = jax.random.split(key, 7)
        if crop_scale is not None:
            crop = crop_size or images.shape[1], crop_scale, crop_ratio
            images = each(lambda k, image: warps.random_resized_crop(k, image, *crop), keys[4], images)
        _check_fit(images.shape, pad, cutout, colour=operations or any(jitter))
        if rotate or zoom or shift:
            images = jax.vmap(lambda k, image: warps.random_affine(k, image, rotate, zoom, shift))(
                jax.random.split(keys[0], len(images)), images
            )
        if pad or flip:
            images = _crop_and_flip(keys[1], keys[2], images, pad, flip)
        if operations:
            images = each(lambda k, i: randaugment.randaugment(k, i, operations, magnitude), keys[5], images)
        if any(jitter):
            images = each(lambda k, image: colours.jitter(k, image, jitter), keys[6], images)
        return _cut_out(keys[3], images, cutout) if cutout else images

    return augment


def each(function, key, images):
    """function(key, image) of every image of a batch.

    One after another on a CPU, where a `switch` then runs only the branch that was drawn: two operations of RandAugment take
    4 ms for 128 images of 32 pixels, 100 ms all at once (benchmarks/augmentation.py). All at once on an accelerator, which
    the images one by one would leave idle.
    """
    keys = jax.random.split(key, len(images))
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda pair: function(*pair), (keys, images))
    return jax.vmap(function)(keys, images)


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
    # Mapped over the images: a gather with the batch as an indexed axis would collect the images of all devices.
    take = lambda image, row, column: image.at[row[:, None], column[None]].get(mode="promise_in_bounds")  # noqa: E731
    return jax.vmap(take)(padded, rows, columns)


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


def _check_whole(**counts):
    for name, value in counts.items():
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}={value!r} in data.augment.rule: give a whole number, 0 for none")


def _check_amounts(**amounts):
    for name, value in amounts.items():
        most = _MOST.get(name, math.inf)
        if not 0 <= value <= most or (name == "zoom" and value == most):
            end = f" to {'below ' if name == 'zoom' else ''}{most:g}" if name in _MOST else " or more"
            raise ValueError(f"{name}={value!r} in data.augment.rule: must be 0{end}")


def _check_crop(scale, ratio, size, pad):
    if scale is None and size is not None:
        raise ValueError(
            f"crop_size={size!r} in data.augment.rule does nothing without crop_scale, such as (0.08, 1.0)"
        )
    if scale is None:
        return
    warps.check_box("data.augment.rule", scale, ratio)
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(
            f"crop_size={size!r} in data.augment.rule: give a whole number of pixels, None for the image's own"
        )
    if pad:
        raise ValueError(f"pad={pad} in data.augment.rule: crop_scale crops already, give pad=0 with it")


def _check_fit(shape, pad, cutout, colour):
    _, height, width, channels = shape
    if pad >= min(height, width) or cutout > min(height, width):
        raise ValueError(
            f"pad={pad}, cutout={cutout} in data.augment.rule do not fit images of {height}x{width}: "
            "pad must be smaller than the image, cutout no larger"
        )
    if colour and channels not in (1, 3):
        raise ValueError(f"colours and operations in data.augment.rule need images of 1 or 3 channels, not {channels}")
