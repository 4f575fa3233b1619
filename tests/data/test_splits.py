import numpy as np
import pytest

from dynnas_jax.data import splits


@pytest.mark.parametrize("count", [0, 1, 3, 6, 7, 50, 93, 94, 99])
def test_stratified(count):
    """Six classes of very unequal size: exact count, within one of the proportion but for the promised minimum."""
    labels = np.repeat([3, 5, 6, 7, 8, 9], [1, 2, 2, 10, 25, 60])
    mask = splits.stratified(labels, count, np.random.default_rng(0))
    assert mask.sum() == count
    sizes = np.bincount(labels)[[3, 5, 6, 7, 8, 9]]
    taken = np.bincount(labels[mask], minlength=10)[[3, 5, 6, 7, 8, 9]]
    assert np.all(taken <= sizes)
    if 5 <= count <= 94:  # a class of one image stays in train; the others are in both
        assert np.all(taken[1:] >= 1)
        assert np.all(taken < sizes)
    assert np.all(abs(taken - sizes * count / 100) < 3)
