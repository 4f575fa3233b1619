"""Checkpoints come back bit by bit, or one line says why not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

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
    return state.create(variables, state.optimizer(10).transform)


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
    with checkpoints.Store(directory) as store:
        return store.latest(shapes, SHARDING)


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


DAMAGES = (garbage, truncated, without_data, without_arrays)


def refusals(directory):
    """What is said of each run in a directory, one JSON string a line."""
    for run in sorted(Path(directory).iterdir()):
        try:
            latest(run, train_state(size=4 if run.name == "another_network" else 3))
            print(json.dumps(f"{run} was read"))
        except ValueError as error:
            print(json.dumps(str(error)))


@pytest.fixture(scope="module")
def said(written, tmp_path_factory):
    """{damage: message}, from another process: what Orbax leaves behind of a failed read disturbs later tests."""
    directory = tmp_path_factory.mktemp("damaged")
    for name, damage in [*((damage.__name__, damage) for damage in DAMAGES), ("another_network", lambda folder: None)]:
        damage(shutil.copytree(written, directory / name) / "checkpoints" / "8")
    script = f"import {Path(__file__).stem} as tests; tests.refusals({str(directory)!r})"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    return dict(zip(sorted(path.name for path in directory.iterdir()), lines, strict=True))


@pytest.mark.parametrize("damage", [*(damage.__name__ for damage in DAMAGES), "another_network"])
def test_a_checkpoint_that_cannot_be_read_is_named_in_one_line(said, damage):
    assert f"{damage}/checkpoints/8 is corrupt or of another network" in said[damage]
    assert "delete that folder to go on from an earlier one" in said[damage]
    assert "\n" not in said[damage]
