"""Pooling by hand; images that stay in files, a few in memory at a time, each with its own label."""

import tracemalloc

import numpy as np
import pytest

from dynnas_jax.data.splits import Split
from dynnas_jax.search import stage_features
from dynnas_jax.search.stage_importance import Bounds


def stage_maps(variables, images):
    return (images.astype(np.float32) * variables["scale"],)


SCALE = {"scale": np.float32(2)}


class Files:
    """In place of `streams.Streamed`: image i is grey, i % 251; image 5 does not decode."""

    def __init__(self, count, side):
        self.shape, self.asked = (count, side, side, 3), []

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        raise AssertionError("images without the places where they were found")

    def read(self, places):
        self.asked.append(len(places))
        found = np.where(places == 5, 6, places)
        grey = (found % 251).astype(np.uint8)
        return np.broadcast_to(grey[:, None, None, None], (len(places), *self.shape[1:])).copy(), found


def test_pooling_by_hand_and_in_parts():
    maps = np.random.default_rng(0).normal(size=(5, 7, 7, 3)).astype(np.float32)
    found = np.asarray(stage_features.pooled(maps, 3)).reshape(5, 3, 3, 3)
    windows = [(0, 3), (2, 5), (4, 7)]
    for i, (top, bottom) in enumerate(windows):
        for j, (left, right) in enumerate(windows):
            np.testing.assert_allclose(
                found[:, i, j], maps[:, top:bottom, left:right].mean((1, 2)), rtol=1e-5, atol=1e-6
            )
    images = np.random.default_rng(1).integers(0, 256, (300, 4, 4, 1)).astype(np.uint8)
    split = Split(images, np.arange(300, dtype=np.int32), np.arange(300))
    chosen = np.random.default_rng(2).permutation(300)
    found = stage_features.collected(stage_maps, SCALE, split, chosen, (Bounds(290, 2),))
    expected = 2 * images[chosen[:290]].astype(float).reshape(290, 2, 2, 2, 2).mean((2, 4)).reshape(290, 4)
    np.testing.assert_allclose(found.stages[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(found.labels, chosen[:290])


def test_large_images_are_in_memory_a_few_at_a_time():
    """30 images of 700x700 pixels are 44 MB; no more than the two of a part are read at once, and none is kept."""
    files = Files(40, 700)
    split = Split(files, np.arange(40, dtype=np.int32), np.arange(40))
    tracemalloc.start()
    stage_features.collected(stage_maps, SCALE, split, np.arange(30), (Bounds(30, 1),))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(files.asked) == 2
    assert sum(files.asked) == 30
    assert most < 12 * 700**2 * 3


def test_nets_of_many_channels_get_fewer_images_at_a_time():
    """128 MiB of a stage's maps: 2 images of 512x512 with 64 channels in float32, of which four fit the pixels."""
    files = Files(5, 512)

    def wide(variables, images):
        return (images[..., :1].astype(np.float32) * np.ones((1, 1, 1, 64), np.float32) * variables["scale"],)

    bounds = (Bounds(5, 1),)
    stage_features.collected(
        wide, SCALE, Split(files, np.arange(5, dtype=np.int32), np.arange(5)), np.arange(5), bounds
    )
    assert files.asked == [2, 2, 1]


def test_an_image_in_the_place_of_a_damaged_one_has_its_own_label():
    labels = np.random.default_rng(3).permutation(20).astype(np.int32)
    split = Split(Files(20, 4), labels, np.arange(20))
    chosen = np.array([9, 5, 2, 0, 17])
    found = stage_features.collected(stage_maps, SCALE, split, chosen, (Bounds(5, 1),))
    places = found.stages[0][:, 0] / 2
    np.testing.assert_array_equal(places, [9, 6, 2, 0, 17])
    np.testing.assert_array_equal(found.labels, labels[places.astype(int)])


@pytest.mark.parametrize("samples", [(5, 3), (2, 5)])
def test_stages_may_have_fewer_samples_than_others(samples):
    split = Split(Files(20, 4), np.arange(20, dtype=np.int32), np.arange(20))

    def two(variables, images):
        return stage_maps(variables, images) * 2

    found = stage_features.collected(two, SCALE, split, np.arange(7, 15), tuple(Bounds(count, 1) for count in samples))
    assert [len(own) for own in found.stages] == list(samples)
    np.testing.assert_array_equal(found.labels, np.arange(7, 12))
