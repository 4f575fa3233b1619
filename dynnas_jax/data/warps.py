"""Geometric maps of one image uint8[h, w, c], all read bilinearly, and their random use."""

import math

import jax
import jax.numpy as jnp

ATTEMPTS = 10  # to draw a crop that lies within the image, as torchvision does


def sample(image, rows, columns, fill=0):
    """The image read at float32 rows[...] and columns[...], `fill` outside: uint8[..., c]."""
    height, width, _ = image.shape
    top, left = jnp.floor(rows), jnp.floor(columns)
    total = jnp.zeros((*rows.shape, image.shape[-1]), jnp.float32)
    for corner_row, row_weight in ((top, 1 - (rows - top)), (top + 1, rows - top)):
        for corner_column, column_weight in ((left, 1 - (columns - left)), (left + 1, columns - left)):
            inside = (corner_row >= 0) & (corner_row < height) & (corner_column >= 0) & (corner_column < width)
            r = jnp.clip(corner_row, 0, height - 1).astype(jnp.int32)
            c = jnp.clip(corner_column, 0, width - 1).astype(jnp.int32)
            weight = jnp.where(inside, row_weight * column_weight, 0.0)
            total = total + weight[..., None] * image[r, c].astype(jnp.float32)
            if fill:
                total = total + fill * (row_weight * column_weight - weight)[..., None]
    return jnp.round(total).astype(jnp.uint8)


def affine(image, matrix, shift, fill=0):
    """Reads pixel (row, column), counted from the centre, at matrix float32[2, 2] @ (row, column) + shift float32[2]."""
    height, width, _ = image.shape
    row = (jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2)[:, None]
    column = (jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2)[None]
    rows = matrix[0, 0] * row + matrix[0, 1] * column + (height - 1) / 2 + shift[0]
    columns = matrix[1, 0] * row + matrix[1, 1] * column + (width - 1) / 2 + shift[1]
    return sample(image, rows, columns, fill)


def rotation(angle, scale=1.0):
    """The matrix float32[2, 2] that reads an image turned by `angle` (radians) and `scale` times as small."""
    cosine, sine = scale * jnp.cos(angle), scale * jnp.sin(angle)
    return jnp.array([[cosine, -sine], [sine, cosine]])


def random_affine(key, image, rotate, zoom, shift):
    """Turned by up to `rotate` degrees, its size times 1 - zoom ... 1 + zoom, moved by up to `shift` pixels, each way."""
    draw = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    matrix = rotation(draw[0] * (rotate * jnp.pi / 180), 1 / (1 + draw[1] * zoom))
    return affine(image, matrix, draw[2:] * shift)


def random_resized_crop(key, image, size, scale, ratio):
    """A random crop of `scale` (low, high) parts of the area and `ratio` (low, high) of width to height: uint8[size, size, c].

    Area and the ratio's logarithm are uniform (Szegedy et al. 2015, arXiv 1409.4842, section 6). Of 10 draws the first
    that fits counts; if none does, the central crop of the nearest possible ratio, as torchvision does.
    """
    height, width, _ = image.shape
    box_key, place_key = jax.random.split(key)
    draw, place = jax.random.uniform(box_key, (2, ATTEMPTS)), jax.random.uniform(place_key, (2,))
    return resized(image, *random_box(draw, place, height, width, scale, ratio), size)


def random_box(draw, place, height, width, scale, ratio, xp=jnp):
    """(top, left, rows, columns), float32 of whole pixels, of uniform draws float32[2, ATTEMPTS] and [2]; NumPy or JAX alike."""
    area = height * width * (scale[0] + draw[0] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = xp.exp(low + draw[1] * (high - low))
    columns, rows = xp.round(xp.sqrt(area * shape)), xp.round(xp.sqrt(area / shape))
    fits = (columns >= 1) & (rows >= 1) & (columns <= width) & (rows <= height)
    first = xp.argmax(fits)
    widest = min(max(width / height, ratio[0]), ratio[1])
    central = round(min(height, width / widest)), round(min(width, height * widest))
    rows = xp.where(fits.any(), rows[first], float(central[0]))
    columns = xp.where(fits.any(), columns[first], float(central[1]))
    room = xp.stack([height - rows, width - columns])
    chosen = xp.floor(place * (room + 1))
    top, left = xp.where(fits.any(), xp.minimum(chosen, room), xp.floor(room / 2))
    return top, left, rows, columns


def check_box(where, scale, ratio):
    """Raises ValueError for a crop_scale or crop_ratio that no box has."""
    for name, value in (("crop_scale", scale), ("crop_ratio", ratio)):
        most = 1 if name == "crop_scale" else math.inf
        if not isinstance(value, (tuple, list)) or len(value) != 2 or not 0 < value[0] <= value[1] <= most:
            above = ", at most 1" if name == "crop_scale" else ""
            raise ValueError(f"{name}={value!r} in {where}: give (low, high) with 0 < low <= high{above}")


def resized(image, top, left, rows, columns, size):
    """The box resized to uint8[size, size, c], smoothed where it shrinks, as Pillow's BILINEAR does on the cropped image."""
    across = _weights(left, columns, image.shape[1], size)
    down = _weights(top, rows, image.shape[0], size)
    highest = jax.lax.Precision.HIGHEST  # 8 bits of mantissa, an accelerator's default, would lose levels
    narrow = jnp.einsum("hwc,ow->hoc", image.astype(jnp.float32), across, precision=highest)
    return jnp.round(jnp.einsum("hoc,ph->poc", narrow, down, precision=highest)).astype(jnp.uint8)


def _weights(start, length, pixels, size):
    """float32[size, pixels]: the triangle filter of each output pixel over the pixels start ... start + length - 1."""
    scale = length / size
    support = jnp.maximum(scale, 1.0)
    centre = start + (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) * scale
    place = jnp.arange(pixels, dtype=jnp.float32)[None]
    inside = (place >= start) & (place < start + length)
    weight = jnp.where(inside, jnp.maximum(0.0, 1 - jnp.abs(place + 0.5 - centre) / support), 0.0)
    return weight / weight.sum(axis=1, keepdims=True)
