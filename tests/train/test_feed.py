"""The order of the images, and streams against arrays."""

import jax
import numpy as np
import pytest
from PIL import Image

from dynnas_jax import devices
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


@pytest.mark.parametrize(("together", "every", "at"), [(1, (), ()), (4, (6,), ()), (5, (0, 10), (7,)), (3, (2, 3), ())])
def test_calls_do_each_step_once_and_end_where_the_state_is_wanted(together, every, at):
    plan = feed.calls(0, 22, together, every, at)
    assert [step for call in plan for step in call] == list(range(22))
    assert {len(call) for call in plan} <= {1, together}
    ends = {call.stop for call in plan}
    assert {step for step in range(1, 22) if any(n and step % n == 0 for n in every)} | set(at) <= ends
    assert together == 3 or any(len(call) == together for call in plan)
    for call in plan:  # a run that goes on from any call's end makes the calls of the whole one
        assert feed.calls(call.stop, 22, together, every, at) == plan[plan.index(call) + 1 :]


def test_one_process_reads_its_rows_only(streamed):
    order = lambda position: (7 * position) % len(streamed)  # noqa: E731 - one line says it all
    read = lambda rows: list(streamed.images.batches(streamed.labels, 8, order, range(2, 5), rows))  # noqa: E731
    for whole, *halves in zip(read(range(8)), read(range(4)), read(range(4, 8)), strict=True):
        for everything, *parts in zip(whole, *halves, strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), everything)


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
        **{"steps": 5, "batch_size": 8, "augment": augment.rule(pad=1), "mesh": devices.data_mesh(8), **options},
        directory=directory,
        checkpoint_every=2,
    )


def test_both_feed_the_same_images(whole, streamed):
    mesh = devices.data_mesh(8)
    plan = [range(step, step + 1) for step in range(3, 9)]
    kinds = [feed.feed(train, 8, plan, 0, mesh) for train in (whole, streamed)]
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
