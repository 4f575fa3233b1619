"""Artifacts: written whole or not at all, complete or not, of which config."""

import errno
import os

import numpy as np
import pytest

from dynnas_jax import workdir
from dynnas_jax.workdir import Stage, Workdir

STAGES = (Stage("bake", ("flour", "seed"), ()), Stage("cut", ("knife", "seed"), ("bake",)), Stage("eat", (), ("cut",)))
CONFIG = {"flour": {"grams": 500}, "knife": {"teeth": (1, 2)}, "seed": 0}


def done(path, config=CONFIG, names=("bake", "cut", "eat")):
    """A workdir whose stages left one file each."""
    made = Workdir(path, STAGES, config)
    workdir.write_json(made.config_file, config)
    for name in names:
        (made.start(name) / "made.txt").write_text(name)
        made.finish(name, ("made.txt",))
    return made


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "deep" / "file.json"
    workdir.write_json(file, {"a": 1})
    assert workdir.read_json(file) == {"a": 1}
    assert file.stat().st_mode & 0o777 == 0o644
    opened = os.fdopen

    def full(handle, mode):
        opened(handle, mode).close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workdir.os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        workdir.write_json(file, {"a": 2})
    assert workdir.read_json(file) == {"a": 1}
    assert [path.name for path in file.parent.iterdir()] == ["file.json"]


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        workdir.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "is missing"), (b"{", "is corrupt"), (b"\xff", "is corrupt"), (b"[1]", "it holds no object")],
)
def test_damaged_json_names_the_file_and_the_way_out(tmp_path, content, said):
    file = tmp_path / "bake" / "made.json"
    file.parent.mkdir()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bake/made\.json .*{said}.*--redo=bake"):
        workdir.read_json(file)


def test_damaged_arrays_name_the_file_and_the_way_out(tmp_path):
    file = tmp_path / "bake" / "made.npz"
    with pytest.raises(ValueError, match=r"bake/made\.npz is missing; pass --redo=bake"):
        workdir.read_arrays(file)
    file.parent.mkdir()
    np.savez(file, a=np.arange(100))
    np.testing.assert_array_equal(workdir.read_arrays(file)["a"], np.arange(100))
    raw = file.read_bytes()
    for harmed in (raw[:-30], b"\0" * len(raw), raw[:60] + bytes(200) + raw[260:], b""):
        file.write_bytes(harmed)
        with pytest.raises(ValueError, match="--redo=bake"):
            workdir.read_arrays(file)


def test_a_digest_sees_content_only():
    assert workdir.digest({"a": 1, "b": (1, 2)}) == workdir.digest({"b": [1, 2], "a": 1})
    assert workdir.digest({"a": 1}) != workdir.digest({"a": 2})
    assert workdir.digest({"a": 1}) != workdir.digest({"b": 1})


def test_a_stage_is_complete_once_it_is_finished(tmp_path):
    made = Workdir(tmp_path, STAGES, CONFIG)
    assert not made.complete("bake")
    folder = made.start("bake")
    assert folder == tmp_path / "bake"
    assert not made.complete("bake")
    (folder / "made.txt").write_text("bread")
    made.finish("bake", ("made.txt",))
    assert made.complete("bake")
    assert Workdir(tmp_path, STAGES, CONFIG).complete("bake")


def test_what_a_stage_does_not_read_does_not_matter(tmp_path):
    done(tmp_path)
    other = Workdir(tmp_path, STAGES, {**CONFIG, "knife": {"teeth": (3,)}})
    assert other.complete("bake")
    with pytest.raises(
        ValueError, match=r"stage 'cut' was made with another config \(it reads knife, seed\).*--redo=cut"
    ):
        other.complete("cut")
    assert other.complete("eat")


def test_a_begun_stage_is_resumed_by_its_own_config_only(tmp_path):
    Workdir(tmp_path, STAGES, CONFIG).start("bake")
    with pytest.raises(ValueError, match="--redo=bake"):
        Workdir(tmp_path, STAGES, {**CONFIG, "seed": 1}).complete("bake")


def test_other_inputs_are_noticed(tmp_path):
    made = done(tmp_path)
    (made.folder("bake") / "made.txt").write_text("another bread")
    made.finish("bake", ("made.txt",))
    assert made.complete("bake")
    with pytest.raises(ValueError, match="stage 'cut' was made from other artifacts; pass --redo=cut"):
        made.complete("cut")


@pytest.mark.parametrize("harm", ["cut off", "deleted"])
def test_a_damaged_file_is_noticed(tmp_path, harm):
    made = done(tmp_path)
    file = made.folder("cut") / "made.txt"
    if harm == "deleted":
        file.unlink()
    else:
        file.write_text("c")
    with pytest.raises(ValueError, match=r"cut/made\.txt is missing or damaged; pass --redo=cut"):
        made.complete("cut")


def test_redo_deletes_a_stage_and_what_builds_on_it(tmp_path):
    made = done(tmp_path)
    assert made.delete(made.built_on("cut")) == ("cut", "eat")
    assert made.complete("bake")
    assert not made.folder("cut").exists()
    assert not made.folder("eat").exists()
    assert made.delete(made.built_on("cut")) == ()


def test_redo_touches_no_folder_outside_a_workdir(tmp_path):
    (tmp_path / "cut").mkdir()
    made = Workdir(tmp_path, STAGES, CONFIG)
    assert made.delete(made.built_on("cut")) == ()
    assert (tmp_path / "cut").is_dir()


def test_a_workdir_is_a_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, must be a directory"):
        Workdir(tmp_path / "file", STAGES, CONFIG)


def test_the_config_of_a_workdir(tmp_path):
    with pytest.raises(ValueError, match=r"is no working directory of dynnas: it has no config\.json"):
        workdir.read_config(tmp_path)
    done(tmp_path)
    assert workdir.read_config(tmp_path)["flour"] == {"grams": 500}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="`dynnas run` with its config writes it anew"):
        workdir.read_config(tmp_path)


@pytest.mark.parametrize("foreign", ["config.json", "report.html", "bake"])
def test_a_directory_of_something_else_is_not_taken(tmp_path, foreign):
    if foreign == "bake":
        (tmp_path / foreign).mkdir()
        (tmp_path / foreign / "bread.jpg").write_text("mine")
    else:
        (tmp_path / foreign).write_text('{"mine": 1}')
    made = Workdir(tmp_path, STAGES, CONFIG)
    with pytest.raises(ValueError, match=f"{foreign} was not made by dynnas; choose another --workdir"):
        made.claim()
    assert made.delete(made.built_on("bake")) == ()
    kept = tmp_path / foreign / "bread.jpg" if foreign == "bake" else tmp_path / foreign
    assert "mine" in kept.read_text()


def test_a_foreign_stage_folder_beside_a_run_is_not_taken(tmp_path):
    made = done(tmp_path, names=("bake",))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "mine.txt").write_text("mine")
    made.claim()
    with pytest.raises(ValueError, match="cut was not made by dynnas"):
        made.start("cut")
    assert made.delete(made.built_on("bake")) == ("bake",)
    assert (tmp_path / "cut" / "mine.txt").read_text() == "mine"


def test_all_stages_deleted_the_directory_is_still_the_runs(tmp_path):
    made = done(tmp_path)
    (tmp_path / "report.html").write_text("old")
    assert made.delete(made.built_on("bake")) == ("bake", "cut", "eat")
    made.claim()
    assert made.start("bake").is_dir()


def test_damage_of_the_same_size_is_noticed(tmp_path):
    made = done(tmp_path)
    (made.folder("cut") / "made.txt").write_text("cuT")
    with pytest.raises(ValueError, match=r"cut/made\.txt is missing or damaged"):
        made.complete("cut")


def test_a_stage_can_read_one_key_of_a_section(tmp_path):
    stages = (Stage("bake", ("flour.grams",), ()),)
    first = Workdir(tmp_path, stages, {"flour": {"grams": 500, "sieve": 1}})
    first.start("bake")
    first.finish("bake", ())
    assert Workdir(tmp_path, stages, {"flour": {"grams": 500, "sieve": 2}}).complete("bake")
    with pytest.raises(ValueError, match="another config"):
        Workdir(tmp_path, stages, {"flour": {"grams": 400, "sieve": 1}}).complete("bake")


# Taking stages over.


def test_a_finished_stage_of_the_same_config_and_inputs_is_taken_over(tmp_path):
    first = done(tmp_path / "first")
    second = Workdir(tmp_path / "second", STAGES, {**CONFIG, "knife": {"teeth": (3,)}})
    assert second.take_over("bake", first.path)
    assert second.complete("bake")
    assert (second.folder("bake") / "manifest.json").read_bytes() == (
        first.folder("bake") / "manifest.json"
    ).read_bytes()
    assert not second.take_over("cut", first.path)
    assert not second.folder("cut").exists()
    assert [path.name for path in second.path.iterdir()] == ["bake"]
    # Redone in one of them, it is as it was in the other.
    first.delete(("bake",))
    assert second.complete("bake")


@pytest.mark.parametrize("what", ["begun", "foreign", "inputs", "unfinished", "damaged", "target", "source"])
def test_a_stage_that_is_not_the_same_is_not_taken_over(tmp_path, what):
    first, config = done(tmp_path / "first"), {**CONFIG, "target": "x86"} if what == "target" else CONFIG
    stages = (STAGES[0]._replace(reads=("flour", "seed", "data")), *STAGES[1:])
    second = Workdir(tmp_path / "second", STAGES, config)
    if what == "begun":
        second.start("bake")
    elif what == "foreign":
        workdir.write_json(second.folder("bake") / "thesis.json", {})
    elif what == "unfinished":
        (first.folder("bake") / "manifest.json").unlink()
    elif what == "damaged":
        (first.folder("bake") / "made.txt").write_text("burnt")
    elif what == "inputs":
        # Alike in its config, but made from another run's bread.
        (second.start("bake") / "made.txt").write_text("rolls")
        second.finish("bake", ("made.txt",))
        assert not second.take_over("cut", first.path)
        return
    elif what == "source":
        first = Workdir(tmp_path / "flour", stages, CONFIG, {"data.name": "old"})
        workdir.write_json(first.config_file, CONFIG)
        first.start("bake")
        first.finish("bake", ())
        second = Workdir(tmp_path / "second", stages, CONFIG, {"data.name": "new"})
    assert not second.take_over("bake", first.path)


def test_what_a_single_key_names_is_compared_by_the_stages_that_read_it(tmp_path):
    stages = (Stage("first", ("data", "dynamic.score"), ()), Stage("second", ("data", "dynamic.file"), ("first",)))
    work = Workdir(tmp_path, stages, {"data": {}, "dynamic": {}}, {"dynamic.file": "a"})
    assert work.hashes("first")["sources"] == {}
    assert work.hashes("second")["sources"] == {"dynamic.file": "a"}
