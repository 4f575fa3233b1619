"""Resizing inside jit, against Pillow."""

import jax
import numpy as np
import pytest
from PIL import Image

from dynnas_jax.data.resize import at_resolution, resized
from dynnas_jax.data.splits import Split


@pytest.mark.parametrize(("side", "other"), [(32, 24), (32, 13), (8, 6), (8, 12)])
def test_as_pillow_resizes(side, other):
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 1), np.uint8)
    found = np.asarray(jax.jit(resized, static_argnums=1)(images, other))
    assert found.dtype == np.uint8
    for mine, image in zip(found, images, strict=True):
        pillow = Image.fromarray(image[..., 0]).resize((other, other), Image.Resampling.BILINEAR)
        # Pillow rounds after each of the two axes.
        assert np.abs(mine[..., 0].astype(int) - np.asarray(pillow).astype(int)).max() <= 1


def test_a_split_of_no_whole_batches():
    generator = np.random.default_rng(1)
    split = Split(generator.integers(0, 256, (300, 8, 8, 3), np.uint8), np.arange(300, dtype=np.int32), np.arange(300))
    assert at_resolution(split, 8) is split
    smaller = at_resolution(split, 5)
    np.testing.assert_array_equal(at_resolution(split, 5, at_once=110).images, smaller.images)
    np.testing.assert_array_equal(smaller.images, resized(split.images, 5))
    np.testing.assert_array_equal(smaller.labels, split.labels)
