"""Checkpoints come back bit by bit; damaged ones, a full disk and other networks get one line, and nothing whole is lost."""

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from dynnas_jax.train import checkpoints, state

SHARDING = SingleDeviceSharding(jax.devices()[0])
STEPS = (2, 4, 6, 8)


def train_state(step=0, size=3000):
    """Noise, of the size at which arrays get files of their own."""
    kernel = jnp.asarray(np.random.default_rng(step).normal(size=size), jnp.float32).at[0].set(-0.0)
    variables = {"params": {"a": {"kernel": kernel}}, "batch_stats": {"n": {"mean": kernel / 3}}}
    return state.create(variables, state.optimizer(10).transform)._replace(step=jnp.int32(step))


def latest(directory, shapes=None):
    with checkpoints.Store(directory, every=2) as store:
        return store.latest(train_state() if shapes is None else shapes, SHARDING)


def assert_is(found, step):
    """Bits and all: NaN equals itself here, and -0.0 is not 0.0."""
    assert isinstance(found.state, state.TrainState)
    same = lambda a, b: (a.dtype, a.shape, np.asarray(a).tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes())  # noqa: E731
    assert jax.tree.all(jax.tree.map(same, found.state, train_state(step)))
    assert found.extra == {"best_accuracy": step / 10}


def files(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    with checkpoints.Store(directory, every=2) as store:
        assert store.latest(train_state(), SHARDING) is None
        assert store.latest_step() is None
        assert [store.due(step) for step in (1, 2, 3, 4)] == [False, True, False, True]
        for step in STEPS:
            store.save(step, train_state(step), {"best_accuracy": step / 10})
        assert store.latest_step() == 8
    return directory


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def test_the_newest_comes_back(copy):
    assert_is(latest(copy), 8)


def test_the_newest_three_are_kept(written):
    assert sorted(path.name for path in (written / "checkpoints").iterdir()) == ["4", "6", "8"]


def test_a_saved_state_is_a_copy(tmp_path):
    with checkpoints.Store(tmp_path) as store:
        current = train_state(5)
        store.save(5, current, {"best_accuracy": 0.5})
        jax.block_until_ready(jax.jit(lambda x: jax.tree.map(lambda leaf: leaf * 0, x), donate_argnums=0)(current))
    assert_is(latest(tmp_path), 5)


def test_a_step_is_saved_once(copy):
    before = files(copy)
    with checkpoints.Store(copy) as store:
        store.save(8, train_state(6))
    assert files(copy) == before


# Damage.


def change_all(content):
    return lambda folder: [path.write_bytes(content(path.read_bytes())) for path in folder.rglob("*") if path.is_file()]


def in_state(change):
    return lambda folder: change(folder / "state")


DAMAGES = {
    "garbage": change_all(lambda raw: b"garbage"),
    "truncated": change_all(lambda raw: raw[: len(raw) // 2]),
    "empty": change_all(lambda raw: b""),
    "zeros": change_all(lambda raw: bytes(len(raw))),
    "zeros_in_the_arrays": in_state(change_all(lambda raw: bytes(len(raw)))),
    "no_arrays": lambda folder: shutil.rmtree(folder / "state"),
    "no_array_files": lambda folder: [path.unlink() for path in folder.rglob("d/*")],
    "no_extra": lambda folder: shutil.rmtree(folder / "extra"),
    "other_extra": lambda folder: (folder / "extra/metadata").write_text('{"digest": "", "extra": {}}'),
    "nothing_left": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_falls_back_to_the_one_before(copy, damage, capfd):
    DAMAGES[damage](copy / "checkpoints" / "8")
    with checkpoints.Store(copy, every=2) as store:
        assert_is(store.latest(train_state(), SHARDING), 6)
        said = capfd.readouterr().err.splitlines()
        store.save(8, train_state(8), {"best_accuracy": 0.8})
    (line,) = said
    assert line.startswith("dynnas: the checkpoint of step 8 is damaged (")
    assert line.endswith(f"it is now {copy / 'damaged' / '8'}, training goes on from step 6")
    assert_is(latest(copy), 8)
    assert capfd.readouterr().err == ""


def test_a_flipped_byte_that_no_format_notices_is_found_by_the_digest(copy, capfd):
    """Somewhere in the arrays, where reading gives other numbers and no error."""
    saved, silent = files(copy / "checkpoints/8/state"), []
    expected = checkpoints._read_arrays(copy / "checkpoints/8/state")
    largest = max(saved, key=lambda path: len(saved[path]))
    for place in np.linspace(0, len(saved[largest]) - 1, 12).astype(int).tolist():
        content = bytearray(saved[largest])
        content[place] ^= 0x10
        largest.write_bytes(content)
        try:
            read = checkpoints._read_arrays(copy / "checkpoints/8/state")
        except ValueError:
            continue
        if any((read[path] != expected[path]).any() for path in expected):
            silent.append(place)
            break
    assert silent
    assert_is(latest(copy), 6)
    assert "step 8 is damaged (its content is not what was saved)" in capfd.readouterr().err


def test_two_damaged_ones(copy, capfd):
    for step in ("8", "6"):
        DAMAGES["truncated"](copy / "checkpoints" / step)
    assert_is(latest(copy), 4)
    lines = capfd.readouterr().err.splitlines()
    assert ["step 8" in lines[0], "step 6" in lines[1], len(lines)] == [True, True, 2]


def test_none_can_be_read(copy):
    for folder in (copy / "checkpoints").iterdir():
        DAMAGES["truncated"](folder)
    before = files(copy)
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read \(step 8: .*--redo=train") as error:
        latest(copy)
    assert "\n" not in str(error.value)
    assert files(copy) == before


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (lambda: train_state(size=4), r"it has float32\[3000\], not float32\[4\]"),
        (
            lambda: train_state()._replace(ema={"b": jnp.zeros(3)}),
            r"at ema/b it has nothing, not float32\[3\]",
        ),
        (lambda: train_state()._replace(ema={}), r"at ema/a/kernel it has float32\[3000\], not nothing"),
        (lambda: train_state()._replace(step=jnp.zeros(())), r"at step it has int32\[\], not float32\[\]"),
    ],
)
def test_checkpoints_of_another_network_are_left_alone(copy, shapes, said):
    DAMAGES["truncated"](copy / "checkpoints" / "8")
    before = files(copy)
    with pytest.raises(ValueError, match=rf"checkpoints/6 is of another network \(.*{said}\); pass --redo=train"):
        latest(copy, shapes())
    assert files(copy) == before


# Rolling back.


def test_rolling_back_leaves_out_what_only_a_stopped_run_has(copy):
    with checkpoints.Store(copy, every=2) as store:
        store.save(9, train_state(9), {"best_accuracy": 0.9})
        assert store.latest_step() == 9
        assert_is(store.roll_back(train_state(), SHARDING), 8)
        assert store.latest_step() == 8
        DAMAGES["truncated"](copy / "checkpoints" / "8")
        assert_is(store.roll_back(train_state(), SHARDING), 6)
        store.save(7, train_state(7), {"best_accuracy": 0.7})
        assert_is(store.latest(train_state(), SHARDING), 7)


def test_a_run_stopped_often_rolls_back_to_where_an_unbroken_one_does(tmp_path):
    for step in (4, 8, 9, 10, 11, 12, 13, 14, 15):
        with checkpoints.Store(tmp_path, every=4) as store:
            store.save(step, train_state(step), {"best_accuracy": step / 10})
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [4, 8, 12, 13, 14, 15]
    with checkpoints.Store(tmp_path, every=4) as store:
        DAMAGES["truncated"](tmp_path / "checkpoints" / "12")
        assert_is(store.roll_back(train_state(), SHARDING), 8)


def test_rolling_back_to_the_start(copy):
    with checkpoints.Store(copy, every=100) as store:
        assert store.roll_back(train_state(), SHARDING) is None
        assert store.latest(train_state(), SHARDING) is None


# A disk that takes no more.

FILL = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_checkpoints as tests
tests.fill(Path(sys.argv[1]), int(sys.argv[2]))
"""


def fill(directory, limit):
    """Saves until the disk has no room, or until files may have no more than `limit` bytes; prints what is said of it."""
    with checkpoints.Store(directory) as store:
        store.save(1, train_state(1), {"best_accuracy": 0.1})
        store.wait()
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            for step in range(2, 9):
                store.save(step, train_state(step, size=20_000 * step))
        except (OSError, ValueError) as error:
            print(json.dumps([type(error).__name__, str(error), sorted(os.listdir(store.directory))]))


def filled(directory, limit, *before):
    """What `fill` prints; in a process of its own, since limits stay and Orbax's threads complain."""
    command = [*before, sys.executable, "-c", FILL.format(tests=str(Path(__file__).parent)), str(directory), str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    assert "orbax" not in run.stderr.replace("orbax-checkpoint-tmp", "") or "Event loop is closed" in run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_files_that_may_not_grow_leave_the_earlier_checkpoints(tmp_path):
    kind, said, left = filled(tmp_path, 80_000)
    assert (kind, left) == ("ValueError", ["1"])
    assert said.startswith(f"no checkpoint could be written to {tmp_path / 'checkpoints'} (")
    assert "\n" not in said
    assert_is(latest(tmp_path), 1)


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path):
    """A disk of one megabyte in memory, seen by the process alone that fills it."""
    mount, keep = tmp_path / "small", tmp_path / "kept"
    mount.mkdir()
    alone = ("unshare", "--map-root-user", "--mount", "sh", "-c")
    mounted = f'mount -t tmpfs -o size=1m tmpfs {mount} && "$@"; code=$?; cp -r {mount} {keep}; exit $code'
    if subprocess.run([*alone, f"mount -t tmpfs tmpfs {mount}"], capture_output=True).returncode != 0:
        pytest.skip("this system lets no test mount a disk")
    kind, said, left = filled(mount, 0, *alone, mounted, "sh")
    assert kind == "OSError"
    assert said == f"[Errno 28] No space left on device: '{mount / 'checkpoints'}'"
    assert left
    newest = max(map(int, left))
    shapes = train_state(newest, size=20_000 * newest) if newest > 1 else train_state(1)
    assert int(latest(keep, shapes).state.step) == newest


# Several processes.

TWO = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from dynnas_jax import devices, processes
processes.join(sys.argv[1], 2, int(sys.argv[2]))
import jax
from jax.sharding import NamedSharding, PartitionSpec
import test_checkpoints as tests
whole = NamedSharding(devices.data_mesh(), PartitionSpec())
print(json.dumps({"found": tests.as_one_of_several(Path(sys.argv[4]), whole)}))
processes.wait_for_all("end")
"""


def as_one_of_several(directory, whole):
    """What a process finds that shares the directory with others."""
    found = []
    with checkpoints.Store(directory, every=2) as store:
        for step in (2, 4):
            placed = jax.tree.map(
                lambda leaf: jax.make_array_from_callback(leaf.shape, whole, lambda part, leaf=leaf: leaf[part]),
                jax.tree.map(np.asarray, train_state(step)),
            )
            store.save(step, placed, {"best_accuracy": step / 10})
        found.append(store.latest_step())
        if jax.process_index() == 0:
            DAMAGES["truncated"](directory / "checkpoints" / "4")
        back = store.latest(train_state(), whole)
        assert all(leaf.sharding == whole for leaf in jax.tree.leaves(back.state))
        assert_is(checkpoints.Found(jax.tree.map(lambda leaf: leaf.addressable_data(0), back.state), back.extra), 2)
        found.append(store.latest_step())
        store.save(4, back.state, back.extra)
        found.append(store.latest_step())
        for shapes in (train_state(size=4), train_state()):
            try:
                store.latest(shapes, whole)
            except ValueError as error:
                found.append(str(error))
            if jax.process_index() == 0:
                for step in (2, 4):
                    DAMAGES["truncated"](directory / "checkpoints" / str(step))
    return found


def test_two_processes_find_the_same(two_processes, tmp_path):
    printed = two_processes(textwrap.dedent(TWO), Path(__file__).parent, tmp_path)
    first, second = (
        json.loads(next(line for line in text.splitlines() if line.startswith("{")))["found"] for text in printed
    )
    assert first == second
    assert first[:3] == [4, 2, 4]
    assert ["is of another network" in first[3], "can be read" in first[4], len(first)] == [True, True, 5]
    said = "".join(printed).count("the checkpoint of step 4 is damaged")
    assert said == 1
