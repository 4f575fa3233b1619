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


def test_a_fingerprint_is_of_images_labels_and_order():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)
    split = splits.Split(images, np.arange(6, dtype=np.int32), np.arange(6))
    mine = splits.fingerprint(split)
    assert splits.fingerprint(splits.Split(images.copy(), split.labels.astype(np.int64), np.arange(6) + 9)) == mine
    brighter = images.copy()
    brighter[3, 2, 1, 0] ^= 1
    others = (split[::-1], split[:5], splits.Split(brighter, split.labels, split.image_id))
    others += (splits.Split(images, split.labels[::-1], split.image_id),)
    others += (splits.Split(images.reshape(6, 2, 8, 3), split.labels, split.image_id),)
    assert len({mine, *map(splits.fingerprint, others)}) == 6
