"""Which grids a study's directory goes on with, and that every row is checked before anything is written."""

import json

import pytest

from dynnas_jax.study import claim, grid


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_grid_goes_on_and_new_rows_and_seeds_are_told(study, rows, folder):
    assert claim.claim(grid.read(study(rows.stem)), folder) == []
    before = contents(folder)
    assert claim.claim(grid.read(study(rows.stem)), folder) == []
    assert contents(folder) == before
    assert claim.claim(grid.read(study(rows.stem + rows.cascade)), folder) == ["both"]
    more = rows.stem.replace('"stages"', '"seeds": (0, 1, 2), "stages"')
    assert claim.claim(grid.read(study(more + rows.cascade)), folder) == []
    assert json.loads((folder / "study.json").read_text())["rows"]["stem"]["seeds"] == [0, 1, 2]
    # What a row is called and where it is shown changes no run.
    assert claim.claim(grid.read(study(more.replace('"routers": "stem"', '"loss": "x"') + rows.cascade)), folder) == []


@pytest.mark.parametrize(
    ("stem", "cascade", "said"),
    [
        (None, ("{stem}", "{base}"), "the study there has a row 'stem', which this config has not; put it back"),
        (
            ("router_place=stem", "router_place=little"),
            (),
            'row \'stem\' has changed since its runs, dynamic.router_place went from "stem" to "little"; put it back',
        ),
        (
            ('"dynamic.router_place=stem"', '"train.steps=7"'),
            (),
            "row 'stem' has changed since its runs, dynamic.router_place went from \"stem\" to none",
        ),
        (('"collect", ', ""), (), "row 'stem' has changed since its runs, stages went from"),
        (('"stages"', '"seeds": (1,), "stages"'), ('"name"', '"seeds": (1,), "name"'), "row 'stem' has lost seed 0"),
    ],
)
def test_another_grid_is_refused_by_the_row_and_nothing_is_touched(study, rows, folder, stem, cascade, said):
    claim.claim(grid.read(study()), folder)
    before = contents(folder)
    changed = "" if stem is None else rows.stem.replace(*stem)
    changed += rows.cascade.replace(*cascade) if cascade else rows.cascade
    with pytest.raises(ValueError, match=said):
        claim.claim(grid.read(study(changed)), folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            '"recipe": "recipe.py", "overrides": ("train.steps=0",)',
            "row 'x': train.steps is 0, must be a number of at least 1",
        ),
        ('"recipe": "recipe.py", "overrides": ("data.name=absent.npz",)', "row 'x': .*absent.npz"),
        ('"recipe": "recipe.py", "overrides": ("train.batch_size=1000",)', "row 'x': .*1000"),
        ('"recipe": "recipe.py", "overrides": ("train.steps=3", "train.tecaher=1")', "did you mean 'train.teacher'"),
        (
            '"recipe": "recipe.py", "overrides": ("supernet.depths=(1,)", "supernet.expands=(1,)")',
            "row 'x': supernet: the space",
        ),
    ],
)
def test_rows_are_checked_as_their_runs_would_before_anything_is_written(study, folder, row, said):
    with pytest.raises(ValueError, match=said):
        claim.claim(grid.read(study(f'{{"name": "x", {row}}},')), folder)
    assert not folder.exists()


def test_directories_that_no_study_made(study, folder):
    found = grid.read(study())
    for name in ("config.json", "runs"):
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
        with pytest.raises(ValueError, match="was not made by `dynnas study`"):
            claim.claim(found, folder)
        (folder / name).unlink()
    (folder / "study.json").write_text("{")
    with pytest.raises(ValueError, match="study.json is corrupt"):
        claim.claim(found, folder)
    (folder / "study.json").write_text('{"schema": 0, "rows": {}}')
    with pytest.raises(ValueError, match="is of another version"):
        claim.claim(found, folder)
    with pytest.raises(ValueError, match="is a file, must be a directory"):
        claim.claim(found, folder / "study.json")
