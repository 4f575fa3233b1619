"""`dynnas run` in two processes of four devices under the launcher: left alone it equals one process of eight devices, and with
one process killed it ends, starts again and makes the same bytes."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dynnas_jax import pipeline, records, settings
from dynnas_jax.job import load_variables

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import faults  # noqa: E402

STAGES = ("train", "collect", "predict", "search")
STEPS = 40
# What happens to one of the processes: when (a stage, and what of it is saved: a training's step, or records), and the signal.
MOMENTS = (
    ("train", 2, signal.SIGTERM),
    ("train", 10, signal.SIGKILL),
    ("collect", 8, signal.SIGKILL),
    ("search", 0, signal.SIGKILL),
)
CONFIG = f"""
from ml_collections import ConfigDict


def get_config(mode=""):
    config = ConfigDict()
    config.seed = 0
    config.data = {{"name": "digits", "holdout": 64, "train_limit": 256, "test_limit": 32}}
    config.supernet = {{
        "network": "small_images", "stem": 4, "stage_widths": (8,), "stage_strides": (2,), "head": 8, "depths": (1,),
        "widths": (0.5, 0.75, 1.0), "kernels": (3, 5), "expands": (1, 2, 3, 4, 5, 6), "divisor": 2,
    }}
    config.train = {{"steps": {STEPS}, "batch_size": 16, "checkpoint_every": 2, "log_every": 2, "trackers": ()}}
    config.train.optimizer = {{"learning_rate": 0.05}}
    config.train.sandwich_rule = {{"random_subnets": 1}}
    config.collect = {{"subnets": 36, "calibration_images": 32}}
    config.predict = {{"epochs": 5}}
    config.search = {{"budgets": 2, "population": 8, "generations": 5, "calibration_images": 32}}
    config.dynamic = {{"max_macs_fraction": 0.99}}
    config.export = {{}}
    config.report = {{}}
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "two.py"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def launched(config_file, tmp_path_factory):
    """launched(workdir, flags of the launcher...): the launcher with two processes, started; their programs are kept."""
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as `quick_programs`
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }

    def start(workdir, *flags, redo=()):
        launcher = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes=2", "--devices=4", *flags]
        job = ["--", "run", f"--config={config_file}", f"--workdir={workdir}", f"--stages={','.join(STAGES)}", *redo]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*launcher, *job], env={**os.environ, **kept}, **pipes)

    return start


@pytest.fixture(scope="module")
def two(launched, tmp_path_factory):
    """The working directory of an unbroken run in two processes."""
    workdir = tmp_path_factory.mktemp("two") / "W"
    with launched(workdir) as process:
        said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return workdir


def alive(pid):
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # of a zombie it is empty
    except FileNotFoundError:
        return False


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "train" / "metrics.jsonl").read_text().splitlines()]
    return {(row["step"], name): value for row in rows for name, value in row.items() if "loss" in name}


def test_it_equals_one_process_of_eight_devices(two, config_file, tmp_path, quick_programs):
    config = settings.as_dict(settings.load([f"--config={config_file}"]))
    one = tmp_path / "one"
    with quick_programs():
        pipeline.run(config, one, names=STAGES)
    mine, theirs = losses(one), losses(two)
    assert mine.keys() == theirs.keys()
    np.testing.assert_allclose([theirs[key] for key in mine], list(mine.values()), rtol=1e-4)
    variables = [load_variables(workdir / "train" / "supernet.msgpack") for workdir in (one, two)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-3 * max(0.1, np.abs(a).max())), *variables)
    stores = [records.open(workdir / "collect" / "records.zarr") for workdir in (one, two)]
    for name in ("genome", "cost", "image_id", "done"):
        np.testing.assert_array_equal(*(store.read(name) for store in stores))
    scores = [np.asarray(store.read("score"), np.float32) for store in stores]
    np.testing.assert_allclose(*scores, atol=1e-2)
    found = [json.loads((workdir / "search" / "found.json").read_text()) for workdir in (one, two)]
    assert [[row["genome"] for row in each["front"]] for each in found] == [
        [row["genome"] for row in found[0]["front"]] for _ in found
    ]
    assert [[each["pair"][which]["genome"] for which in ("little", "big")] for each in found] == [
        [found[0]["pair"][which]["genome"] for which in ("little", "big")] for _ in found
    ]


def test_one_of_two_is_stopped_or_killed_the_other_is_ended_and_the_job_starts_again(two, launched, tmp_path):
    """In training, among the records, in the search; the last start makes the bytes of a run that nothing happened to.

    The launcher repeats --redo each time, which deletes nothing of what was saved.
    """
    workdir, draw, met = tmp_path / "W", random.Random(0), []
    with launched(workdir, f"--restarts={len(MOMENTS)}", "--grace_s=20", redo=("--redo=train",)) as process:
        try:
            for stage, least, number in MOMENTS:
                while process.poll() is None and not (
                    (workdir / stage).exists() and faults.saved(workdir, stage) >= least
                ):
                    time.sleep(0.005)
                if stage != "collect":  # whose calls are short
                    time.sleep(draw.uniform(0, 0.1))
                both = list(faults.children(process.pid).values())
                victim, begun_s = draw.choice(both), time.monotonic()
                met.append((stage, faults.saved(workdir, stage)))
                os.kill(victim, number)
                while any(map(alive, both)):
                    time.sleep(0.05)
                assert time.monotonic() - begun_s < 60
                while len(faults.children(process.pid)) < 2 and process.poll() is None:
                    time.sleep(0.05)
            said, _ = process.communicate(timeout=900)
        finally:
            if process.poll() is None:
                process.terminate()
    assert process.returncode == 0, said
    assert [stage for stage, saved in met if math.isfinite(saved)] == [stage for stage, _, _ in MOMENTS]
    assert 8 <= met[2][1] < 36
    assert said.count("--redo=train was carried out before the run was preempted or killed") == len(MOMENTS)
    told = [[line for line in said.splitlines() if f"(restart {n} of {len(MOMENTS)})" in line] for n in range(1, 5)]
    assert [len(lines) for lines in told] == [2, 1, 1, 1]  # both of them were preempted
    assert all("exited with code 75" in line for line in told[0])
    for (line,) in told[1:]:
        assert "was killed by SIGKILL" in line
        assert "gets SIGTERM now and SIGKILL 20 s later" in line
    assert faults.differences(faults.content(workdir, STAGES), faults.content(two, STAGES)) == []
