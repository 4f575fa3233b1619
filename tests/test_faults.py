"""A run that is killed three times ends where the one that was left alone did; and the comparison sees what differs."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import faults  # noqa: E402

STAGES = ("train", "collect", "predict", "search", "evaluate")


def test_killed_three_times(tiny_run, quick_programs, tmp_path):
    """In training, while records are made, and in the search; its programs are those that the fixture compiled."""
    with quick_programs():
        names = ("compilation_cache_dir", "disable_most_optimizations", "persistent_cache_min_compile_time_secs")
        settings = {f"JAX_{name.upper()}": str(jax.config.values[f"jax_{name}"]) for name in names}
    settings["PYTHONPATH"] = str(ROOT)
    asked = faults.command(tmp_path / "W", (f"--config={tiny_run.config_file}", f"--stages={','.join(STAGES)}"))
    delay_s = 0.5 * np.random.default_rng().random()
    # Collecting in two calls; the search takes some seconds.
    moments = [
        faults.Moment("train", 0.0, saved=2),
        faults.Moment("collect", 0.0, saved=8),
        faults.Moment("search", delay_s),
    ]
    kills = faults.broken(asked, tmp_path / "W", moments, settings)
    assert [ended.code for ended, _ in kills] == [-9, -9, -9], delay_s
    assert [ended.killed_in for ended, _ in kills] == ["train", "collect", "search"], delay_s
    assert all((ended.process, ended.alive) == (0, (0,)) for ended, _ in kills)
    assert kills[0][1] in ("checkpoint of step 2", "checkpoint of step 4", "checkpoint of step 6")
    assert [resumed_from for _, resumed_from in kills[1:]] == ["train done, 8 records", "predict done"]
    expected = faults.content(tiny_run.workdir, STAGES)
    assert faults.differences(faults.content(tmp_path / "W", STAGES), expected) == []
    assert {"train/supernet.msgpack", "collect/records.zarr", "search/found.json", "evaluate/evaluation.json"} <= set(
        expected
    )


def test_what_differs_is_seen_and_times_do_not_count(tiny_run, tmp_path):
    copy = Path(shutil.copytree(tiny_run.workdir, tmp_path / "W"))
    before = faults.content(tiny_run.workdir)
    log = copy / "train" / "metrics.jsonl"
    rows = [{**json.loads(line), "time_s": 0.0, "images_per_s": 1.0} for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert faults.differences(faults.content(copy), before) == []
    rows[0]["loss"] += 1e-12
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    weights = bytearray((copy / "train" / "supernet.msgpack").read_bytes())
    weights[-1] ^= 1
    (copy / "train" / "supernet.msgpack").write_bytes(weights)
    (copy / "search" / "pair.msgpack").unlink()
    assert faults.differences(faults.content(copy), before) == [
        "search/pair.msgpack",
        "train/metrics.jsonl",
        "train/supernet.msgpack",
    ]


def test_moments_are_spread_over_the_stages_and_follow_from_the_seed():
    took_s, parts = {"train": 10.0, "collect": 2.0, "predict": 1.0}, {"train": 20, "collect": 64}
    drawn = faults.draw(3, 30, took_s, 2, parts)
    assert drawn == faults.draw(3, 30, took_s, 2, parts) != faults.draw(4, 30, took_s, 2, parts)
    assert [m.stage for m in faults.draw(3, 3, took_s, 2, parts, ("predict", "train"))] == [
        "predict",
        "train",
        "predict",
    ]
    assert [moment.stage for moment in drawn[:6]] == ["train", "collect", "train", "predict", "train", "collect"]
    assert all(0 <= moment.delay_s < took_s[moment.stage] for moment in drawn)
    assert {moment.victim for moment in drawn} == {0, 1}
    for stage, count in (("train", 20), ("collect", 64), ("predict", 1)):
        saved = [moment.saved for moment in drawn if moment.stage == stage]
        assert all(0 <= number < count for number in saved)
        assert len(set(saved)) >= min(5, count)
    assert drawn[0].earlier() == drawn[0]._replace(delay_s=drawn[0].delay_s / 2, saved=drawn[0].saved // 2)


def test_who_is_alive_is_told_and_one_that_has_ended_is_not_killed(tmp_path):
    """Behind the search only the first of several processes goes on."""
    folder = tmp_path / "dynnas_jax"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text("import sys, time\nif sys.argv[-1] == '--process=0': time.sleep(60)\n")
    launcher = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes=2"]
    with subprocess.Popen([*launcher, "--", "run"], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        begin_s = time.monotonic()
        while list(faults.children(process.pid)) != [0] and time.monotonic() - begin_s < 30:
            time.sleep(0.02)
        assert faults.kill_one(process.pid, 1) == ((0,), 0)
    assert process.returncode == 128 + signal.SIGKILL


def test_what_is_saved_of_a_stage(tiny_run, tmp_path):
    assert faults.saved(tiny_run.workdir, "train") == faults.saved(tiny_run.workdir, "collect") == math.inf
    copy = Path(shutil.copytree(tiny_run.workdir, tmp_path / "W"))
    assert faults.state_of(copy) == "report done"
    for name in ("train", "collect"):
        (copy / name / "manifest.json").unlink()
    assert (faults.saved(copy, "train"), faults.saved(copy, "collect")) == (6, 16)
    assert faults.state_of(tmp_path) == "nothing"
