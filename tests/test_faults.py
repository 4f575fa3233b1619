"""A run that is killed three times ends where the one that was left alone did; and the comparison sees what differs."""

import json
import shutil
import sys
from pathlib import Path

import jax

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
    moments = [faults.Moment("train", 1.0), faults.Moment("collect", 0.3), faults.Moment("search", 0.2)]
    kills = faults.broken(asked, tmp_path / "W", moments, settings)
    assert [ended.code for ended, _ in kills] == [-9, -9, -9]
    assert kills[0][0].killed_in == "train"
    assert all(ended.killed_in in STAGES for ended, _ in kills)
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
    took_s = {"train": 10.0, "collect": 2.0, "predict": 1.0}
    drawn = faults.draw(3, 30, took_s, 2)
    assert drawn == faults.draw(3, 30, took_s, 2) != faults.draw(4, 30, took_s, 2)
    assert [moment.stage for moment in drawn[:4]] == ["train", "collect", "predict", "train"]
    assert all(0 <= moment.delay_s < took_s[moment.stage] for moment in drawn)
    assert {moment.victim for moment in drawn} == {0, 1}
