"""The order of the images, and streams against arrays."""

import jax
import numpy as np
import pytest
from PIL import Image

from dynnas_jax.data import augment, sources
from dynnas_jax.train import feed, loop, sandwich


@pytest.mark.parametrize(("length", "batch_size"), [(12, 4), (10, 4), (7, 7), (9, 5)])
def test_every_image_has_its_turn_in_each_epoch(length, batch_size):
    steps = length * 3 // batch_size + 1
    drawn = np.concatenate([feed.batch_indices(length, batch_size, step, 0) for step in range(steps)])
    assert drawn.dtype == np.int32
    epochs = [tuple(drawn[start : start + length]) for start in range(0, 3 * length, length)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert len(set(epochs)) == 3
    assert tuple(feed.batch_indices(length, batch_size, 0, 1)) != tuple(drawn[:batch_size])


@pytest.fixture(scope="module")
def photos(split, tmp_path_factory):
    """The images of `split` as a folder, the last eight for test."""
    root = tmp_path_factory.mktemp("photos")
    for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        path = root / ("test" if index >= 32 else "train") / str(label) / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    return str(root)


@pytest.fixture(scope="module")
def whole(photos):
    return sources.load(photos, holdout=0).train


@pytest.fixture(scope="module")
def streamed(photos):
    return sources.load(photos, holdout=0, stream={"threads": 2}).train


def fit(micro, train, directory=None, **options):
    return loop.fit(
        micro,
        train,
        sandwich.rule(random_subnets=1),
        **{"steps": 5, "batch_size": 8, "augment": augment.rule(pad=1), "mesh": loop.data_mesh(8), **options},
        directory=directory,
        checkpoint_every=2,
    )


def test_both_feed_the_same_images(whole, streamed):
    mesh = loop.data_mesh(8)
    kinds = [feed.feed(train, 8, range(3, 9), 0, mesh) for train in (whole, streamed)]
    for one, other in zip(*kinds, strict=True):
        np.testing.assert_array_equal(other.images, one.images[one.indices])
        np.testing.assert_array_equal(other.labels, one.labels[one.indices])
        assert other.indices is None
        assert len(other.images.sharding.device_set) == 8


def test_a_streamed_run_equals_one_in_memory(micro, whole, streamed):
    one, other = fit(micro, whole), fit(micro, streamed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), other, one)


def test_a_streamed_run_that_is_resumed_equals_one_that_never_stopped(micro, streamed, tmp_path):
    unbroken = fit(micro, streamed)

    class Killed(Exception):
        pass

    def killed(variables):
        raise Killed

    with pytest.raises(Killed):
        fit(micro, streamed, tmp_path, evaluate=killed, evaluate_every=3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    jax.tree.map(np.testing.assert_array_equal, fit(micro, streamed, tmp_path), unbroken)
