"""Colour operations on one image, and their random use.

An operation maps float32[h, w, c] in [0, 255], one or three channels, to the same; a factor of 1 changes nothing, and hue and
saturation change nothing of one channel. The authority is Pillow's ImageEnhance and ImageOps, whose rounding is left
to the caller.
"""

import jax
import jax.numpy as jnp


def brightness(image, factor):
    """Towards black (factor 0) or away from it."""
    return jnp.clip(factor * image, 0, 255)


def contrast(image, factor):
    """Towards the mean grey of the image (factor 0) or away from it."""
    return _blend(_grey(image).mean(), image, factor)


def saturation(image, factor):
    """Towards the grey image (factor 0) or away from it."""
    return _blend(_grey(image), image, factor) if image.shape[-1] == 3 else image


def sharpness(image, factor):
    """Towards the image smoothed by (1 1 1, 1 5 1, 1 1 1) / 13 (factor 0) or away from it; the border stays."""
    height, width, _ = image.shape
    inner = 4 * image[1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            inner = inner + image[row : height - 2 + row, column : width - 2 + column]
    smooth = image.at[1:-1, 1:-1].set(jnp.round(inner / 13))
    return _blend(smooth, image, factor)


def hue(image, turn):
    """The hue turned by `turn` full circles of the hexagonal colour model (HSV), value and saturation kept."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., channel] for channel in range(3))
    value = image.max(axis=-1)
    chroma = value - image.min(axis=-1)
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    sextant = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )

    def channel(first):
        place = first + sextant + 6 * turn
        place = place - 6 * jnp.floor(place / 6)  # jnp.mod takes four times as long on a CPU
        return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


def solarize(image, threshold):
    """Inverts the values from `threshold` on: everything for 0, nothing for 256."""
    return jnp.where(image < threshold, image, 255 - image)


def posterize(image, bits):
    """Keeps the `bits` (1 to 8, may be traced) highest bits of whole values."""
    step = jnp.exp2(8.0 - bits)
    return jnp.floor(image / step) * step


def autocontrast(image):
    """Stretches the whole values of each channel over 0 to 255; a constant channel stays."""
    low, high = image.min(axis=(0, 1), keepdims=True), image.max(axis=(0, 1), keepdims=True)
    stretched = jnp.floor((image - low) * 255 / jnp.maximum(high - low, 1))
    return jnp.where(high > low, stretched, image)


def equalize(image):
    """Spreads the whole values of each channel evenly, as Pillow does; fewer than 256 pixels stay."""
    levels = image.astype(jnp.int32)

    def channel(values):
        # Counting by sorting or by a product of one-hot values takes three to four times as long on a CPU.
        counts = jnp.bincount(values.reshape(-1), length=256)
        last = counts[values.max()]
        step = (values.size - last) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table[values], values)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(levels).astype(image.dtype)


def jitter(key, image, strengths):
    """One image uint8[h, w, c] with random brightness, contrast, saturation and hue, in random order.

    `strengths` are four numbers: factors are uniform in max(0, 1 - strength) ... 1 + strength, the hue turns by up to its
    strength either way (torchvision's ColorJitter).
    """
    bright, contrasting, saturated, turn = strengths
    lows = jnp.array([max(0.0, 1 - bright), max(0.0, 1 - contrasting), max(0.0, 1 - saturated), -turn], jnp.float32)
    highs = jnp.array([1 + bright, 1 + contrasting, 1 + saturated, turn], jnp.float32)
    draw_key, order_key = jax.random.split(key)
    factors = jax.random.uniform(draw_key, (4,), minval=lows, maxval=highs)
    operations = (brightness, contrast, saturation, hue)
    used = [place for place, strength in enumerate(strengths) if strength]
    order = jax.random.permutation(order_key, jnp.array(used))
    values = image.astype(jnp.float32)
    for step in range(len(used)):
        values = jax.lax.switch(order[step], operations, values, factors[order[step]])
    return jnp.round(values).astype(image.dtype)


def _blend(start, end, factor):
    return jnp.clip(start + factor * (end - start), 0, 255)


def _grey(image):
    """float32[h, w, 1], the luminance of ITU-R 601; multiplied out, since a product with three weights is slow on a CPU."""
    if image.shape[-1] == 1:
        return image
    return (0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2])[..., None]
