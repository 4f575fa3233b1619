"""The tables of a study from artifacts written by hand, with means and deviations that are known."""

import hashlib
import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest

from dynnas_jax.reports import study_pairs, study_rows, study_tables
from dynnas_jax.reports.study_rows import Asked

EXPORTED = Path(__file__).parents[1] / "export" / "data" / "one_file" / "model_fp32.tflite"
SEEDS = (0, 1, 2)
DYNAMIC = {0: 0.95, 1: 0.97, 2: 0.96}
SETTINGS = {"supernet.network": "small_images", "train.steps": 1000, "train.batch_size": 128, "data.name": "digits"}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def evaluation(dynamic, router_macs=0):
    nets = {"little": (0.9, 100_000, 1_000), "big": (0.98, 1_000_000, 20_000), "dynamic": (dynamic, 400_000, 20_500)}
    same = {"top5_accuracy": 1.0, "expected_calibration_error": 0.02}
    found = {name: {"accuracy": a, "macs": m, "params": p, **same} for name, (a, m, p) in nets.items()}
    found["dynamic"] |= {"exit_rate": [0.75, 0.25], "thresholds": [0.8]}
    point = {"accuracy": 0.94, "top5_accuracy": 0.99, "macs": 300_000.0, "exit_rate": 0.9}
    return found | {
        "images": 200,
        "paired": {"dynamic_right_big_wrong": 0, "dynamic_wrong_big_right": 0},
        "operating_points": [
            {"threshold": 0.5, "chosen": False, **point},
            {"threshold": 0.8, "chosen": True, **point},
        ],
        "oracle": [
            {"optimal": "little_right", "accuracy": 0.99, "macs": 3e5, "exit_rate": 0.9},
            {"optimal": "little_right_or_both_wrong", "accuracy": 0.99, "macs": 2e5, "exit_rate": 0.92},
        ],
        "routers": [
            {"router": "x", "auroc": None, "auroc_holdout": 0.7, "routing_accuracy": 0.9, "macs": router_macs},
            {"router": "y", "auroc": 0.1, "auroc_holdout": 0.1, "routing_accuracy": 0.1, "macs": 5},
        ],
    }


def export():
    times = {"little": 0.01, "big": 0.05, "big_after_stem": 0.04}
    files = {
        f"{name}_fp32": {"path": "model_fp32.tflite", "size_bytes": 4096, "latency_mean_ms": ms, "latency_ms": ms}
        for name, ms in times.items()
    }
    decision = {"latency_mean_ms": 0.03, "exit_rate": [0.75, 0.25]}
    return {"files": files, "cascade": {"fp32": decision}}


@pytest.fixture
def made(tmp_path):
    """made(name, dynamic, **asked): a row of supernets whose dynamic nets have these accuracies, by seed."""

    def make(
        name,
        dynamic=DYNAMIC,
        *,
        tables,
        settings=SETTINGS,
        trained=None,
        effort=None,
        router_macs=0,
        exported=True,
        most_macs=4e5,
        feasible=True,
    ):
        paths = {seed: tmp_path / name / f"seed{seed}" for seed in SEEDS}
        for seed, accuracy in dynamic.items():
            write(paths[seed] / "config.json", {"supernet": {}, "target": "x86"})
            write(paths[seed] / "evaluate" / "evaluation.json", evaluation(accuracy, router_macs))
            pair = {"little": {"macs": 1}, "big": {"macs": 2}, "cost": [1, 2], "thresholds": [0.8]}
            pair |= {"holdout": {"accuracy": accuracy + 0.01}}
            pair |= {"target": {"max_macs": most_macs, "min_accuracy": None}, "feasible": feasible}
            found = {"front": [], "pairs": 125_785_557_292_320, "pair": pair} | (
                {"effort": effort[seed]} if effort else {}
            )
            write(paths[seed] / "search" / "found.json", found)
            if exported:
                write(paths[seed] / "export" / "x86" / "export.json", export())
        return study_rows.read(Asked(name, tables, paths, settings, trained or (settings,), f"--config={name}.py"))

    return make


def cell(table, label, key):
    """Of the row with this label, in the main table followed by that of its network."""
    (row,) = [row for row in table.rows if label in (row["label"], f"{row['label']}, {row.get('network')}")]
    return row[key]


def test_main_results(made):
    table = study_tables.TABLES["main"]([made("a", tables={"main": "ours"}), made("b", {}, tables={"main": "theirs"})])
    top1 = cell(table, "ours, dynamic, chosen threshold", "top1")
    assert top1.mean == pytest.approx(statistics.mean(DYNAMIC.values()))
    assert top1.deviation == pytest.approx(statistics.stdev(DYNAMIC.values()))
    assert cell(table, "ours, little", "macs").mean == 100_000
    assert cell(table, "ours, little", "exit_rate") == ""
    assert cell(table, "ours, dynamic, chosen threshold", "ece").mean == pytest.approx(0.02)
    assert cell(table, "ours, dynamic at 0.5", "top1").mean == 0.94
    assert cell(table, "ours, dynamic at 0.5", "exit_rate").mean == 0.9
    assert cell(table, "ours, dynamic at 0.7", "top1") is None
    assert cell(table, "ours, big", "size_bytes") == ""  # little stands in the same file
    assert cell(table, "ours, dynamic, chosen threshold", "size_bytes").mean == 4096
    assert cell(table, "ours, big", "energy_mj") is None
    assert {key: cell(table, "theirs, big", key) for key in ("top1", "macs")} == {"top1": None, "macs": None}
    assert [row["label"] for row in table.rows] == ["ours"] * 6 + ["theirs"] * 6


def test_a_row_of_nets_of_several_exits_has_one_line_a_target_and_devices_know_the_deployed_one(tmp_path):
    path, same = tmp_path / "msdnet" / "seed0", {"top5_accuracy": 1.0, "expected_calibration_error": 0.02}
    nets = [
        {"accuracy": accuracy, "average_macs": macs, "exit_rate": [rate, 1 - rate], "dynamic": same}
        for accuracy, macs, rate in ((0.9, 3e5, 0.8), (0.95, 5e5, 0.4))
    ]
    write(path / "config.json", {"exit_network": {}, "target": "x86"})
    write(path / "evaluate" / "evaluation.json", {"images": 200, "nets": nets, "deployed": 1})
    params = [{"params": [1_000, 3_000]}] * 2
    write(path / "search" / "found.json", {"nets": params, "deployed": 1, "score": "max_softmax"})
    files = {f"exit{i}_fp32": {"path": f"{i}.tflite", "size_bytes": 1024 * i} for i in (1, 2)}
    write(
        path / "export" / "x86" / "export.json",
        {"files": files, "cascade": {"fp32": {"latency_mean_ms": 0.03, "exit_rate": [0.4, 0.6]}}},
    )
    settings = {"exit_network.name": "msdnet_cifar", "dynamic.target_macs": [380_000, 500_000]}
    table = study_tables.TABLES["main"](
        [study_rows.read(Asked("msdnet", {"main": "MSDNet"}, {0: path}, settings, (settings,), "--config=m.py"))]
    )
    low, high = table.rows
    assert [row["network"] for row in (low, high)] == ["dynamic for 0.38 M MACs", "dynamic for 0.5 M MACs"]
    found = {key: [row[key].mean if row[key] else row[key] for row in (low, high)] for key in study_tables.MEASURES}
    assert found == {
        "top1": [0.9, 0.95],
        "top5": [1.0, 1.0],
        "ece": [0.02, 0.02],
        "macs": [3e5, 5e5],
        "params": [3_000, 3_000],
        "exit_rate": [0.8, 0.4],
        "latency_ms": [None, 0.03],
        "memory_bytes": [None, None],
        "energy_mj": [None, None],
        "size_bytes": [None, 3072],
    }


def test_the_latency_of_a_decision_at_another_threshold_moves_by_what_the_files_take(made):
    table = study_tables.TABLES["main"]([made("a", tables={"main": "ours"})])
    here, there = (cell(table, f"ours, dynamic{name}", "latency_ms") for name in (", chosen threshold", " at 0.5"))
    assert here.mean == pytest.approx(0.03)
    assert there.mean == pytest.approx(0.03 + (0.25 - 0.1) * -0.04)
    assert cell(table, "ours, big", "latency_ms").mean == pytest.approx(0.05)
    (row,) = [made("c", {0: 0.9}, tables={"main": "ours"}, exported=False)]
    assert study_rows.measured(row, 0)["dynamic"]["latency_ms"] is None


def test_energies_of_a_decision_come_of_its_files(made, tmp_path):
    row = made("a", {0: 0.9}, tables={"main": "ours"})
    energies = {"decision": 9.0, "little": 2.0, "big_after_stem": 8.0, "big": 10.0}
    bench = {
        "kind": "dynnas bench",
        "version": 1,
        "started": "2026-01-31T12:00:00+00:00",
        "model": {
            "precision": "fp32",
            "target": "x86",
            "steps": ["little", "big_after_stem"],
            "thresholds": [0.5],
            "files": {"m.tflite": {"sha256": "0"}},
        },
        "sections": {
            name: {"energy": {"energy_mj": mj, "source": "rapl"}, "throughput_per_s": 1.0, "window": None}
            | {"latency_ms": {"median_ms": 1, "p95_ms": 1, "mean_ms": 1}}
            for name, mj in energies.items()
        },
        "exit_rate": [0.75, 0.25],
        "before_opening_bytes": 2**19,
        "peak_memory_bytes": 2**20,
        "machine": {"board": "x", "cpu": None, "architecture": "x86_64", "governor": None, "temperature_c": []},
        "settings": {"runs": 1, "threads": 1, "image_count": 1, "images": "noise", "delegate": None},
    }
    # Results count where the files that they are of are there.
    file = Path(shutil.copy(EXPORTED, row.asked.paths[0] / "export" / "x86"))
    bench["settings"] |= {"threads": 1, "images": "noise"}
    bench["model"]["files"] = {file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}}
    write(row.asked.paths[0] / "bench" / "here.json", bench)
    found = study_rows.measured(study_rows.read(row.asked), 0)
    assert found["little"]["energy_mj"] == 2.0
    assert found["dynamic"]["energy_mj"] == pytest.approx(2.0 + 0.25 * 8.0)
    assert found["at 0.5"]["energy_mj"] == pytest.approx(2.0 + 0.1 * 8.0)
    assert (found["dynamic"]["memory_bytes"], found["little"]["memory_bytes"]) == (2**20, "")


def test_strategies_are_compared_with_random_search_seed_by_seed(made):
    effort = {
        seed: {"device_s": 1800.0 * (1 + seed), "devices": 2, "architectures": 50, "images": 10_000} for seed in SEEDS
    }
    better = {0: 0.96, 1: 0.97, 2: 0.98}
    named = lambda name: {**SETTINGS, "search.strategy": name}  # noqa: E731
    rows = [
        made("e", better, tables={"strategies": "evolution"}, settings=named("evolutionary"), effort=effort),
        made("r", tables={"strategies": "random"}, settings=named("random"), effort=effort),
    ]
    table = study_tables.TABLES["strategies"](rows)
    difference = cell(table, "evolution", "difference")
    differences = [better[seed] - DYNAMIC[seed] for seed in SEEDS]
    assert difference.mean == pytest.approx(statistics.mean(differences))
    assert difference.deviation == pytest.approx(statistics.stdev(differences))
    assert cell(table, "evolution", "wins") == "2 of 3, 1 level"
    assert cell(table, "random", "difference") == ""
    assert cell(table, "evolution", "device_s").mean == 7200
    assert "| evolution |" in table.markdown()
    assert "2.0000 ± 1.0000" in table.markdown()
    assert cell(table, "evolution", "peak_memory_bytes") is None
    worse = made("w", {0: 0.90, 1: 0.98, 2: 0.96}, tables={"strategies": "worse"}, settings=named("differentiable"))
    (said,) = study_tables.TABLES["strategies"]([*rows, worse]).notes
    assert said == (
        "Above random search on the test images, by more than the seeds differ: none. Not told apart from it: evolution, worse. "
        "Below it: none."
    )
    alone = study_tables.TABLES["strategies"](rows[:1])
    assert cell(alone, "evolution", "difference") is None
    assert alone.notes == ("There is no row of random search to compare with.",)


def test_a_comparison_takes_the_seeds_that_both_have(made):
    rows = [made("full", tables={"loss": "full"}), made("less", {1: 0.90}, tables={"loss": "less"})]
    table = study_tables.TABLES["loss"](rows)
    assert cell(table, "less", "difference").mean == pytest.approx(0.90 - DYNAMIC[1])
    assert cell(table, "less", "wins") == "0 of 1"
    assert "-7.00 (1 of 3 seeds)" in table.markdown()
    assert cell(table, "full", "big").mean == 0.98


def test_seeds_that_keep_the_target_on_the_test_images(made):
    rows = [
        made(name, dynamic, tables={"loss": name}, most_macs=most)
        for name, dynamic, most in (
            ("kept", DYNAMIC, 4e5),
            ("over", DYNAMIC, 3.9e5),
            ("free", DYNAMIC, None),
            ("not", {}, 1),
        )
    ]
    table = study_tables.TABLES["loss"](rows)
    assert [row["kept"] for row in table.rows] == ["3 of 3", "0 of 3", "", None]
    never = made("never", tables={"loss": "never"}, most_macs=1e5, feasible=False)
    assert study_tables.TABLES["loss"]([never]).rows[0]["kept"] == "0 of 3 (3 cannot)"


def test_a_fixed_network_has_nothing_to_tell_of_routers(made):
    settings = {key: value for key, value in SETTINGS.items() if not key.startswith("supernet")}
    table = study_tables.TABLES["routers"](
        [made("net", {}, tables={"routers": "a net"}, settings=settings | {"network.name": "mobilenet_v2"})]
    )
    assert table.rows[0]["latency_ms"] is None


def test_routers(made):
    table = study_tables.TABLES["routers"]([made("r", tables={"routers": "learned"}, router_macs=500)])
    assert cell(table, "learned", "share").mean == pytest.approx(500 / 100_000)
    assert cell(table, "learned", "auroc") == ""
    assert cell(table, "learned", "auroc_holdout").mean == pytest.approx(0.7)
    assert cell(table, "learned", "latency_ms").mean == pytest.approx(0.03)
    empty = study_tables.TABLES["routers"]([made("s", {}, tables={"routers": "stem"})])
    assert {value for key, value in empty.rows[0].items() if key != "label"} == {None}


def test_the_oracle_of_the_routers_pair(made):
    table = study_tables.TABLES["routers"](
        [made("r", tables={"routers": "learned"}), made("s", tables={"routers": "x"})]
    )
    oracle = table.rows[-1]
    assert oracle["label"] == "an oracle of the pair of 'learned'"
    assert (oracle["top1"].mean, oracle["macs"].mean, oracle["exit_rate"].mean) == pytest.approx((0.99, 2e5, 0.92))
    assert oracle["auroc"] == ""


def test_equal_steps_are_told_by_the_configs(made):
    half = {**SETTINGS, "train.steps": 500}
    together, apart = (
        made("a", tables={"training": "together"}),
        made("b", tables={"training": "apart"}, trained=(half, half)),
    )
    table = study_tables.TABLES["training"]([together, apart])
    assert table.notes == (
        "All rows have 1,000 optimiser steps in all (by their configs). All have the same images and augmentation. "
        "All have the same images a step. All have the same optimizer. All have the same space. All have the same target.",
    )
    assert [row["steps"] for row in table.rows] == ["1,000", "1,000"]


def test_what_is_not_equal_is_told(made):
    other = {**SETTINGS, "train.batch_size": 64, "train.optimizer.momentum": 0.5, "data.augment.flip": True}
    rows = [
        made("a", tables={"training": "together"}),
        made("b", tables={"training": "apart"}, trained=(SETTINGS, other)),
    ]
    (said,) = study_pairs.equality(rows)
    assert "The rows differ in their optimiser steps in all: together 1,000, apart 2,000." in said
    for what in ("images", "images a step", "optimizer"):
        assert f"Not the same {what} as together: apart." in said
    assert said.endswith("All have the same target.")
    further = {**SETTINGS, "dynamic.max_macs_fraction": 0.9}
    (said,) = study_pairs.equality([rows[0], made("c", tables={"training": "costlier"}, settings=further)])
    assert said.endswith("Not the same target as together: costlier.")
    narrow = {**SETTINGS, "supernet.depths": (1,), "dynamic.max_accuracy_loss": 0.01}
    (said,) = study_pairs.equality([rows[0], made("d", tables={"training": "of two runs"}, trained=(narrow, SETTINGS))])
    assert said.endswith("Not the same space as together: of two runs. Not the same target as together: of two runs.")
    apart = {**SETTINGS, "supernet.coupled": True}
    (said,) = study_pairs.equality([rows[0], made("e", tables={"training": "apart"}, trained=(apart,))])
    assert said.endswith("All have the same space. All have the same target.")


def test_numbers_of_a_seed_that_is_not_evaluated_are_left_out(made):
    row = made("a", tables={"main": "ours"})
    (row.asked.paths[1] / "evaluate" / "evaluation.json").unlink()
    found = study_rows.read(row.asked).of("evaluation.dynamic.accuracy")
    assert (found.count, found.asked) == (2, 3)
    assert found.mean == pytest.approx(np.mean([DYNAMIC[0], DYNAMIC[2]]))


def test_a_corrupt_artifact_is_named(made):
    row = made("a", tables={"main": "ours"})
    (row.asked.paths[0] / "evaluate" / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"seed0/evaluate/evaluation.json is corrupt"):
        study_rows.read(row.asked)


def test_the_space_has_as_many_pairs_as_the_search_counted(made):
    rows = [made("a", tables={"space": "full"}), made("b", {}, tables={"space": "width only"})]
    table = study_tables.TABLES["space"](rows)
    assert [cell(table, label, "pairs") for label in ("full", "width only")] == ["125,785,557,292,320", None]
    assert "| full | 125,785,557,292,320 | 90.00 ± 0.00 |" in table.markdown()
