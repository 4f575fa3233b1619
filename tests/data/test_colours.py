"""Colour operations against Pillow, and the hue against colorsys in float64."""

import colorsys

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from dynnas_jax.data import colours


def images(channels=3):
    """Noise, a dark gradient, one constant channel, and one where many values are the largest."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (17, 23, 3))
    dark = np.add.outer(np.arange(17) * 2, np.arange(23) * 3)[..., None] + np.array([5, 40, 90])
    constant = noise.copy() // 2 + 30
    constant[..., 1] = 77
    return [image[..., :channels].astype(np.uint8) for image in (noise, dark, constant, np.minimum(noise * 2, 255))]


def pillow(image):
    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def check(function, expected, image, levels):
    out = np.asarray(jax.jit(function)(image.astype(np.float32)))
    expected = np.asarray(expected).astype(float).reshape(image.shape)
    assert np.abs(np.round(out) - expected).max() <= levels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color", "Sharpness"])
def test_blends_equal_pillow(name, factor, channels):
    """Pillow cuts fractions off and rounds the grey: one level apart, twice where the factor doubles the difference."""
    function = {"Color": colours.saturation}.get(name) or getattr(colours, name.lower())
    for image in images(channels):
        expected = getattr(ImageEnhance, name)(pillow(image)).enhance(factor)
        check(lambda x: function(x, factor), expected, image, 1 if factor <= 1 else 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_tables_equal_pillow(channels):
    for image in images(channels):
        check(colours.equalize, ImageOps.equalize(pillow(image)), image, 0)
        check(colours.autocontrast, ImageOps.autocontrast(pillow(image)), image, 1)
        for bits in (1, 4, 7, 8):
            check(lambda x, bits=bits: colours.posterize(x, bits), ImageOps.posterize(pillow(image), bits), image, 0)
        for threshold in (1, 100, 255, 256):
            expected = ImageOps.solarize(pillow(image), threshold)
            check(lambda x, threshold=threshold: colours.solarize(x, threshold), expected, image, 0)
        check(lambda x: colours.solarize(x, 0), ImageOps.invert(pillow(image)), image, 0)


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.1, 0.5])
def test_hue_equals_colorsys(turn):
    for image in [*images(), np.full((2, 2, 3), 90, np.uint8), np.zeros((2, 2, 3), np.uint8)]:
        expected = np.empty(image.shape)
        for place in np.ndindex(image.shape[:2]):
            hue, saturation, value = colorsys.rgb_to_hsv(*(image[place] / 255))
            expected[place] = np.multiply(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), 255)
        out = jax.jit(colours.hue)(image.astype(np.float32), np.float32(turn))
        np.testing.assert_allclose(out, expected, atol=0.01)


def test_hue_and_saturation_leave_one_channel():
    image = images(1)[0].astype(np.float32)
    np.testing.assert_array_equal(colours.hue(image, 0.3), image)
    np.testing.assert_array_equal(colours.saturation(image, 0.3), image)
