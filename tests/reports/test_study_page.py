"""The page of a study: what has not been run says so, and an error leaves the earlier page alone. Whole pages: tests/study."""

import json

import pytest

from dynnas_jax.reports import study_page, study_tables
from dynnas_jax.reports.study_rows import Asked

SETTINGS = {"supernet.network": "x", "train.steps": 3}


@pytest.fixture
def asked(tmp_path):
    """Two rows that no run has begun, in every table and one."""
    every = dict.fromkeys(study_tables.PLACES, "<ours>")
    paths = {seed: tmp_path / "runs" / f"seed{seed}" for seed in (0, 1)}
    return [
        Asked("all", every, paths, SETTINGS, (SETTINGS,), "--config=all.py"),
        Asked("one", {"main": "theirs"}, paths, {"network.name": "x"}, (), "--config=one.py"),
    ]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_study_that_has_not_run(asked, tmp_path):
    folder = tmp_path / "W"
    folder.mkdir()
    assert study_page.write(folder, "A & B", asked, "dynnas study") == folder / "study.html"
    text = (folder / "study.html").read_text()
    assert "<title>A &amp; B</title>" in text
    assert "<b>0</b> of 4 runs are evaluated" in text
    assert "<td>&lt;ours&gt;</td><td>little</td>" in text
    assert text.count('<p class="absent">not run</p>') == 3 + 3 + 1 + 5  # fronts, of growth, trainings, how it decides
    names = {name.partition(".")[0] for name in contents(folder / "tables")}
    assert names == {*study_tables.TABLES, "devices", "runs", "hyper_parameters"}
    assert not (folder / "figures").exists()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_corrupt_artifact_leaves_the_earlier_page(asked, tmp_path):
    folder = tmp_path / "W"
    folder.mkdir()
    study_page.write(folder, "First", asked, "dynnas study")
    before = contents(folder)
    run = asked[0].paths[0]
    (run / "evaluate").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"supernet": {}}))
    (run / "evaluate" / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"seed0/evaluate/evaluation.json is corrupt"):
        study_page.write(folder, "Second", asked, "dynnas study")
    assert contents(folder) == before
