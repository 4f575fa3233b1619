"""Runs in processes of their own: their order, their failures, how they are stopped, and what they share."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dynnas_jax import pipeline, workdir
from dynnas_jax.study import grid, running
from dynnas_jax.study.times import Times

# In the place of `dynnas run`: says who it is; fails, or waits for SIGTERM, if its name says so.
STAND_IN = """
import pathlib, signal, sys, time
name = sys.argv[1]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("dynnas: this is", name, flush=True)
if "fails" in name:
    sys.exit("dynnas: no luck")
if "waits" in name:
    pathlib.Path(sys.argv[2]).touch()
    time.sleep(60)
"""


def row(name, needs=()):
    overrides = tuple(f"train.teacher={{{other}}}" for other in needs)
    return grid.Row(name, "recipe.py", overrides, {}, "main", (0,), None, False)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """work(rows, **options): the result for their runs, and what was said."""
    monkeypatch.setattr(running, "COMMAND", (sys.executable, "-c", STAND_IN))
    monkeypatch.setattr(running, "POLL_S", 0.05)
    monkeypatch.setattr(running, "share", lambda run, others: {})
    monkeypatch.setattr(running.Run, "commands", lambda run: [[run.row.name, str(tmp_path / "waiting")]])

    def run(*rows, **options):
        with running.locked(tmp_path) as lock:
            runs = [running.Run(one, 0, tmp_path) for one in rows]
            return running.work(runs, Times(tmp_path, []), lock, **options)

    return run


def names(runs):
    return [run.row.name for run in runs]


def test_one_after_the_other_with_a_log_each_and_the_time_left(work, tmp_path, capsys):
    result = work(row("first"), row("second"))
    assert result == running.Result([], [])
    assert (tmp_path / "logs" / "second_seed0.log").read_text().splitlines() == [
        f"$ dynnas second {tmp_path / 'waiting'}",
        "dynnas: this is second",
    ]
    told = [line.partition(" in ")[0] for line in capsys.readouterr().out.splitlines()]
    assert told[:2] == ["dynnas: first, seed 0: begun", "dynnas: first, seed 0: done"]
    assert told[2].startswith("dynnas: second, seed 0: begun, about ")
    assert told[3] == "dynnas: second, seed 0: done"


def test_a_failure_ends_what_needs_it_and_nothing_else(work, tmp_path):
    failing = row("it_fails")
    result = work(failing, row("after", ("it_fails",)), row("behind", ("after",)), row("other"))
    assert result.left == []
    (first, why), (second, lost), (third, far) = result.failed
    assert names((first, second, third)) == ["it_fails", "after", "behind"]
    assert why == f"no luck (exit code 1, all of it: {tmp_path / 'logs' / 'it_fails_seed0.log'})"
    assert lost == "it needs row 'it_fails', whose run failed"
    assert far == "it needs row 'after', whose run failed"
    assert (tmp_path / "logs" / "other_seed0.log").exists()


def test_when_the_time_is_over_the_run_is_ended_and_the_others_are_left(work, tmp_path):
    started = time.monotonic()
    result = work(row("first"), row("it_waits"), row("last"), until=started + 1.5)
    assert names(result.left) == ["it_waits", "last"]
    assert result.failed == []
    assert time.monotonic() - started < 30
    assert not (tmp_path / "logs" / "last_seed0.log").exists()
    assert names(work(row("first"), until=time.monotonic()).left) == ["first"]


def test_sigterm_is_passed_on(work, tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def when_it_waits():
        while not (tmp_path / "waiting").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=when_it_waits, daemon=True).start()
    assert names(work(row("it_waits"), row("last")).left) == ["it_waits", "last"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_only_one_study_works_in_a_directory_and_a_run_keeps_it_from_a_second(tmp_path):
    with running.locked(tmp_path) as lock:
        with (
            pytest.raises(ValueError, match="a study, or a run that one began, is at work there"),
            running.locked(tmp_path),
        ):
            pass
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(lock,))
    try:
        with pytest.raises(ValueError, match="is at work there"), running.locked(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()
    with running.locked(tmp_path):
        pass


def test_a_run_whose_directory_cannot_serve_is_one_failure(work, tmp_path, monkeypatch):
    def refuse(run, others):
        raise ValueError("no way in")

    monkeypatch.setattr(running, "share", refuse)
    assert work(row("first")).failed == [(running.Run(row("first"), 0, tmp_path), "no way in")]


# What runs have in common, with real ones.


@pytest.fixture
def runs(tiny_run, tmp_path):
    """A finished run, and four that have nothing yet: with another title, another router, a strategy; and one alike."""
    recipe = str(tiny_run.config_file)
    overrides = {"done": (), "title": ("report.title=Another",), "stem": ("dynamic.router=difficulty",), "twin": ()}
    overrides["random"] = ("search.strategy=random",)
    found = {
        name: running.Run(grid.Row(name, recipe, given, {}, "main", (0,), None, False), 0, tmp_path)
        for name, given in overrides.items()
    }
    shutil.copytree(tiny_run.workdir, found["done"].path)
    return found


def files(path: Path) -> dict:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_finished_stages_are_taken_over_as_far_as_they_are_the_same(runs):
    others = running.runs_of_seed(runs["title"])
    assert others == [runs["done"].path]
    stages = ("train", "collect", "predict", "search", "evaluate", "export")
    assert running.share(runs["title"], others) == dict.fromkeys(stages, "done")
    for name in stages:
        assert files(runs["title"].path / name) == files(runs["done"].path / name)
    assert running.share(runs["stem"], running.runs_of_seed(runs["stem"])) == dict.fromkeys(stages[:3], "done")
    assert not (runs["stem"].path / "search").exists()
    assert running.share(runs["stem"], running.runs_of_seed(runs["stem"])) == {}
    # The page lies outside of its stage's folder: each run makes its own.
    assert running.share(runs["twin"], [runs["done"].path]) == dict.fromkeys(stages, "done")
    assert not (runs["twin"].path / "report").exists()
    assert runs["done"].finished()
    assert not runs["title"].finished()


def test_what_is_taken_over_equals_what_the_run_would_have_made(runs, tmp_path, quick_programs):
    running.share(runs["stem"], running.runs_of_seed(runs["stem"]))
    with quick_programs():
        pipeline.run(runs["stem"].opened().config, tmp_path / "alone", names=("train", "collect", "predict"))
    for name in ("train", "collect", "predict"):
        manifests = [
            workdir.read_json(path / name / "manifest.json") for path in (runs["stem"].path, tmp_path / "alone")
        ]
        assert manifests[0] == manifests[1]
        assert manifests[0]["files"]


def test_a_strategy_searches_in_a_process_that_has_done_nothing_else(runs):
    (whole,), (before, then) = (runs[name].commands() for name in ("stem", "random"))
    assert not any(argument.startswith("--stages") for argument in (*whole, *then))
    assert before == [*then, "--stages=train,collect,predict"]
    running.share(runs["random"], [runs["done"].path])
    assert runs["random"].commands() == [then]
