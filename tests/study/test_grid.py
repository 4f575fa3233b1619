"""A study's rows as its config says them, the order of their runs, and what is wrong with a grid."""

from pathlib import Path

import pytest

from dynnas_jax.study import grid


def names(runs):
    return [(row.name, seed) for row, seed in runs]


def test_rows_become_the_arguments_of_runs(study, tmp_path):
    found = grid.read(study())
    assert [row.name for row in found.rows] == ["base", "stem", "both"]
    assert found.row("both").arguments(1, Path("W")) == [
        f"--config={tmp_path / 'cascade.py'}",
        "--config.cascade.little=W/runs/base/seed1",
        "--config.cascade.big=W/runs/stem/seed1",
        "--config.seed=1",
    ]
    config = found.row("stem").config(1, Path("W"))
    assert config["seed"] == 1
    assert config["dynamic"] == {"max_macs_fraction": 0.99, "router": "difficulty", "router_place": "stem"}
    assert found.row("stem").stage_names(config) == ("train", "collect", "search")
    assert len(found.row("base").stage_names(config)) == 7
    assert found.row("both").config(0, Path("W"))["cascade"]["big"] == "W/runs/stem/seed0"


def test_the_main_table_s_runs_come_first_seed_after_seed_and_what_they_need_before(study):
    found = grid.read(study())
    assert [row.part for row in found.rows] == ["main", "routers", "main"]
    main = [("base", 0), ("stem", 0), ("both", 0), ("base", 1), ("stem", 1), ("both", 1)]
    assert names(found.runs()) == main
    assert names(found.runs(["stem"])) == [("stem", 0), ("stem", 1)]
    assert names(found.runs(["both"])) == [(row, seed) for seed in (0, 1) for row in ("base", "stem", "both")]
    assert names(found.runs(["routers"])) == [("stem", 0), ("stem", 1)]
    with pytest.raises(
        ValueError, match="--rows: there is no row or part 'basis', choose from base, stem, both, main, routers"
    ):
        found.runs(["basis"])


def test_a_row_may_have_other_seeds_and_another_part(study):
    one = (
        '{"name": "one", "recipe": "recipe.py", "seeds": (1, 3), "tables": {"main": "x", "loss": "y"}, "part": "loss"},'
    )
    found = grid.read(study(one))
    assert names(found.runs()) == [("base", 0), ("base", 1), ("one", 1), ("one", 3)]
    other = grid.read(study(one.replace('"part": "loss"', '"part": "rivals"')))
    assert names(other.runs(["rivals"])) == [("one", 1), ("one", 3)]
    assert names(other.runs(["main"])) == [("base", 0), ("base", 1)]


def test_settings_are_those_in_use_with_the_defaults_of_what_they_configure(study):
    found = grid.settings_of(grid.read(study()).row("base").config(0, Path("W")))
    assert found["train.steps"] == 6
    assert found["train.batch_size"] == 64
    assert found["train.optimizer.momentum"] == 0.9
    assert found["train.sandwich_rule.random_subnets"] == 1
    assert found["search.tournament"] == 4
    assert not [key for key in found if key.startswith(("train.mixing", "train.joint_rule", "supernet.image_size"))]


@pytest.mark.parametrize(
    ("strategy", "some"),
    [
        ("evolutionary", ("tournament", "mutation_share")),
        ("once_for_all", ("records", "epochs")),
        ("differentiable", ("candidates", "temperature")),
    ],
)
def test_settings_of_the_strategy_that_searches(study, strategy, some):
    config = grid.read(study()).row("base").config(0, Path("W"))
    config["search"]["strategy"] = strategy
    found = grid.settings_of(config)
    own = {key for key in found if key.count(".") == 2 and key.startswith("search.")}
    assert own >= {f"search.{strategy}.{key}" for key in some}
    assert {key.split(".")[1] for key in own} == {strategy}


@pytest.mark.parametrize(
    ("router", "own"),
    [
        ({}, {}),
        (
            {"router": "learned", "router_folds": 3},
            {"router_l2": 1.0, "router_folds": 3, "router_fit": "afterwards", "router_units": 16},
        ),
        (
            {"router": "difficulty", "router_statistics": ("mean",)},
            {"router_l2": 1.0, "router_folds": 5, "router_place": "little", "router_statistics": ("mean",)},
        ),
    ],
)
def test_settings_of_the_router_that_is_asked_for(study, router, own):
    config = grid.read(study()).row("base").config(0, Path("W"))
    config["dynamic"] |= router
    found = grid.settings_of(config)
    assert {key: value for key, value in found.items() if key.startswith("dynamic.router_")} == {
        f"dynamic.{key}": value for key, value in own.items()
    }


def test_a_router_that_is_trained_with_the_nets_has_the_supernet_s_units(study):
    config = grid.read(study()).row("base").config(0, Path("W"))
    del config["train"]["sandwich_rule"]
    config["supernet"]["coupled"], config["train"]["joint_rule"] = True, {"router": "learned"}
    config["dynamic"]["router"] = "learned"
    found = grid.settings_of(config)
    assert found["dynamic.router_fit"] == "jointly"
    assert "dynamic.router_units" not in found
    assert found["supernet.router_units"] == 16


def test_settings_of_a_further_training_are_those_of_the_first_where_it_has_none_of_its_own():
    train = {"steps": 7, "ema_decay": 0.9, "log_every": 3, "optimizer": {"learning_rate": 0.2, "clip_norm": 1.0}}
    config = {"data": {}, "target": "x86", "seed": 0, "growth": {"name": "cifar_resnet"}, "train": train}

    def found(further):
        settings = grid.settings_of({**config, "grow": {"further": further}})
        start = "grow.further."
        return {key.removeprefix(start): value for key, value in settings.items() if key.startswith(start)}

    first = grid.settings_of({**config, "grow": {}})
    assert found({}) == {key.removeprefix("train."): first[key] for key in first if key.startswith("train.")}
    own = found({"steps": 2, "optimizer": {"learning_rate": 0.01}})
    assert [own[key] for key in ("steps", "ema_decay", "log_every", "batch_size")] == [2, 0.9, 3, 128]
    assert [own[f"optimizer.{key}"] for key in ("learning_rate", "clip_norm")] == [0.01, 5.0], "a whole one of its own"
    assert not [key for key in first if key.startswith("grow.further")]


def test_settings_without_what_a_growth_searches_or_an_arch_file_says():
    growth = {"data": {}, "target": "x86", "seed": 0, "growth": {"name": "nasnet", "filters": 4}, "train": {"steps": 1}}
    for grow, own in (({}, "components"), ({"criterion": "il_fs"}, "tokens"), ({"criterion": "random"}, None)):
        given = {own: 5} if own else {}
        found = grid.settings_of({**growth, "grow": {**grow, "criterion_options": given}})
        assert "growth.cells" not in found
        assert found["growth.filters"] == 4
        options = {key: value for key, value in found.items() if key.startswith("grow.criterion_options")}
        assert options == ({f"grow.criterion_options.{own}": 5} if own else {})
    network = {"data": {}, "target": "x86", "seed": 0, "train": {"steps": 1}}
    read = grid.settings_of(
        {**network, "network": {"name": "cifar_resnet", "arch": "a.json", "shortcut": "projection"}}
    )
    assert {key: value for key, value in read.items() if key.startswith("network.")} == {
        "network.name": "cifar_resnet",
        "network.arch": "a.json",
        "network.shortcut": "projection",
    }
    plain = grid.settings_of({**network, "network": {"name": "cifar_resnet", "depths": (1, 2, 1)}})
    assert plain["network.depths"] == (1, 2, 1)
    assert plain["network.shortcut"] == "option_a"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"name": "x", "recpie": "recipe.py"},', r"rows\[1\].recipe is missing"),
        (
            '{"name": "x", "recipe": "recipe.py", "overides": ()},',
            r"'rows\[1\].overides', did you mean 'rows\[1\].overrides'",
        ),
        ('{"name": "X y", "recipe": "recipe.py"},', "a row is named 'X y'; begin with a letter"),
        ('{"name": "main", "recipe": "recipe.py"},', "a row is named 'main', as a table is"),
        ('{"name": "base", "recipe": "recipe.py"},', "row 'base' is there twice"),
        (
            '{"name": "x", "recipe": "recipe.py", "tables": {"mian": "y"}},',
            "row 'x': unknown table 'mian', choose from main,",
        ),
        ('{"name": "x", "recipe": "recipe.py", "part": "First"},', "row 'x': part is 'First'; begin with a letter"),
        ('{"name": "x", "recipe": "recipe.py", "part": "base"},', "a row and a part are named 'base'"),
        ('{"name": "x", "recipe": "recipe.py", "overrides": ("train.steps",)},', "must be a tuple of 'KEY=VALUE'"),
        ('{"name": "x", "recipe": "recipe.py", "overrides": "train.steps=3"},', "must be a tuple of 'KEY=VALUE'"),
        ('{"name": "x", "recipe": "recipe.py", "overrides": ("seed=3",)},', "an override sets the seed"),
        (
            '{"name": "x", "recipe": "recipe.py", "seeds": ()},',
            r"row 'x': seeds is \(\), must be a tuple of whole numbers",
        ),
        ('{"name": "x", "recipe": "recipe.py", "seeds": (-1,)},', "row 'x': seeds is"),
        ('{"name": "x", "recipe": "cascade.py", "overrides": ("cascade.big={bas}",)},', "name {bas}, which is no row"),
        (
            '{"name": "x", "recipe": "cascade.py", "seeds": (0, 5), "overrides": ("cascade.big={base}",)},',
            "row 'x' needs row 'base', which is not run with seed 5",
        ),
        ('{"name": "x", "recipe": "cascade.py", "overrides": ("cascade.big={x}",)},', "row 'x' needs itself"),
    ],
)
def test_rows_that_are_wrong(study, row, said):
    with pytest.raises(ValueError, match=said):
        grid.read(study(row))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('"recipe": "absent.py"', "row 'x': --config: there is no file"),
        ('"recipe": "recipe.py", "overrides": ("train.stps=3",)', "row 'x': .*did you mean 'train.steps'"),
        ('"recipe": "recipe.py", "stages": ("train", "serch")', "row 'x': unknown stage 'serch'"),
    ],
)
def test_what_a_run_would_refuse_names_the_row(study, row, said):
    wrong = grid.read(study(f'{{"name": "x", {row}}},')).row("x")
    with pytest.raises(ValueError, match=said):
        wrong.stage_names(wrong.config(0, Path("W")))


def test_a_recipe_is_no_study(study, tmp_path):
    study()
    with pytest.raises(ValueError, match=r"recipe.py is no study, it has no rows; is it a recipe, for `dynnas run`\?"):
        grid.read([f"--config={tmp_path / 'recipe.py'}"])
    with pytest.raises(ValueError, match="no config given"):
        grid.read([])
    (tmp_path / "study.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config(mode=''):\n  return ConfigDict({'rows': (), 'sedes': (1,)})\n"
    )
    with pytest.raises(ValueError, match=r"unknown config key 'study.sedes', did you mean 'study.seeds'\?"):
        grid.read([f"--config={tmp_path / 'study.py'}"])
