"""`--redo` given again by who starts the same command again: what was saved since stays; by a user, it deletes."""

import functools
import shutil
from pathlib import Path

import pytest

from dynnas_jax import pipeline
from dynnas_jax.stages import search
from dynnas_jax.train import preemption
from dynnas_jax.workdir import write_json

NAMES = pipeline.NAMES[:4]


@pytest.fixture
def started(tiny_run, tmp_path, quick_programs, capsys, monkeypatch):
    """started(end): what was said by a run with --redo=search, in a finished one's copy, whose search saves and ends so."""
    copy = Path(shutil.copytree(tiny_run.workdir, tmp_path / "W"))

    whole = search.run

    def run(end, names=NAMES, redo="search"):
        @functools.wraps(whole)  # the config is checked against its arguments
        def stage(_job, folder, **_options):
            seen.append((folder / "saved").exists())
            (folder / "saved").touch()
            if end is not None:
                raise end
            write_json(folder / "found.json", {})
            return ("found.json",)

        monkeypatch.setattr(search, "run", stage)
        seen = []
        with quick_programs():
            if end is None:
                pipeline.run(tiny_run.config, copy, names=names, redo=redo)
            else:
                with pytest.raises(type(end)):
                    pipeline.run(tiny_run.config, copy, names=names, redo=redo)
        return seen, capsys.readouterr().out

    run.workdir = copy
    return run


def test_after_a_preemption_or_a_kill_it_is_not_repeated(started):
    ends = [
        preemption.Preempted("terminated"),
        RuntimeError("a peer is lost"),
        preemption.Preempted("terminated"),
        None,
    ]
    found = [started(end) for end in ends]
    assert [seen for seen, _ in found] == [[False], [True], [True], [True]]
    assert ["deleted search, evaluate, export, report" in said for _, said in found] == [True, False, False, False]
    assert all("--redo=search was carried out before" in said for _, said in found[1:])
    # The run has come to its end: it is a user who asks for it now.
    assert started(None)[0] == [False]
    assert not (started.workdir / "redo.json").exists()


@pytest.mark.parametrize("end", [KeyboardInterrupt(), ValueError("wrong"), OSError("full")])
def test_after_an_end_that_no_launcher_answers_it_deletes_again(started, end):
    assert [started(end)[0] for _ in range(2)] == [[False], [False]]


def test_another_command_is_not_taken_for_the_same(started):
    ended = preemption.Preempted("terminated")
    assert started(ended)[0] == [False]
    assert started(ended, names=pipeline.NAMES)[0] == [False]
    assert started(ended, redo="predict")[0] == [False]
    assert started(ended, redo=None)[0] == [True]
    assert started(ended, redo="predict")[0] == [False]
    (started.workdir / "redo.json").write_text("{")
    assert started(ended, redo="predict")[0] == [False]
