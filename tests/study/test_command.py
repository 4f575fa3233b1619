"""The command `dynnas study` from a config to its page, by real runs."""

import csv
import json
import shutil

import pytest

from dynnas_jax.__main__ import main
from dynnas_jax.study import running

STUDY = """
from ml_collections import ConfigDict


def get_config(mode=""):
    config = ConfigDict()
    config.title = "Two rows & a title"
    config.rows = (
        {"name": "base", "recipe": "tiny.py", "tables": {"main": "the pair", "behaviour": "the pair", "loss": "full"}},
        {"name": "title", "recipe": "tiny.py", "overrides": ("report.title=Another",), "tables": {"loss": "less"}},
        {"name": "later", "recipe": "tiny.py", "overrides": ("train.steps=8",), "tables": {"loss": "later"}},
    )
    return config
"""


@pytest.fixture
def study(tiny_run, tmp_path, monkeypatch):
    """study(*arguments): the command on a directory in which the first row's run is done; the directory."""
    (tmp_path / "study.py").write_text(STUDY)
    shutil.copy(tiny_run.config_file, tmp_path / "tiny.py")
    folder = tmp_path / "W"
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

    def run(*arguments):
        main(["study", f"--config={tmp_path / 'study.py'}", f"--workdir={folder}", *arguments])

    with pytest.raises(SystemExit) as stopped:
        run("--max_minutes=0.0001", "--rows=base")
    assert stopped.value.code == 75
    shutil.rmtree(folder / "runs" / "base", ignore_errors=True)
    shutil.copytree(tiny_run.workdir, folder / "runs" / "base" / "seed0")
    run.folder = folder
    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_of_two_rows(study, tiny_run, capsys):
    capsys.readouterr()
    study("--rows=base,title")
    told = capsys.readouterr().out
    assert "dynnas: 1 of 2 runs are done" in told
    assert f"tables: {study.folder / 'study.html'}" in told
    log = (study.folder / "logs" / "title_seed0.log").read_text()
    assert "dynnas: export: taken over from base" in log
    assert "dynnas: report ..." in log
    assert "dynnas: train ..." not in log
    evaluation = json.loads((tiny_run.workdir / "evaluate" / "evaluation.json").read_text())
    full, less, later = rows(study.folder / "tables" / "loss.csv")
    assert float(full["dynamic"]) == float(less["dynamic"]) == pytest.approx(evaluation["dynamic"]["accuracy"])
    assert float(less["difference"]) == 0.0
    assert later["dynamic"] == ""
    assert {row["images"] for row in rows(study.folder / "tables" / "cases_base.csv")}
    page = (study.folder / "study.html").read_text()
    assert "<h1>Two rows &amp; a title</h1>" in page
    assert "<b>2</b> of 3 runs are evaluated" in page
    assert "not run" in page
    for name in (
        "front_macs",
        "front_latency_ms",
        "exits_base",
        "thresholds_base",
        "reliability_base",
        "archs_base",
        "cases_base",
    ):
        assert (study.folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for name in ("main", "loss", "runs", "hyper_parameters"):
        assert (study.folder / "tables" / f"{name}.md").read_text().endswith(f"--workdir={study.folder}\n```\n")
    study("--rows=base,title")
    assert "dynnas: 2 of 2 runs are done" in capsys.readouterr().out
    assert (study.folder / "logs" / "title_seed0.log").read_text() == log


def test_tables_alone_run_nothing(study, monkeypatch):
    monkeypatch.setattr(running, "work", None)
    study("--table")
    names = [(row["label"], row["network"]) for row in rows(study.folder / "tables" / "main.csv")]
    assert names[::5] == [("the pair", "little"), ("the pair", "dynamic, chosen threshold")]


@pytest.fixture
def refused(capsys, tmp_path):
    """refused(arguments...): the one line that a study ends with, and its exit code."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["study", *map(str, arguments)])
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0], stopped.value.code

    return run


def test_wrong_arguments(refused, tmp_path):
    (tmp_path / "study.py").write_text(STUDY)
    (tmp_path / "tiny.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'seed': 0})\n"
    )
    config, folder = f"--config={tmp_path / 'study.py'}", f"--workdir={tmp_path / 'W'}"
    for arguments, said in (
        ((folder,), "no config given"),
        ((config, folder, "--max_minutes=0"), "--max_minutes=0: must be above 0"),
        ((config, folder, "--rows=x"), "--rows: there is no row or part 'x'"),
        ((config, folder, "--table"), "row 'base': config: section 'supernet' is missing"),
        ((config, folder, "--stages=train"), "unknown argument '--stages=train'"),
    ):
        line, code = refused(*arguments)
        assert said in line
        assert code == 2
    assert not (tmp_path / "W").exists()


def test_runs_that_fail_are_told_at_the_end(study, refused, monkeypatch):
    monkeypatch.setattr(running, "COMMAND", ("sh", "-c", "echo dynnas: broken; exit 3"))
    line, code = refused(f"--config={study.folder.parent / 'study.py'}", f"--workdir={study.folder}")
    assert (code, "2 runs failed (and 1 more); the first: title, seed 0: broken (exit code 3" in line) == (2, True)
    assert (study.folder / "study.html").exists()


def test_tables_of_nothing(study, refused):
    shutil.rmtree(study.folder)
    line, code = refused(f"--config={study.folder.parent / 'study.py'}", f"--workdir={study.folder}", "--table")
    assert (code, "no study has been run there" in line) == (2, True)
