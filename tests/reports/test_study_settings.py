"""What a study's rows are: their settings beside each other, and how far each is."""

from types import SimpleNamespace

from dynnas_jax.reports import study_settings
from dynnas_jax.reports.study_rows import Asked, Row

SETTINGS = {"seed": 0, "train.steps": 1000, "train.batch_size": 128, "supernet.kernels": (3, 5)}


def row(name, settings=SETTINGS, tables=(), evaluated=()):
    asked = Asked(name, dict.fromkeys(tables, "x"), dict.fromkeys((0, 1, 2)), settings, (), f"--config={name}.py")
    runs = {seed: SimpleNamespace(evaluation={} if seed in evaluated else None) for seed in (0, 2)}
    return Row(asked, runs, {})


def test_every_key_of_any_row_with_what_others_have_instead():
    other = {**SETTINGS, "train.steps": 20, "network.name": "x", "seed": 4}
    del other["train.batch_size"]
    table = study_settings.hyper_parameters([row("a"), row("b", other), row("c", other)])
    assert {one["key"]: (one["value"], one["others"]) for one in table.rows} == {
        "seed": ("0, 1, 2", ""),
        "train.steps": ("1000", "b, c: 20"),
        "train.batch_size": ("128", ""),
        "supernet.kernels": ("[3, 5]", ""),
        "network.name": ("–", "b, c: x"),
    }


def test_rows_and_how_far_they_are():
    table = study_settings.runs([row("a", tables=("main", "loss"), evaluated=(0, 2)), row("b")])
    assert table.rows == [
        {"name": "a", "tables": "main, loss", "done": "2 of 3", "command": "--config=a.py"},
        {"name": "b", "tables": "none", "done": "0 of 3", "command": "--config=b.py"},
    ]
