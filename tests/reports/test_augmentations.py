"""The page of augmentations: which rows it has, and that a row shows what it says."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dynnas_jax.reports import augmentations, plots


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs):
    with quick_programs():
        yield


def rows(figure):
    """Name -> the pixels shown beside it."""
    return {axes.texts[0].get_text(): np.asarray(axes.images[0].get_array()) for axes in figure.axes}


def test_every_row_shows_its_augmentation():
    images = np.random.default_rng(0).integers(20, 236, (4, 8, 8, 3)).astype(np.uint8)
    figure = augmentations.page(images, lambda key, x: 255 - x, lambda key, x, labels: (x // 2, jnp.zeros_like(labels)))
    found = rows(figure)
    original = found.pop("original")
    assert original.shape == (8, 4 * 10, 3)
    np.testing.assert_array_equal(original[:, 10:18], images[1])
    assert np.all(original[:, 8:10] == 255)
    unchanged = {name for name, row in found.items() if np.array_equal(row, original)}
    assert unchanged == {"equalize 9"}  # as in Pillow, of images with so few pixels
    np.testing.assert_array_equal(found["data.augment"][:, :8], 255 - original[:, :8])
    np.testing.assert_array_equal(found["and train.mixing"][:, :8], (255 - original[:, :8]) // 2)
    assert len(found) == 10 + 2 + 13 + 2
    picture = Image.open(io.BytesIO(plots.png(figure, dpi=40)))
    assert min(picture.size) > 100
