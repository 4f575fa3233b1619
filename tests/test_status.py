"""What is told of runs that are under way, from files made by hand."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from dynnas_jax import records, status
from dynnas_jax.stages import collect

NOW = 1e9
NAMES = ("train", "collect", "search")


@pytest.fixture
def run(tmp_path):
    """A working directory, by its path."""
    (tmp_path / "config.json").write_text(json.dumps({"collect": {"subnets": 48}}))
    return tmp_path


def begin(run, name, seconds_ago=0.0):
    (run / name).mkdir()
    touch(run / name / "started.json", seconds_ago)


def touch(path, seconds_ago):
    path.touch()
    os.utime(path, (NOW - seconds_ago, NOW - seconds_ago))


def told(run):
    return [line.split(maxsplit=1)[1] for line in status.lines(run, NAMES, now=NOW)]


def test_nothing_begun_and_stages_done(run):
    assert status.lines(run, NAMES) == ["train      not started", "collect    not started", "search     not started"]
    begin(run, "train")
    (run / "train" / "manifest.json").touch()
    assert told(run)[0] == "done"


@pytest.mark.parametrize("name", ["train", "teacher"])
def test_a_training(run, name):
    told = lambda: status.lines(run, (name,), now=NOW)[0].split(maxsplit=1)[1]  # noqa: E731
    begin(run, name, 500)
    assert told() == "started, last heard of 8 min ago"
    training = {"step": 300, "steps": 1000, "images_per_s": 71.4, "wait_share": 0.16, "loss": 2.5, "time_left_s": 315}
    facts = {"stage": name, "training": training, "elapsed_s": 120, "updated": NOW - 12, "process": 1}
    file = run / name / "progress.json"
    file.write_text(json.dumps(facts))
    touch(file, 12)
    assert told() == (
        "started, step 300 of 1000, 71 images/s, waiting for input 16 % of the time, loss 2.5, 5 min left, for 2 min, "
        "last heard of 12 s ago"
    )
    nothing_known = dict.fromkeys(("images_per_s", "wait_share", "loss", "time_left_s"))
    file.write_text(json.dumps({**facts, "training": {**training, **nothing_known}}))
    touch(file, 12)
    assert told() == "started, step 300 of 1000, for 2 min, last heard of 12 s ago"
    for damaged in ("{", json.dumps({**facts, "training": {"step": 300}})):
        file.write_text(damaged)
        touch(file, 12)
        assert told() == "started, progress.json is damaged, last heard of 12 s ago"


def test_records_and_other_stages(run):
    begin(run, "collect", 7200)
    begin(run, "search", 7200)
    assert told(run)[1:] == [
        "started, 0 of 48 subnets, last heard of 2 h 0 min ago",
        "started, last heard of 2 h 0 min ago",
    ]
    store = records.create(run / "collect/records.zarr", "space", genes=2, image_id=np.arange(3), chunk_rows=4)
    rows = {"genome": np.zeros((8, 2), np.int32), "cost": np.zeros((8, 1))}
    store.write(0, **rows, score=np.zeros((8, 3, 1)), correct=np.zeros((8, 3, 1), bool))
    for file in (run / "collect").rglob("*"):
        touch(file, 40)
    assert told(run)[1] == "started, 8 of 48 subnets, last heard of 40 s ago"
    (run / "config.json").write_text(json.dumps({"collect": {}}))
    assert told(run)[1].startswith(f"started, 8 of {collect.run.__kwdefaults__['subnets']} subnets")


def test_no_working_directory(tmp_path):
    with pytest.raises(ValueError, match="is no working directory"):
        status.lines(tmp_path, NAMES)


def test_it_takes_no_jax(run):
    begin(run, "train")
    script = """
        import sys
        from pathlib import Path
        from dynnas_jax import status
        print(status.lines(Path(sys.argv[1]), ("train", "search")))
        assert not {"jax", "orbax", "tensorstore"} & set(sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(run)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "started, last heard of" in done.stdout
