"""Signs of life by a clock that the test sets."""

import json
import os

import pytest

from dynnas_jax import progress
from dynnas_jax.train import watch
from dynnas_jax.train.stopwatch import Speed


@pytest.fixture
def clock(monkeypatch):
    """Seconds, to be set."""
    now = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch.time, "time", lambda: 1e9 + now[0])
    return now


def test_a_line_and_a_file_about_once_a_minute(tmp_path, clock, capsys):
    heart = watch.Heartbeat(tmp_path, 100, 1000, 32, every_s=60)
    fresh = watch.read_progress(tmp_path)
    assert {name: fresh[name] for name in ("step", "steps", "images_per_s", "time_left_s")} == {
        **{"step": 100, "steps": 1000, "images_per_s": None, "time_left_s": None}
    }
    clock[0] += 40
    heart.beat(200, Speed(2.5, 0.1), 3.0)  # 40 s for 100 steps
    assert watch.read_progress(tmp_path) == fresh
    assert capsys.readouterr().err == ""
    clock[0] += 50
    heart.beat(300, Speed(2.0, 0.2), 2.5)  # and 50 s: 200 steps in 90 s, of which 14 s were waited for
    found = watch.read_progress(tmp_path)
    assert found == {
        "step": 300,
        "steps": 1000,
        "images_per_s": pytest.approx(32 * 200 / 90, abs=0.1),
        "wait_share": pytest.approx(14 / 90, abs=1e-3),
        "loss": 2.5,
        "time_left_s": pytest.approx(700 * 90 / 200, abs=0.1),
        "updated": 1e9 + 1090,
        "process": os.getpid(),
    }
    assert capsys.readouterr().err == (
        "dynnas: train: step 300 of 1000, 71 images/s, waiting for input 16 % of the time, loss 2.5, 5 min left\n"
    )
    heart.beat(310, Speed(10.0, 0.0), 2.5)
    assert watch.read_progress(tmp_path) == found
    heart.beat(1000, Speed(10.0, 0.0), float("nan"))
    assert "step 1000 of 1000, 320 images/s, waiting for input 0 % of the time, loss not finite, 0 s left" in (
        capsys.readouterr().err
    )
    last = watch.read_progress(tmp_path)
    assert (last["step"], last["time_left_s"], last["loss"]) == (1000, 0, None)


def test_at_a_terminal_the_bar_speaks(tmp_path, clock, monkeypatch, capsys):
    monkeypatch.setattr(watch.sys.stderr, "isatty", lambda: True, raising=False)
    watch.Heartbeat(tmp_path, 0, 10, 32).beat(10, Speed(1.0, 0.0), 1.0)
    assert capsys.readouterr().err == ""
    assert watch.read_progress(tmp_path)["step"] == 10


def test_other_processes_and_runs_without_a_directory_leave_no_file(tmp_path, clock, monkeypatch, capsys):
    watch.Heartbeat(None, 0, 10, 32).beat(10, Speed(1.0, 0.0), 1.0)
    assert "step 10 of 10" in capsys.readouterr().err
    monkeypatch.setattr(watch.processes, "is_first", lambda: False)
    watch.Heartbeat(tmp_path, 0, 10, 32).beat(10, Speed(1.0, 0.0), 1.0)
    assert (capsys.readouterr().err, list(tmp_path.iterdir())) == ("", [])


def test_progress_that_is_not_there_or_damaged(tmp_path):
    assert watch.read_progress(tmp_path) is None
    whole = {"step": 1, "steps": 2, "updated": 3.0, "process": 4}
    for content in ("{", "[]", '"a"', json.dumps({**whole, "step": "1"}), json.dumps({"step": 1})):
        (tmp_path / progress.FILE).write_text(content)
        with pytest.raises(ValueError, match=r"progress.json is damaged \("):
            watch.read_progress(tmp_path)
    (tmp_path / progress.FILE).write_text(json.dumps(whole))
    assert watch.read_progress(tmp_path) == {
        **whole,
        **dict.fromkeys(("images_per_s", "wait_share", "loss", "time_left_s")),
    }
