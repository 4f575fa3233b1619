"""The tables of a study of growth from artifacts written by hand, with means and deviations that are known."""

import json
import statistics

import numpy as np
import pytest

from dynnas_jax.costs import energy
from dynnas_jax.reports import growth_study, study_rows, study_tables
from dynnas_jax.reports.study_rows import Asked

SEEDS = (0, 1, 2)
LAST = {"pls": (0.97, 0.95, 0.96), "random": (0.94, 0.96, 0.95)}  # test accuracy of the last candidate, by seed
UNIFORM = (0.95, 0.955, 0.93)
DEPTHS = ([2, 4, 2], [2, 4, 2], [2, 4, 4])  # of the last candidate


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def entry(role, iteration, depths, macs):
    costs = {"depth": 2 * sum(depths) + 3, "macs": macs, "params": macs // 10, "params_with_statistics": macs // 8}
    spent = {"seconds": 100.0, "energy_j": 2000.0, "carbon_g": 0.3, "source": "a table", "devices": "2 x CPU"}
    spent["further"] = {"seconds": 30.0, "energy_j": 600.0, "carbon_g": 0.1}
    name = f"{role}{iteration or ''}"
    accuracies = {"scored": 0.8, "final": 0.9}
    facts = {
        "name": name,
        "role": role,
        "iteration": iteration,
        "depths": depths,
        "memory_bytes": 1024,
        "training": spent,
    }
    return facts | costs | {"holdout_accuracy": accuracies}


def grow(path, criterion, seed):
    """What a run of two iterations leaves."""
    first, last = entry("candidate", 1, [2, 4, 2], 10_000), entry("candidate", 2, DEPTHS[seed], 20_000 + seed)
    controls = [entry("uniform", 0, [3, 3, 3], 21_000)] if criterion == "pls" else []
    growth = {"criterion": criterion, "initial": entry("initial", 0, [2, 2, 2], 5_000), "candidates": [first, last]}
    trained = {"networks": 5 + len(controls), "seconds": 500.0 + 100 * len(controls), "energy_j": 10_000.0}
    trained["further"] = {"seconds": 90.0 + 30 * len(controls), "energy_j": 1800.0}
    growth["scoring"] = {"seconds": 72.0, "energy_j": 1000.0}
    further = {"further": {"steps": 100}} if criterion == "pls" else {}
    write(path / "config.json", {"growth": {}, "grow": further, "target": "x86"})
    write(path / "grow" / "growth.json", {**growth, "iterations": [], "controls": controls, "trained": trained})
    accuracies = {"initial": 0.9, "candidate1": 0.93, "candidate2": LAST[criterion][seed], "uniform": UNIFORM[seed]}
    told = [{"name": name, "accuracy": one, "scored_test_accuracy": one - 0.1} for name, one in accuracies.items()]
    net = {"accuracy": LAST[criterion][seed], "macs": 1, "params": 1}
    ensemble = {"accuracy": 0.98, "params_with_statistics": 3750, "macs": 30_000}
    write(path / "evaluate" / "evaluation.json", {"images": 200, "networks": told, "net": net, "ensemble": ensemble})


@pytest.fixture
def row(tmp_path):
    """row(criterion, seeds): a row that stands in all tables, of which these seeds have been run."""

    def make(criterion, seeds=SEEDS, *, uniform=True, **more):
        paths = {seed: tmp_path / criterion / f"seed{seed}" for seed in SEEDS}
        for seed in seeds:
            grow(paths[seed], criterion, seed)
        grown = {"growth.name": "cifar_resnet", "grow.iterations": 2, "grow.initial_modules": 2}
        settings = {**grown, "grow.criterion": criterion, "grow.uniform": uniform and criterion == "pls", **more}
        tables = dict.fromkeys(growth_study.TABLES, f"by {criterion}")
        return study_rows.read(Asked(criterion, tables, paths, settings, (settings,), "--config=x.py"))

    return make


@pytest.fixture
def fixed(tmp_path):
    """A residual network of the paper's, of which one of two seeds has been run."""
    paths = {seed: tmp_path / "fixed" / f"seed{seed}" for seed in (0, 1)}
    facts = {"image_shape": [32, 32, 3], "classes": list(map(str, range(10))), "mean": [0.5] * 3, "std": [0.2] * 3}
    section = {"name": "cifar_resnet", "depths": [6, 8, 6], "shortcut": "projection"}
    write(paths[0] / "config.json", {"network": section, "target": "x86"})
    write(paths[0] / "train" / "data.json", facts)
    write(paths[0] / "train" / "energy.json", {"seconds": 60.0, "energy_j": 3.6e6, "source": "a meter"})
    net = {"accuracy": 0.9, "macs": 92_717_696, "params": 599_000, "top5_accuracy": 0.99}
    write(paths[0] / "evaluate" / "evaluation.json", {"images": 200, "net": net})
    write(paths[0] / "export" / "x86" / "export.json", {"files": {"net_fp32": {"latency_ms": 0.5}}})
    tables = dict.fromkeys(growth_study.TABLES, "fixed")
    return study_rows.read(Asked("fixed", tables, paths, {"network.name": "cifar_resnet"}, (), "--config=f.py"))


def lines(table, label):
    return {line.get("network", line.get("split")): line for line in table.rows if line["label"] == label}


def test_every_net_with_its_costs(row, fixed):
    table = study_tables.TABLES["growth_residual"]([row("pls"), fixed])
    own, (other,) = lines(table, "by pls"), lines(table, "fixed").values()
    assert list(own) == ["initial", "iteration 1", "iteration 2", "uniform depth"]
    last = own["iteration 2"]
    assert last["accuracy"].mean == pytest.approx(statistics.mean(LAST["pls"]))
    assert last["accuracy"].deviation == pytest.approx(statistics.stdev(LAST["pls"]))
    assert last["modules"] == "2, 4, 2; 2, 4, 2; 2, 4, 4"
    assert own["initial"]["modules"] == "2, 2, 2"
    assert last["depth"].mean == pytest.approx(statistics.mean(2 * sum(depths) + 3 for depths in DEPTHS))
    assert last["latency_ms"] is None
    # The paper prints 43 layers, 0.60 M params and 7.58 MB of this net.
    assert other["depth"].mean == 43
    assert round(other["params_with_statistics"].mean / 1e6, 2) == 0.60
    assert other["modules"] == "6, 8, 6"
    assert other["carbon_g"].mean == pytest.approx(energy.GRID_G_PER_KWH["world"])
    assert (other["latency_ms"].mean, other["seconds"].text()) == (0.5, "60.00 (1 of 2 seeds)")
    assert "a table" in table.notes[-1]


def test_differences_are_those_of_the_same_seeds(row):
    coins, grown = row("random"), row("pls", (0, 2))
    (mine,), (theirs,) = (
        lines(study_tables.TABLES["growth_controls"]([coins, grown]), f"by {name}").values()
        for name in ("pls", "random")
    )
    above = [100 * (LAST["pls"][seed] - UNIFORM[seed]) for seed in (0, 2)]
    assert mine["above_uniform"].text(0.01) == f"{np.mean(above):.2f} ± {np.std(above, ddof=1):.2f} (2 of 3 seeds)"
    assert mine["wins_uniform"] == "2 of 2"
    assert mine["macs_ratio"].mean == pytest.approx(np.mean([20_000, 20_002]) / 21_000)
    assert mine["above_coins"].mean == pytest.approx(np.mean([LAST["pls"][s] - LAST["random"][s] for s in (0, 2)]))
    assert (theirs["above_uniform"], theirs["above_coins"], theirs["uniform_macs"]) == ("", "", "")
    assert theirs["macs_ratio"] == ""


def test_seeds_that_are_level_are_told_and_one_seed_is_not_judged(row):
    grown = row("pls", (1,))
    grown.runs[1].evaluation["networks"][-1]["accuracy"] = LAST["pls"][1]
    table = study_tables.TABLES["growth_controls"]([grown])
    assert table.rows[0]["wins_uniform"] == "0 of 1, 1 level"
    assert table.notes == ("Beside uniform depth, of one seed and not judged: by pls.",)


def test_what_has_not_been_run_says_so(row):
    alone = study_tables.TABLES["growth_controls"]([row("pls", ())]).rows[0]
    assert (alone["above_uniform"], alone["above_coins"], alone["accuracy"]) == (None, "", None)
    assert alone["macs_ratio"] is None
    assert growth_study.fronts([row("random", ())], "growth_residual") == {}


def test_criteria_by_iteration_and_where_they_add_modules(row):
    rows = [row("pls"), row("random", ())]
    table = study_tables.TABLES["growth_criteria"](rows)
    own, absent = lines(table, "by pls"), lines(table, "by random")
    assert [own["test"][key].mean for key in ("iteration1", "iteration2")] == pytest.approx([0.93, 0.96])
    assert own["held-out"]["iteration1"].mean == pytest.approx(0.9)
    assert absent["test"]["iteration2"] is None
    assert growth_study.modules(rows) == {"by pls": [2, 4, 2.67]}


def test_parameters_that_no_run_chose_are_told(row):
    assert study_tables.TABLES["growth_criteria"]([row("random")]).notes == ()
    given = {"grow.criterion_options.components": 2}
    (note,) = study_tables.TABLES["growth_criteria"]([row("pls", **given), row("random")]).notes
    assert note.endswith("which these runs did not choose: by pls (components 2).")
    choosing = row("pls", **given)
    for run in choosing.runs.values():
        run.growth["tried"] = [{"option": {"components": 2}}]
    assert study_tables.TABLES["growth_criteria"]([choosing]).notes == ()


def test_accuracy_before_the_further_training_too(row):
    """The paper's tables I and II are of nets that were trained equally long."""
    further, alike = row("pls", **{"grow.further.steps": 100}), row("random")
    criteria = study_tables.TABLES["growth_criteria"]([further, alike])
    own = lines(criteria, "by pls")
    assert list(own) == ["held-out after equal training", "held-out", "test after equal training", "test"]
    assert [own[split]["iteration1"].mean for split in own] == pytest.approx([0.8, 0.9, 0.83, 0.93])
    other = lines(criteria, "by random")
    assert other["test after equal training"]["iteration2"] == other["test"]["iteration2"], "trained no further"
    assert list(lines(study_tables.TABLES["growth_criteria"]([alike]), "by random")) == ["held-out", "test"]
    for name in ("growth_initial", "growth_residual"):
        heads = [[column.key for column in study_tables.TABLES[name]([one]).columns] for one in (further, alike)]
        assert ["scored_accuracy" in head for head in heads] == [True, False]
        assert study_tables.TABLES[name]([further]).rows[0]["scored_accuracy"].mean == pytest.approx(0.8)
    initial = [study_tables.TABLES["growth_initial"]([one]) for one in (further, alike)]
    assert ["scored_test_accuracy" in [column.key for column in one.columns] for one in initial] == [True, False]
    assert initial[0].rows[0]["scored_test_accuracy"].mean == pytest.approx(0.83)
    for run in further.runs.values():  # one that was evaluated before this was told
        for net in run.evaluation["networks"]:
            del net["scored_test_accuracy"]
    (line,) = study_tables.TABLES["growth_initial"]([further]).rows
    assert (line["scored_test_accuracy"], line["accuracy"].mean) == ("", pytest.approx(0.93))


def test_carbon_of_all_rows_is_at_the_intensity_of_those_that_grew(row, fixed):
    grown = row("pls", **{"grow.grid_g_per_kwh": 100.0})
    table = study_tables.TABLES["growth_residual"]([fixed, grown])
    (other,) = lines(table, "fixed").values()
    assert other["carbon_g"].mean == pytest.approx(100.0)
    assert table.notes == ("Energy of training: a meter (fixed); a table (by pls).",)


def test_the_table_of_nets_tells_whose_weights_another_run_has_trained(row):
    first, *_ = study_tables.TABLES["growth_residual"]([row("pls", **{"grow.source": "runs/x"}), row("random")]).notes
    assert first.startswith("The nets of these rows begin with the weights of another run")
    assert first.endswith(": by pls.")


def test_the_search_costs_what_it_trained_and_not_its_controls(row, fixed):
    table = study_tables.TABLES["growth_cost"]([row("pls"), row("random"), fixed])
    for name in ("pls", "random"):
        own = lines(table, f"by {name}")
        assert list(own) == ["iteration 2", "candidates together"]
        assert [own["iteration 2"][key].mean for key in ("networks", "seconds")] == [5, 500]
        assert own["candidates together"]["params_with_statistics"].mean == 3750
        assert own["candidates together"]["networks"] == ""
    (source,) = lines(table, "fixed").values()
    assert [source[key].mean for key in ("networks", "seconds", "apart_s", "energy_j")] == [1, 60, 60, 3.6e6]
    assert (source["scoring_s"], own["iteration 2"]["scoring_s"].mean) == ("", 72)
    assert [lines(table, f"by {name}")["iteration 2"]["devices"] for name in ("pls", "random")] == ["2 x CPU"] * 2
    assert source["devices"] == "", "a run of an earlier form"
    assert table.notes == ("Energy of training: a table (by pls; by random); a meter (fixed).",)


def test_a_supernet_s_training_has_its_energy_where_the_run_metered_it(tmp_path):
    path = tmp_path / "supernet"
    write(path / "config.json", {"supernet": {}, "target": "x86"})
    (path / "train").mkdir()
    (path / "train" / "times.jsonl").write_text('{"seconds": 50.0}\n')
    asked = Asked("s", {"growth_cost": "the supernet"}, {0: path}, {"supernet.network": "elastic_resnet"}, (), "")
    keys = ("networks", "seconds", "apart_s", "scoring_s", "energy_j")
    (line,) = study_tables.TABLES["growth_cost"]([study_rows.read(asked)]).rows
    assert [line[key] if line[key] == "" else line[key].mean for key in keys] == ["", 50, 50, "", ""]
    write(path / "train" / "energy.json", {"seconds": 40.0, "energy_j": 960.0, "source": "a meter", "devices": "1 x C"})
    table = study_tables.TABLES["growth_cost"]([study_rows.read(asked)])
    (line,) = table.rows
    assert [line[key] if line[key] == "" else line[key].mean for key in keys] == ["", 40, 40, "", 960]
    assert (line["devices"], table.notes) == ("1 x C", ("Energy of training: a meter.",))


def test_a_search_ends_before_the_further_training(row):
    """Of runs that do not tell the two apart, nothing is told; without a further training there is nothing to take off."""
    further, alike = row("pls", **{"grow.further.steps": 100}), row("random")
    table = study_tables.TABLES["growth_cost"]([further, alike])
    found = [lines(table, f"by {name}")["iteration 2"] for name in ("pls", "random")]
    assert [[line[key].mean for key in ("seconds", "apart_s")] for line in found] == [[500, 410], [500, 500]]
    for run in further.runs.values():
        del run.growth["trained"]["further"]
    (line, *_) = study_tables.TABLES["growth_cost"]([further]).rows
    assert (line["apart_s"], line["seconds"].mean) == ("", 500)
    for run in further.runs.values():
        del run.growth["scoring"]
    assert study_tables.TABLES["growth_cost"]([further]).rows[0]["scoring_s"] == ""


def test_nets_that_answer_with_other_runs_are_one_line(row):
    """Its own search is that of the row which grew the same nets, and the other run's has a line too."""
    together = row("pls", **{"evaluate.also": ("runs/cells",)})
    absent = study_tables.TABLES["growth_cost"]([together]).rows
    assert [(line["network"], line["accuracy"], line["networks"]) for line in absent] == [
        ("with the other runs' nets", None, "")
    ]
    for run in together.runs.values():
        run.evaluation["joint_ensemble"] = {"accuracy": 0.99, "params_with_statistics": 5000, "macs": 40_000}
    (line,) = study_tables.TABLES["growth_cost"]([together]).rows
    assert [line[key] for key in ("networks", "devices", "seconds", "apart_s", "energy_j")] == [""] * 5
    assert line["accuracy"].mean == pytest.approx(0.99)
    assert line["params_with_statistics"].mean == 5000


def test_the_first_candidate_by_the_depth_it_began_with(row):
    (line,) = study_tables.TABLES["growth_initial"]([row("random")]).rows
    assert (line["initial"], line["modules"], line["accuracy"].mean) == ("2", "2, 4, 2", pytest.approx(0.93))


def test_elsewhere_and_the_fronts(row, fixed):
    (line,) = study_tables.TABLES["growth_elsewhere"]([fixed]).rows
    found = line["top5_accuracy"].mean, line["macs"].mean, line["image_side"].mean
    assert found == (0.99, 92_717_696, 32)
    fronts = growth_study.fronts([row("pls"), fixed], "growth_residual")
    assert {name: len(points) for name, points in fronts.items()} == {
        "by pls": 3,
        "by pls: uniform depth": 1,
        "fixed": 1,
    }
    assert [point[0].mean for point in fronts["by pls"]] == [5_000, 10_000, 20_001]
