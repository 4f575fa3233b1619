"""The main job on one tiny run: what it leaves, what a second run does, and how it goes on after harm of every kind."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dynnas_jax import job, pipeline, prerequisites, records, status
from dynnas_jax.export import flatbuffer, targets
from dynnas_jax.search import collect
from dynnas_jax.stages import search
from dynnas_jax.train import feed, metrics
from dynnas_jax.workdir import Workdir

ARTIFACTS = (
    "config.json",
    "train/metrics.jsonl",
    "train/supernet.msgpack",
    "train/data.json",
    "collect/records.zarr/zarr.json",
    "predict/predictor.json",
    "predict/params.npz",
    "train/energy.json",
    "search/found.json",
    "search/pair.msgpack",
    "evaluate/evaluation.json",
    "evaluate/outputs.npz",
    "export/x86/export.json",
    "export/x86/runtime.py",
    "report.html",
    *(f"{name}/manifest.json" for name in pipeline.NAMES),
)


@pytest.fixture(autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A copy of the finished run that a test may harm."""
    return Path(shutil.copytree(tiny_run.workdir, tmp_path / "workdir"))


def content(path: Path) -> dict:
    return json.loads(path.read_text())


def times(path: Path) -> dict[str, int]:
    return {str(file.relative_to(path)): file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


def changed(config: dict, section: str, **values) -> dict:
    return {**config, section: {**config[section], **values}}


def test_every_artifact_exists_and_parses(tiny_run):
    for name in ARTIFACTS:
        assert (tiny_run.workdir / name).stat().st_size > 0, name
    for file in tiny_run.workdir.rglob("*.json"):
        assert isinstance(content(file), dict), file
    rows = [json.loads(line) for line in (tiny_run.workdir / "train/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6]
    assert 0 <= rows[-1]["holdout_accuracy_largest"] <= 1
    store = records.open(tiny_run.workdir / "collect/records.zarr")
    assert store.done().tolist() == [True] * 16
    assert store.read("image_id").shape == (100,)
    assert list((tiny_run.workdir / "report/figures").glob("*.png"))
    assert list((tiny_run.workdir / "report/tables").glob("*.csv"))


def test_numbers_of_the_evaluation_follow_from_the_outputs(tiny_run):
    found = content(tiny_run.workdir / "search/found.json")["pair"]
    evaluation = content(tiny_run.workdir / "evaluate/evaluation.json")
    out = np.load(tiny_run.workdir / "evaluate/outputs.npz")
    m = len(out["label"])
    assert evaluation["images"] == m == 96
    np.testing.assert_array_equal(out["correct"], out["prediction"] == out["label"][:, None])
    first = out["score"][:, 0] > np.float32(found["thresholds"][0])
    np.testing.assert_array_equal(out["choice"], np.where(first, 0, 1))
    right = np.where(first, out["correct"][:, 0], out["correct"][:, 1])
    assert evaluation["dynamic"]["accuracy"] == right.sum() / m
    assert evaluation["little"]["accuracy"] == out["correct"][:, 0].sum() / m
    assert evaluation["big"]["accuracy"] == out["correct"][:, 1].sum() / m
    spent = np.where(first, found["cost"][0], found["cost"][1]).sum() / m
    assert evaluation["dynamic"]["macs"] == pytest.approx(spent, rel=1e-12)
    assert evaluation["expected_macs_fraction"] == pytest.approx(spent / found["big"]["macs"], rel=1e-12)
    assert evaluation["dynamic"]["exit_rate"] == pytest.approx([first.mean(), 1 - first.mean()])
    paired = evaluation["paired"]
    assert paired["dynamic_right_big_wrong"] == (right & ~out["correct"][:, 1]).sum()
    assert paired["dynamic_wrong_big_right"] == (~right & out["correct"][:, 1]).sum()


def test_macs_of_the_exported_files_are_those_the_search_promised(tiny_run):
    found = content(tiny_run.workdir / "search/found.json")["pair"]
    little, big, stem = found["little"]["macs"], found["big"]["macs"], found["stem_macs"]
    assert found["cost"] == [little, little + big - stem]
    expected = {"little": little, "big": big, "big_after_stem": big - stem}
    exported = content(tiny_run.workdir / "export/x86/export.json")["files"]
    for name, promised in expected.items():
        for precision in ("fp32", "int8"):
            file = tiny_run.workdir / "export/x86" / f"model_{precision}.tflite"
            assert flatbuffer.work(file)[name].macs == promised == exported[f"{name}_{precision}"]["macs"]


def test_the_front_holds_its_budgets(tiny_run):
    found = content(tiny_run.workdir / "search/found.json")
    budgets = [row["budget"] for row in found["front"]]
    assert budgets == sorted(budgets)
    assert len(budgets) == 4
    assert budgets[0] == found["smallest_macs"] == found["front"][0]["macs"]
    assert budgets[-1] == found["largest_macs"]
    assert all(row["feasible"] and row["macs"] <= row["budget"] for row in found["front"])
    # A pair is ordered in every gene: more than there are subnets, fewer than half of all pairs and the equal ones.
    assert found["subnets"] < found["pairs"] <= found["subnets"] * (found["subnets"] + 1) // 2


def test_a_second_run_does_nothing_and_imports_no_jax(tiny_run):
    before = times(tiny_run.workdir)
    script = (
        "import sys; from dynnas_jax.__main__ import main; main(sys.argv[1:]); "
        "assert not {'jax', 'flax', 'tensorflow', 'matplotlib'} & set(sys.modules), 'imported for nothing'"
    )
    arguments = ["run", f"--config={tiny_run.config_file}", f"--workdir={tiny_run.workdir}"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[: len(pipeline.NAMES)] == [
        f"dynnas: {name}: done before" for name in pipeline.NAMES
    ]
    assert times(tiny_run.workdir) == before


@pytest.mark.parametrize(
    ("section", "values", "stage"),
    [
        ("data", {"holdout": 99}, "train"),
        ("train", {"steps": 7}, "train"),
        ("collect", {"subnets": 17}, "collect"),
        ("predict", {"epochs": 6}, "predict"),
        ("search", {"budgets": 3}, "search"),
        ("dynamic", {"max_macs_fraction": 0.5}, "search"),
        ("export", {"runs": 6}, "export"),
        ("report", {"title": "other"}, "report"),
    ],
)
def test_another_config_names_the_first_stage_that_reads_it(tiny_run, section, values, stage):
    before = times(tiny_run.workdir)
    with pytest.raises(ValueError, match=f"stage '{stage}' was made with another config .*--redo={stage}"):
        pipeline.run(changed(tiny_run.config, section, **values), tiny_run.workdir)
    assert times(tiny_run.workdir) == before


def test_redo_search_makes_it_anew_alike_and_drops_only_what_builds_on_it(tiny_run, copy, capsys):
    before = times(copy)
    pipeline.run(tiny_run.config, copy, names=pipeline.NAMES[:4], redo="search")
    said = capsys.readouterr().out
    assert "deleted search, evaluate, export, report" in said
    assert [line for line in said.splitlines() if "done before" in line] == [
        f"dynnas: {name}: done before" for name in ("train", "collect", "predict")
    ]
    kept = {file: time for file, time in before.items() if file.split("/")[0] in ("train", "collect", "predict")}
    assert {file: time for file, time in times(copy).items() if file in kept} == kept
    assert (copy / "search/found.json").stat().st_mtime_ns > before["search/found.json"]
    assert content(copy / "search/found.json") == content(tiny_run.workdir / "search/found.json")
    assert not any((copy / name).exists() for name in ("evaluate", "export", "report"))


def test_redo_deletes_nothing_if_the_config_is_wrong(tiny_run, copy):
    before = times(copy)
    with pytest.raises(ValueError, match=r"search\.budget"):
        pipeline.run(changed(tiny_run.config, "search", budget=3), copy, redo="train")
    with pytest.raises(ValueError, match="no file"):
        pipeline.run(changed(tiny_run.config, "data", name="absent.npz"), copy, redo="train")
    assert times(copy) == before


@pytest.mark.parametrize("damage", ["{", None])
def test_a_lost_config_is_written_anew_by_the_next_run(tiny_run, copy, damage):
    before = times(copy)
    file = copy / "config.json"
    file.write_text(damage) if damage else file.unlink()
    pipeline.run(tiny_run.config, copy)
    assert content(file) == content(tiny_run.workdir / "config.json")
    assert {**times(copy), "config.json": 0} == {**before, "config.json": 0}


@pytest.mark.parametrize(
    ("redo", "names", "change", "said"),
    [
        ("train", ("train", "search"), {}, "stage 'train' needs|needs collect, predict"),
        ("train", ("search",), {}, "--redo=train: the stage is not among those to be done"),
        ("search", pipeline.NAMES, {"steps": 9}, "stage 'train' was made with another config"),
        ("train", pipeline.NAMES, {"start_from": "absent.npz"}, "absent.npz"),
        ("train", pipeline.NAMES, {"progressive_shrinking": {"order": ("kernl",)}}, "unlocks 'kernl'"),
        ("train", pipeline.NAMES, {"progressive_shrinking": {"largest_share": "half"}}, "another type"),
        ("train", pipeline.NAMES, {"batch_size": 10**6}, "batch_size 1000000 exceeds"),
        ("train", pipeline.NAMES, {"teacher": "."}, "no working directory"),
    ],
)
def test_redo_deletes_nothing_that_cannot_be_made_anew(tiny_run, copy, redo, names, change, said):
    config = changed(tiny_run.config, "train", **change)
    before = times(copy)
    with pytest.raises(ValueError, match=said):
        pipeline.run(config, copy, names=names, redo=redo)
    assert times(copy) == before


def test_another_target_must_have_the_space_that_was_trained(tiny_run, copy, monkeypatch):
    narrow = targets.TARGETS["pi4"]._replace(name="narrow", space=targets.Space(activations=("relu",)))
    monkeypatch.setitem(targets.TARGETS, "narrow", narrow)
    before = times(copy)
    with pytest.raises(
        ValueError, match="'train' was made for target x86, whose space is another than narrow's; pass --redo"
    ):
        pipeline.run({**tiny_run.config, "target": "narrow"}, copy, redo="export")
    assert times(copy) == before


def test_export_without_its_extra_is_noticed_before_training(tiny_run, tmp_path, monkeypatch):
    find = prerequisites.importlib.util.find_spec
    monkeypatch.setattr(
        prerequisites.importlib.util, "find_spec", lambda name: None if "litert" in name else find(name)
    )
    with pytest.raises(ValueError, match=r"stage 'export' needs ai_edge_litert: pip install \"dynnas_jax\[export\]\""):
        pipeline.run(tiny_run.config, tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_a_tracker_without_its_extra_is_noticed_before_anything_is_deleted(tiny_run, copy, monkeypatch):
    find, before = metrics.importlib.util.find_spec, times(copy)
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(ValueError, match=r"'wandb' is not installed: pip install \"dynnas_jax\[wandb\]\""):
        pipeline.run(changed(tiny_run.config, "train", trackers=("wandb",)), copy, redo="train")
    assert times(copy) == before


def test_trackers_get_all_that_is_logged_and_the_config(tiny_run, tmp_path, monkeypatch):
    told, begun, out = {}, [], tmp_path / "W"

    @contextlib.contextmanager
    def follow(start):
        begun.append(start)
        yield lambda step, values: told.setdefault(step, {}).update(values)

    tracker = metrics.TRACKERS["tensorboard"]._replace(follow=follow)
    monkeypatch.setitem(metrics.TRACKERS, "tensorboard", tracker)
    config = changed(tiny_run.config, "train", trackers=("tensorboard",))
    pipeline.run(config, out, names=("train",))
    assert [(start.directory, start.resumed_step, start.config) for start in begun] == [(out / "train", 0, config)]
    names = {"loss", "loss_largest", "loss_smallest", "loss_random", "accuracy_largest", "gradient_norm"}
    names |= {"learning_rate", "images_per_s", "wait_share"}
    held_out = {"holdout_accuracy_smallest", "holdout_accuracy_largest"}
    assert {step: set(values) for step, values in told.items()} == {2: names, 4: names, 6: names | held_out}
    assert all(values["images_per_s"] > 0 for values in told.values())
    written = {}
    for row in map(json.loads, (out / "train" / "metrics.jsonl").read_text().splitlines()):
        written.setdefault(row.pop("step"), {}).update({k: v for k, v in row.items() if k != "time_s"})
    assert told == written
    # What a tracker leaves, links to elsewhere too, goes with the stage.
    (out / "train" / "wandb").mkdir()
    (out / "train" / "wandb" / "latest-run").symlink_to(tiny_run.workdir)
    assert Workdir(out, pipeline.STAGES, config).delete(("train",)) == ("train",)
    assert not (out / "train").exists()
    assert (tiny_run.workdir / "train").is_dir()


def test_redo_leaves_folders_of_others_alone(tiny_run, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="needs"):
        pipeline.run(tiny_run.config, tmp_path, names=("report",), redo="report")
    assert (tmp_path / "report/mine.txt").read_text() == "mine"


def test_chosen_stages_only(tiny_run, copy, capsys):
    for name in ("evaluate", "report"):
        shutil.rmtree(copy / name)
    (copy / "export/manifest.json").unlink()
    pipeline.run(tiny_run.config, copy, names=("evaluate",))
    assert capsys.readouterr().out.splitlines() == ["dynnas: evaluate ..."]
    assert content(copy / "evaluate/evaluation.json") == content(tiny_run.workdir / "evaluate/evaluation.json")
    assert not (copy / "report").exists()


def test_a_stage_without_the_earlier_ones(tiny_run, tmp_path):
    with pytest.raises(
        ValueError, match="stage 'search' needs train, collect, predict, not done yet; `dynnas run` with them in"
    ):
        pipeline.run(tiny_run.config, tmp_path / "new", names=("search",))
    assert not (tmp_path / "new").exists()


def test_a_far_input_of_another_config_is_noticed_before_anything_is_written(tiny_run, copy):
    shutil.rmtree(copy / "evaluate")
    before = times(copy)
    with pytest.raises(ValueError, match="--redo=train"):
        pipeline.run(changed(tiny_run.config, "train", steps=7), copy, names=("evaluate",))
    assert times(copy) == before


def test_an_unknown_stage(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="unknown stage 'explore', choose from train, collect"):
        pipeline.run(tiny_run.config, tmp_path, names=("train", "explore"))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def scribble(path):
    raw = path.read_bytes()
    path.write_bytes(b"\0" * len(raw))


DAMAGES = {
    "train/supernet.msgpack": "collect",
    "collect/records.zarr/zarr.json": "predict",
    "predict/params.npz": "search",
    "search/found.json": "evaluate",
    "search/pair.msgpack": "evaluate",
    "evaluate/outputs.npz": "export",
}


@pytest.mark.parametrize("harm", [truncate, Path.unlink])
@pytest.mark.parametrize("name", [*DAMAGES, "export/x86/model_int8.tflite"])
def test_a_file_cut_off_or_deleted_is_named_with_a_way_out(tiny_run, copy, name, harm):
    harm(copy / name)
    with pytest.raises(ValueError, match=rf"{name} is missing or damaged; pass --redo={name.split('/')[0]} to"):
        pipeline.run(tiny_run.config, copy)


@pytest.mark.parametrize(("name", "reader"), DAMAGES.items())
def test_corrupt_content_is_noticed_by_the_stage_that_reads_it(tiny_run, copy, name, reader):
    shutil.rmtree(copy / reader)
    scribble(copy / name)
    stage = name.split("/")[0]
    with pytest.raises(ValueError, match=rf"{stage}.*--redo={stage}") as caught:
        pipeline.run(tiny_run.config, copy)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"config": 1}'])
@pytest.mark.parametrize("stage", ["train", "search"])
def test_a_corrupt_manifest(tiny_run, copy, stage, content):
    (copy / stage / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=f"{stage}.*--redo={stage}") as caught:
        pipeline.run(tiny_run.config, copy)
    assert len(str(caught.value).splitlines()) == 1


def test_a_deleted_manifest_is_made_anew(tiny_run, copy, capsys):
    """The stage counts as begun; training resumes at its last checkpoint, and what builds on it stays."""
    (copy / "train/manifest.json").unlink()
    pipeline.run(tiny_run.config, copy)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["dynnas: train ...", "dynnas: collect: done before"]
    assert content(copy / "train/manifest.json") == content(tiny_run.workdir / "train/manifest.json")


def test_training_killed_between_checkpoints_goes_on_as_if_never_stopped(tiny_run, tmp_path, monkeypatch, capfd):
    index, unbroken = feed.batch_indices, tiny_run.workdir / "train"

    def killed(length, batch_size, step, seed):
        if step == 5:
            raise KeyboardInterrupt
        return index(length, batch_size, step, seed)

    monkeypatch.setattr(feed, "batch_indices", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(tiny_run.config, tmp_path, names=("train",))
    assert status.lines(tmp_path, ("train",))[0].startswith("train      started")
    monkeypatch.setattr(feed, "batch_indices", index)
    pipeline.run(tiny_run.config, tmp_path, names=("train",))
    assert "dynnas: train ..." in capfd.readouterr().out
    for one, other in zip(
        jax.tree.leaves_with_path(job.load_variables(unbroken / "supernet.msgpack")),
        jax.tree.leaves_with_path(job.load_variables(tmp_path / "train/supernet.msgpack")),
        strict=True,
    ):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1], err_msg=str(one[0]))
    losses = [
        [row["loss"] for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
        for path in (unbroken, tmp_path / "train")
    ]
    assert losses[0] == losses[1]


def test_interrupted_collection_keeps_what_was_done(tiny_run, copy, monkeypatch):
    (copy / "collect/manifest.json").unlink()
    monkeypatch.setattr(collect.Evaluator, "__call__", None)  # nothing is evaluated a second time
    pipeline.run(tiny_run.config, copy, names=("collect",))
    workdir = Workdir(copy, pipeline.STAGES, tiny_run.config)
    assert all(workdir.complete(name) for name in pipeline.NAMES)


def test_status(tiny_run, copy):
    told = lambda path: [line.split(maxsplit=1)[1].split(",")[0] for line in status.lines(path, pipeline.NAMES)]  # noqa: E731
    assert told(tiny_run.workdir) == ["done"] * len(pipeline.NAMES)
    (copy / "search/manifest.json").unlink()
    shutil.rmtree(copy / "report")
    assert told(copy) == ["done"] * 3 + ["started"] + ["done"] * 2 + ["not started"]


def test_a_run_of_coupled_nets(tiny_run, tmp_path):
    """Little has its own head from training to evaluation, and exceeds big in no gene; the router trained with them routes."""
    train = {**tiny_run.config["train"], "joint_rule": {"router": "learned", "distillation": True}}
    del train["sandwich_rule"]
    config = {**changed(tiny_run.config, "supernet", coupled=True, router_units=4), "train": train}
    config = changed(config, "dynamic", router="learned")
    pipeline.run(config, tmp_path / "W", names=("train", "collect", "predict", "search", "evaluate"))
    supernet = job.supernet_of_run(tmp_path / "W")
    trained = job.load_variables(tmp_path / "W/train/supernet.msgpack")
    pair = job.load_variables(tmp_path / "W/search/pair.msgpack")
    found = content(tmp_path / "W/search/found.json")["pair"]
    little, big = (supernet.space.from_json(found[which]["genome"]) for which in ("little", "big"))
    assert (little <= big).all()
    for which, tree in (("little", trained["params"]["coupling"]), ("big", trained["params"])):
        kernel = pair[which]["params"]["head"]["conv"]["kernel"]
        wanted = tree["head"]["conv"]["kernel"][..., : kernel.shape[-2], : kernel.shape[-1]]
        np.testing.assert_array_equal(kernel, wanted, err_msg=which)
    router, own = trained["params"]["coupling"]["router"], pair["router"]
    channels = pair["little"]["params"]["head"]["conv"]["kernel"].shape[-2]
    np.testing.assert_array_equal(own["hidden"]["kernel"], router["hidden"]["kernel"][:channels])
    slope = own["out"]["kernel"] / router["out"]["kernel"]  # scaled alike, on images that it was not trained on
    np.testing.assert_allclose(slope, slope[0, 0], rtol=1e-5)
    evaluation = content(tmp_path / "W/evaluate/evaluation.json")
    assert [row["router"] for row in evaluation["routers"]] == ["learned (after little)"]
    little, big = (evaluation[which]["macs"] for which in ("little", "big"))
    assert little <= evaluation["dynamic"]["macs"] < little + big
    store = records.open(tmp_path / "W/collect/records.zarr")
    assert store.accuracy().shape == (16, 2)
    best = search.best(tmp_path / "W", max_macs=1e9, pair=True)
    genomes, rows = store.read("genome"), []
    for role, which in enumerate(("little", "big")):
        genome = supernet.space.from_json(best[which]["genome"])
        rows.append(int(np.flatnonzero((genomes == genome).all(axis=1))[0]))
        assert best[which]["holdout_accuracy"] == store.accuracy()[rows[-1], role]
    assert (genomes[rows[0]] <= genomes[rows[1]]).all()
    little, big = (store.read("correct")[row, :, role] for role, row in enumerate(rows))
    exits = store.read("score")[rows[0], :, 0].astype(np.float32) > np.float32(best["thresholds"][0])
    assert best["holdout"]["accuracy"] == np.where(exits, little, big).mean()


def test_a_space_of_two_resolutions(tiny_run, tmp_path):
    """Both are trained and recorded."""
    config = changed(tiny_run.config, "supernet", resolutions=(6,))
    pipeline.run(config, tmp_path / "W", names=("train", "collect"))
    space = job.prepare(Workdir(tmp_path / "W", pipeline.STAGES, config), config).supernet.space
    store = records.open(tmp_path / "W" / "collect" / "records.zarr", space.fingerprint)
    assert set(store.read("genome")[:, space.index("resolution")].tolist()) == {0, 1}
    smallest = search._smallest(space)
    assert [space.values(genome)["resolution"] for genome in smallest] == [6, 8]
    assert not np.delete(smallest, space.index("resolution"), axis=1).any()
