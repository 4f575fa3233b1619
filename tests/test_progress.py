"""Signs of life of a stage: what the file and the line say while it runs, and that neither stays in its way."""

import json
import os
import time

import pytest

from dynnas_jax import processes, progress, status

FAST = {"line_every_s": 0.02, "file_every_s": 0.01}


def until(condition, limit_s=10.0):
    """What a condition comes to, once it is true."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, "nothing was told"
        time.sleep(0.005)
    return found


def told(folder, **wanted):
    """What the file says, once it says this."""

    def look():
        facts = progress.read(folder)
        return facts if facts and all(facts[name] == value for name, value in wanted.items()) else None

    return until(look)


def test_a_stage_that_counts_nothing_tells_how_long_it_runs(tmp_path, capsys):
    with progress.of_stage("predict", tmp_path, **FAST):
        first = progress.read(tmp_path)
        assert {**first, "updated": 0, "elapsed_s": 0} == {
            **{"stage": "predict", "what": None, "unit": None, "done": None, "of": None, "per_s": None},
            **{"time_left_s": None, "training": None, "elapsed_s": 0, "updated": 0, "process": os.getpid()},
        }
        assert abs(first["updated"] - time.time()) < 60
        until(lambda: progress.read(tmp_path)["elapsed_s"] > 0)
        until(lambda: "dynnas: predict: for 0 s\n" in capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_counts_give_speed_and_time_left(tmp_path, capsys, monkeypatch):
    now = [100.0]
    with progress.of_stage("collect", tmp_path, **FAST):
        count = progress._Count("collecting", 48, "subnets", 8)
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        count._begin_s = now[0]
        assert count.facts() == {
            **{"what": "collecting", "unit": "subnets", "done": 8, "of": 48, "per_s": None, "time_left_s": None}
        }
        now[0] += 20
        count.done += 10  # 10 in 20 s, so 30 more take 60 s
        assert (count.facts()["per_s"], count.facts()["time_left_s"]) == (0.5, 60.0)
        monkeypatch.undo()


def test_the_outermost_count_is_told(tmp_path, capsys):
    with progress.of_stage("search", tmp_path, **FAST):
        with progress.counted("collecting", 40, "subnets", done=8) as advance:
            with progress.counted("evaluating", 2, "nets") as inner:
                inner()
                advance(8)
                facts = told(tmp_path, done=16)
                assert (facts["what"], facts["of"], facts["unit"]) == ("collecting", 40, "subnets")
                rate = 8 / facts["per_s"]
                assert facts["time_left_s"] == pytest.approx(3 * rate, rel=0.1, abs=0.1)
                until(lambda: "search: collecting: 16 of 40 subnets, " in capsys.readouterr().err)
            advance(24)
            told(tmp_path, done=40)
        told(tmp_path, what=None)


class Training:
    step = 300

    def facts(self):
        speed = {"images_per_s": 71.1, "wait_share": 0.156, "time_left_s": 315}
        return {"step": self.step, "steps": 1000, "loss": None, **speed}


TRAINED = "images/s, waiting for input 16 % of the time, loss not finite, 5 min left"


def test_a_training_is_told_with_its_stage_and_while_it_is_silent(tmp_path, capsys):
    now = Training()
    stage = progress.of_stage("grow", tmp_path, line_every_s=1e6, file_every_s=0.01)
    with stage, progress.counted("training", 5, "nets") as advance:
        with progress.training(now, None, line_every_s=0.02):
            told(tmp_path, training=now.facts(), done=0)
            line = f"grow: training: 0 of 5 nets, step 300 of 1000, 71 {TRAINED}, for 0 s\n"
            until(lambda: line in capsys.readouterr().err)
            until(lambda: line in capsys.readouterr().err)  # again, though there was no further step
            now.step = 301
            told(tmp_path, training=now.facts())
        assert f"dynnas: grow: step 301 of 1000, 71 {TRAINED}\n" in capsys.readouterr().err
        advance()
        told(tmp_path, training=None, done=1)


def test_a_training_of_its_own_is_a_stage(tmp_path, capsys, monkeypatch):
    with progress.training(Training(), tmp_path):
        assert progress.read(tmp_path)["stage"] == "train"
        assert progress._stages[-1].facts()["training"]["step"] == 300
    assert list(tmp_path.iterdir()) == []
    with progress.training(Training(), None, line_every_s=0.01):
        until(lambda: f"train: step 300 of 1000, 71 {TRAINED}, for 0 s" in capsys.readouterr().err)
    capsys.readouterr()
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.training(Training(), None, line_every_s=0.01):
        time.sleep(0.05)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with progress.training(Training(), tmp_path, line_every_s=0.01):
        time.sleep(0.05)
    assert (capsys.readouterr().err, list(tmp_path.iterdir())) == ("", [])


def test_status_says_what_a_stage_said(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"collect": {"subnets": 48}}))
    for name in ("collect", "evaluate"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "started.json").touch()
    facts = {
        **{"stage": "collect", "what": "collecting", "unit": "subnets", "done": 16, "of": 48, "per_s": 3.25},
        **{"time_left_s": 9.8, "elapsed_s": 12.0, "updated": time.time(), "process": 1},
    }
    (tmp_path / "collect" / progress.FILE).write_text(json.dumps(facts))
    (tmp_path / "evaluate" / progress.FILE).write_text("{")
    collect, evaluate = status.lines(tmp_path, ("collect", "evaluate"))
    assert "started, collecting: 16 of 48 subnets, 3.25 subnets/s, 10 s left, for 12 s, last heard of" in collect
    assert "started, progress.json is damaged, last heard of" in evaluate


def test_a_failed_stage_leaves_what_it_said_and_work_without_a_stage_says_nothing(tmp_path):
    with pytest.raises(OSError, match="disk"), progress.of_stage("export", tmp_path, **FAST):
        raise OSError("disk")
    assert progress.read(tmp_path)["stage"] == "export"
    assert progress.read(tmp_path / "other") is None
    with progress.counted("evaluating", 3, "subnets") as advance:
        advance(3)
    assert progress._stages == []


def test_other_processes_say_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with progress.of_stage("collect", tmp_path, **FAST):
        time.sleep(0.05)
    assert (list(tmp_path.iterdir()), capsys.readouterr().err) == ([], "")


def test_a_damaged_file(tmp_path):
    assert progress.read(tmp_path) is None
    whole = {"elapsed_s": 1.0, "updated": 3.0, "process": 4}
    counted = {**whole, "what": "collecting", "done": 1, "of": "2"}
    trained = {**whole, "training": {**Training().facts(), "step": "1"}}
    for content in ("{", "[]", '"a"', json.dumps({"elapsed_s": 1}), json.dumps(counted), json.dumps(trained)):
        (tmp_path / progress.FILE).write_text(content)
        with pytest.raises(ValueError, match=r"progress.json is damaged \("):
            progress.read(tmp_path)
    (tmp_path / progress.FILE).write_text(json.dumps(whole))
    assert progress.line(progress.read(tmp_path)) == "for 1 s"


@pytest.mark.parametrize("seconds", [(0, "0 s"), (89, "89 s"), (91, "2 min"), (3600, "60 min"), (11_100, "3 h 5 min")])
def test_durations(seconds):
    assert progress.duration(seconds[0]) == seconds[1]


def test_the_time_of_a_stage_is_that_of_all_its_calls(tmp_path, monkeypatch):
    clock = iter([10.0, 12.5, 100.0, 101.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert progress.spent_s(tmp_path) is None
    with progress.timed(tmp_path):
        pass
    with pytest.raises(KeyboardInterrupt), progress.timed(tmp_path):
        raise KeyboardInterrupt
    assert progress.spent_s(tmp_path) == 3.5
    (tmp_path / progress.TIMES).write_text("12 s\n")
    assert progress.spent_s(tmp_path) is None
