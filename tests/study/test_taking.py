"""Runs that were made outside a study, taken into it: by their configs, unless they are another's, unfinished or in the way."""

import json
import shutil

import pytest

from dynnas_jax.study import claim, command, grid, running, taking

STUDY = """
from ml_collections import ConfigDict


def get_config(mode=""):
    config = ConfigDict()
    config.title = "Two rows"
    config.rows = (
        {{"name": "base", "recipe": "tiny.py", "bench": {bench}}},
        {{"name": "later", "recipe": "tiny.py", "overrides": ("train.steps=8",)}},
        {{"name": "taught", "recipe": "tiny.py", "overrides": ("train.teacher={{base}}",)}},
    )
    return config
"""


@pytest.fixture
def study(tiny_run, tmp_path):
    """study(bench=False): the study, claimed, and the runs of its rows by their names."""

    def make(*, bench=False):
        (tmp_path / "study.py").write_text(STUDY.format(bench=bench))
        shutil.copy(tiny_run.config_file, tmp_path / "tiny.py")
        found = grid.read([f"--config={tmp_path / 'study.py'}"])
        claim.claim(found, tmp_path / "W")
        return found, {row.name: running.Run(row, seed, tmp_path / "W") for row, seed in found.runs()}

    return make


def test_a_run_stands_where_the_study_would_have_its_own(study, tiny_run, tmp_path):
    found, runs = study()
    before = {path: path.read_bytes() for path in tiny_run.workdir.rglob("*") if path.is_file()}
    assert taking.take(found, tmp_path / "W", [tiny_run.workdir]) == [runs["base"]]
    assert runs["base"].path.resolve() == tiny_run.workdir.resolve()
    assert {name: run.finished() for name, run in runs.items()} == {"base": True, "later": False, "taught": False}
    # What has been taken may be given again; another row takes from it what it would do alike.
    assert taking.take(found, tmp_path / "W", [tiny_run.workdir]) == [runs["base"]]
    assert running.runs_of_seed(runs["later"]) == [runs["base"].path]
    assert {path: path.read_bytes() for path in tiny_run.workdir.rglob("*") if path.is_file()} == before


def test_a_run_that_names_another_one_by_another_path_is_the_same(study, tiny_run, tmp_path, monkeypatch):
    found, runs = study()
    config = json.loads((tiny_run.workdir / "config.json").read_text())
    monkeypatch.chdir(tiny_run.workdir.parent)
    config["train"]["teacher"] = f"./{tiny_run.workdir.name}"
    said = taking.difference(runs["taught"], config)
    assert said is not None
    assert "train.teacher" in said
    taking.take(found, tmp_path / "W", [tiny_run.workdir])
    assert taking.difference(runs["taught"], config) is None


def test_what_is_not_taken(study, tiny_run, tmp_path):
    found, runs = study()
    folder, path = tmp_path / "W", tmp_path / "copy"
    with pytest.raises(ValueError, match="is no working directory of dynnas"):
        taking.take(found, folder, [tmp_path])
    shutil.copytree(tiny_run.workdir, path)
    config = json.loads((path / "config.json").read_text())
    config["train"]["steps"] += 1
    (path / "config.json").write_text(json.dumps(config))
    steps = config["train"]["steps"]
    with pytest.raises(
        ValueError, match=f"no run of this study; the least .* is base, seed 0: train.steps is {steps}, not"
    ):
        taking.take(found, folder, [path])
    shutil.copy(tiny_run.workdir / "config.json", path)
    with pytest.raises(ValueError, match="copy is a second run of base, seed 0"):
        taking.take(found, tmp_path / "second", [tiny_run.workdir, path])
    (path / "export" / "manifest.json").unlink()
    (path / "export" / "started.json").unlink()
    with pytest.raises(ValueError, match="but its stage 'export' is not done; finish it first"):
        taking.take(found, folder, [path])
    assert not runs["base"].path.is_symlink()
    shutil.copytree(tiny_run.workdir, runs["base"].path)
    with pytest.raises(ValueError, match="the study has its own in"):
        taking.take(found, folder, [tiny_run.workdir])


def test_of_several_runs_all_are_taken_or_none(study, tiny_run, tmp_path):
    found, runs = study()
    other = tmp_path / "other"
    shutil.copytree(tiny_run.workdir, other)
    for refused in (other, tmp_path):  # a second run of the same row, and no run at all
        with pytest.raises(ValueError, match="second run of base|no working directory"):
            taking.take(found, tmp_path / "W", [tiny_run.workdir, refused])
        assert not runs["base"].path.is_symlink()
    taking.take(found, tmp_path / "W", [tiny_run.workdir])
    with pytest.raises(ValueError, match="second run of base"):
        taking.take(found, tmp_path / "W", [tiny_run.workdir, other])
    assert runs["base"].path.resolve() == tiny_run.workdir.resolve()  # as it was before


def test_a_refused_run_leaves_the_study_as_it_was(study, tiny_run, tmp_path):
    study()
    command.run([f"--config={tmp_path / 'study.py'}"], tmp_path / "W", table=True)
    (tmp_path / "study.py").write_text(
        STUDY.format(bench=False).replace(
            "    )\n    return", '        {"name": "new", "recipe": "tiny.py"},\n    )\n    return'
        )
    )
    for folder in (tmp_path / "W", tmp_path / "new"):
        file = folder / claim.FILE
        before = file.read_bytes() if file.exists() else None
        with pytest.raises(ValueError, match="no working directory"):
            command.run([f"--config={tmp_path / 'study.py'}"], folder, take=[tmp_path])
        assert (file.read_bytes() if file.exists() else None) == before


def test_a_run_that_changes_after_it_was_taken_is_told(study, tiny_run, tmp_path):
    found, runs = study()
    path = tmp_path / "copy"
    shutil.copytree(tiny_run.workdir, path)
    taking.take(found, tmp_path / "W", [path])
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "seed": 7}))
    with pytest.raises(ValueError, match="has another config by now, seed is 7, not 0; remove the link"):
        taking.check(runs["base"])


def test_a_row_that_is_to_be_measured_takes_only_what_was(study, tiny_run, tmp_path):
    found, _ = study(bench=True)
    with pytest.raises(ValueError, match="`dynnas bench` has not measured its export"):
        taking.take(found, tmp_path / "W", [tiny_run.workdir])
