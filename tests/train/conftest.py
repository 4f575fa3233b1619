"""The smallest net of any use, and images to train it on."""

import numpy as np
import pytest

from dynnas_jax.data.splits import Split


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="session")
def micro(small_space):
    return small_space(
        stem=4,
        stage_widths=(8,),
        stage_strides=(2,),
        head=8,
        widths=(0.5, 1.0),
        depths=(1,),
        kernels=(3, 5),
        expands=(1, 2),
        divisor=4,
    )


@pytest.fixture(scope="session")
def split():
    """40 images whose class is how bright they are."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 40).astype(np.int32)
    images = generator.integers(0, 86, (40, 8, 8, 1)) + 85 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels, np.arange(40))
