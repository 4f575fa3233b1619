"""Geometric maps against SciPy and Pillow."""

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dynnas_jax.data import warps


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)


def by_scipy(image, matrix, shift, fill):
    """The bilinear map about the centre, channel by channel, in float64."""
    centre = (np.array(image.shape[:2]) - 1) / 2
    options = {"order": 1, "mode": "grid-constant", "cval": fill}
    planes = [
        ndimage.affine_transform(plane.astype(np.float64), matrix, centre - matrix @ centre + shift, **options)
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, axis=-1)


@pytest.mark.parametrize("fill", [0, 128])
def test_affine_equals_scipy(image, fill):
    generator = np.random.default_rng(1)
    for _ in range(5):
        matrix, shift = np.eye(2) + generator.normal(0, 0.4, (2, 2)), generator.normal(0, 2, 2)
        out = jax.jit(warps.affine, static_argnums=3)(image, matrix.astype(np.float32), shift.astype(np.float32), fill)
        assert out.dtype == np.uint8
        np.testing.assert_allclose(out, by_scipy(image, matrix, shift, fill), atol=0.51)


def test_random_affine_equals_scipy(image):
    key = jax.random.key(3)
    out = np.asarray(jax.jit(lambda k, x: warps.random_affine(k, x, 20.0, 0.2, 1.5))(key, image))
    draw = np.asarray(jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0), np.float64)
    angle, scale = np.deg2rad(draw[0] * 20), 1 / (1 + draw[1] * 0.2)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(out, by_scipy(image, matrix, draw[2:] * 1.5, 0), atol=0.51)


@pytest.mark.parametrize("size", [4, 7, 20])
@pytest.mark.parametrize("box", [(0, 0, 30, 40), (3, 5, 22, 17), (0, 12, 9, 28), (29, 39, 1, 1)])
def test_resized_equals_pillow(size, box):
    """Pillow rounds between its two passes: one level apart at most."""
    image = np.random.default_rng(2).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    top, left, rows, columns = box
    cropped = Image.fromarray(image[top : top + rows, left : left + columns])
    expected = np.asarray(cropped.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    out = jax.jit(warps.resized, static_argnums=5)(image, *(np.float32(value) for value in box), size)
    assert np.abs(np.asarray(out).astype(int) - expected).max() <= 1


def boxes(height, width, scale, ratio, count=2000):
    """By JAX, and the same by NumPy."""
    generator = np.random.default_rng(0)
    draws = generator.random((count, 2, warps.ATTEMPTS), np.float32), generator.random((count, 2), np.float32)
    given = height, width, scale, ratio
    found = np.stack(jax.jit(jax.vmap(lambda draw, place: warps.random_box(draw, place, *given)))(*draws), axis=1)
    by_numpy = [np.stack(warps.random_box(draw, place, *given, np)) for draw, place in zip(*draws, strict=True)]
    np.testing.assert_allclose(found, by_numpy, atol=1)  # where rounding falls to another pixel
    assert (found == by_numpy).mean() > 0.999
    return found


def test_boxes_lie_in_the_image_and_have_the_drawn_area_and_ratio():
    scale, ratio = (0.25, 0.75), (0.75, 4 / 3)
    found = boxes(200, 300, scale, ratio)
    np.testing.assert_array_equal(found, np.round(found))
    top, left, rows, columns = found.T
    assert top.min() == 0
    assert left.min() == 0
    assert (top + rows).max() == 200
    assert (left + columns).max() == 300
    part, shape = rows * columns / 60_000, columns / rows
    assert 0.245 < part.min() < 0.26
    assert part.max() < 0.755
    assert 0.74 < shape.min() < 0.77
    assert 1.3 < shape.max() < 1.35
    # The large areas do not fit at every ratio; the small ones all do, and there the ratio's logarithm is uniform.
    small = part < 0.4
    counts = np.histogram(np.log(shape[small]), np.linspace(np.log(0.74), np.log(1.35), 5))[0]
    assert counts.min() > 0.7 * counts.mean()


def test_where_no_draw_fits_the_crop_is_central():
    """An image four times as wide as high has no whole crop of at most 4/3."""
    found = boxes(30, 120, (1.0, 1.0), (0.75, 4 / 3), count=5)
    np.testing.assert_array_equal(found, [[0, 40, 30, 40]] * 5)
