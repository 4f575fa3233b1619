"""Checkpoints come back bit by bit, or one line says why not."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from dynnas_jax.train import checkpoints, state

SHARDING = SingleDeviceSharding(jax.devices()[0])


def train_state(size=3, seed=0):
    kernel = jnp.asarray(np.random.default_rng(seed).normal(size=size), jnp.float32)
    variables = {"params": {"a": {"kernel": kernel}}, "batch_stats": {"n": {"mean": kernel / 3}}}
    return state.create(variables, state.optimizer(10))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    store = checkpoints.Store(directory, every=2)
    assert store.latest(train_state(), SHARDING) is None
    assert [store.due(step) for step in (1, 2, 3, 4)] == [False, True, False, True]
    for step in (2, 4, 6, 8):
        store.save(step, train_state(seed=step))
    store.close()
    return directory


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def latest(directory, shapes):
    try:
        with checkpoints.Store(directory) as store:
            return store.latest(shapes, SHARDING)
    finally:
        gc.collect()  # Orbax leaves coroutines of a failed read behind; they complain when they are collected


def test_the_newest_comes_back(copy):
    found = latest(copy, train_state())
    jax.tree.map(np.testing.assert_array_equal, found, train_state(seed=8))
    assert isinstance(found, state.TrainState)


def test_the_newest_three_are_kept(written):
    assert sorted(path.name for path in (written / "checkpoints").iterdir()) == ["4", "6", "8"]


def test_after_deleting_the_newest_the_one_before_it_comes_back(copy):
    shutil.rmtree(copy / "checkpoints" / "8")
    jax.tree.map(np.testing.assert_array_equal, latest(copy, train_state()), train_state(seed=6))


def garbage(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"garbage")


def truncated(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-20])


def without_data(folder):
    shutil.rmtree(folder / "default")


def without_arrays(folder):
    for path in folder.rglob("d/*"):
        path.unlink()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [garbage, truncated, without_data, without_arrays])
def test_a_damaged_checkpoint_is_named_in_one_line(copy, damage):
    damage(copy / "checkpoints" / "8")
    with pytest.raises(ValueError, match="is corrupt or of another network") as error:
        latest(copy, train_state())
    assert str(copy / "checkpoints" / "8") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_another_network_is_named_in_one_line(copy):
    with pytest.raises(ValueError, match="is corrupt or of another network") as error:
        latest(copy, train_state(size=4))
    assert "\n" not in str(error.value)
