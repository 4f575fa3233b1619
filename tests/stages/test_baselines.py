"""The stages of a fixed network's run and of a cascade's, on one tiny run of each."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import roc_auc_score

from dynnas_jax import finished, job, kinds, pipeline, settings, sides
from dynnas_jax.__main__ import main
from dynnas_jax.confidence import max_softmax
from dynnas_jax.costs import macs
from dynnas_jax.export import metadata, runtime
from dynnas_jax.networks import fixed, weights
from dynnas_jax.stages import starting
from dynnas_jax.workdir import Workdir

DATA = {"name": "digits", "holdout": 100, "train_limit": 400, "test_limit": 96}
LITTLE = {
    **{"name": "small_images", "stem": 8, "stage_widths": (8, 8), "stage_strides": (1, 2), "head": 16},
    **{"depths": (1, 2), "kernels": (3,), "expands": (1, 2)},
    "arch": {"resolution": 8, "width": [1.0, 1.0], "kernel": [[3], [3]], "expand": [[1], [2]]},
}
BIG = {"name": "cifar_resnet", "depths": (1, 1), "widths": (16, 24)}
EXPORT = {"calibration_images": 16, "runs": 3, "warm_up": 1, "max_accuracy_loss": 1.0}


def config_of(**sections):
    return settings.as_dict(ConfigDict({"data": DATA, "export": EXPORT, **sections}))


def network(section, **sections):
    train = {"steps": 4, "batch_size": 64, "checkpoint_every": 2, "log_every": 2, "trackers": ()}
    train |= {"optimizer": {"learning_rate": 0.1}, "mixing": {"mixup": 0.2}, "label_smoothing": 0.1}
    return config_of(network=section, train=train, **sections)


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Working directories of two networks and of their cascade, and its config. Copy them before changing them."""
    folder = tmp_path_factory.mktemp("baselines")
    pipeline.run(network(LITTLE), folder / "little")
    pipeline.run(network(BIG, export={**EXPORT, "precisions": ("fp32",)}), folder / "big")
    paths = {which: str(folder / which) for which in ("little", "big")}
    config = config_of(cascade=paths, dynamic={"max_macs_fraction": 0.8})
    pipeline.run(config, folder / "cascade")
    return SimpleNamespace(folder=folder, config=config, **{p.name: p for p in folder.iterdir()})


def content(path):
    return json.loads(path.read_text())


def prepared(path):
    config = content(path / "config.json")
    return job.prepare(Workdir(path, kinds.of(config).stages, config), config)


def logits(net, variables, images):
    return np.asarray(jax.jit(lambda v, x: net.apply(v, x)[0])(variables, images))


def table(path, name):
    with (path / "report" / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# One network.


def test_a_network_is_evaluated_as_it_answers(runs):
    for path in (runs.little, runs.big):
        ready, out = prepared(path), np.load(path / "evaluate" / "outputs.npz")
        net, variables = job.trained_net(ready)
        test = ready.images.test
        direct = logits(net, variables, test.images)
        np.testing.assert_array_equal(out["prediction"][:, 0], direct.argmax(1))
        np.testing.assert_allclose(out["score"][:, 0], max_softmax(direct), atol=1e-5)
        evaluation = content(path / "evaluate" / "evaluation.json")
        rank = (direct > np.take_along_axis(direct, test.labels[:, None], 1)).sum(1)
        assert evaluation["images"] == 96
        assert evaluation["net"]["accuracy"] == (rank == 0).mean()
        assert evaluation["net"]["top5_accuracy"] == (rank < 5).mean()
        bins = evaluation["calibration"]["net"]
        sure = max_softmax(direct.astype(np.float64))
        assert bins["images"] == np.histogram(sure, np.linspace(0, 1, 16))[0].tolist()
        gaps = [n * abs(right - p) for n, p, right in zip(*bins.values(), strict=True) if n]
        assert evaluation["net"]["expected_calibration_error"] == pytest.approx(sum(gaps) / 96)
        for digit, share in enumerate(evaluation["by_class"]["net"]):
            assert share == pytest.approx((rank[test.labels == digit] == 0).mean())
        counted = macs.net_cost(net, (8, 8, 1))
        assert (evaluation["net"]["macs"], evaluation["net"]["params"]) == counted


def test_its_statistics_are_those_of_its_training_images(runs):
    """Of the stem's norm: moments of the convolution over the calibration images, every batch weighing the same."""
    ready = prepared(runs.little)
    net, variables = job.trained_net(ready)
    stats = variables["batch_stats"]["stem"]["norm"]
    images = ready.calibration_batches(1024).reshape(-1, 8, 8, 1)
    pixels = np.pad(images / 255.0, ((0, 0), (1, 1), (1, 1), (0, 0)))
    mean, std = (np.asarray(m) for m in (net.arch.mean, net.arch.std))
    inside = np.pad(np.ones((1, 8, 8, 1)), ((0, 0), (1, 1), (1, 1), (0, 0)))
    x, kernel = (pixels - mean) / std * inside, np.asarray(variables["params"]["stem"]["conv"]["kernel"], np.float64)
    y = sum(x[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(stats["mean"], y.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stats["var"], y.var((0, 1, 2)), rtol=1e-2)


def test_its_training_is_logged_without_roles(runs):
    rows = [json.loads(line) for line in (runs.little / "train" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4]
    assert not [key for row in rows for key in row if "largest" in key or "random" in key]
    ready = prepared(runs.little)
    assert 0 <= rows[-1]["holdout_accuracy"] <= 1
    held_out = ready.images.holdout
    right = logits(*job.trained_net(ready), held_out.images).argmax(1) == held_out.labels
    assert rows[-1]["holdout_accuracy"] == pytest.approx(right.mean(), abs=0.011)  # one image may lie on the edge


def test_its_files_always_answer_and_as_jax_does(runs):
    for path, precisions in ((runs.little, {"fp32", "int8"}), (runs.big, {"fp32"})):
        folder = path / "export" / "x86"
        told = metadata.read(folder / "model_fp32.tflite")
        evaluation = content(path / "evaluate" / "evaluation.json")
        assert (told["steps"], told["whole"], told["thresholds"]) == (["net"], [], [])
        assert told["cost"] == [evaluation["net"]["macs"]]
        classifier = runtime.DynamicClassifier(folder, "fp32")
        out = np.load(path / "evaluate" / "outputs.npz")
        answers = [classifier.predict(image) for image in prepared(path).images.test.images]
        assert [answer.class_index for answer in answers] == out["prediction"][:, 0].tolist()
        assert {answer.choice for answer in answers} == {0}
        exported = content(folder / "export.json")
        assert set(exported["files"]) == {f"net_{precision}" for precision in precisions}
        assert exported["cascade"]["fp32"]["agreement_with_jax"] == 1.0


def test_its_page_has_what_applies(runs):
    page = (runs.little / "report.html").read_text()
    assert "not run" not in page
    assert not [word for word in ("little", "Which images are easy", "predictor", "supernet") if f">{word}" in page]
    assert "The network answers <b>" in page
    (row,) = table(runs.little, "summary")
    assert float(row["macs"]) == content(runs.little / "evaluate" / "evaluation.json")["net"]["macs"]
    assert {row["network"] for row in table(runs.little, "devices")} == {"net"}
    assert {file.stem for file in (runs.little / "report" / "figures").glob("*.png")} == {"training", "reliability"}
    classes = table(runs.little, "by_class")
    assert [row["class"] for row in classes] == [str(digit) for digit in range(10)]
    assert sum(int(row["images"]) for row in classes) == 96


def test_its_other_commands(runs, tmp_path, capsys):
    copy = Path(shutil.copytree(runs.little, tmp_path / "W"))
    main(["status", f"--workdir={copy}"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [[n, "done"] for n in kinds.NETWORK.names]
    pipeline.run(network(LITTLE), copy)
    assert capsys.readouterr().out.count("done before") == 4
    main(["export", f"--workdir={copy}", "--target=pi4", "--precisions=int8"])
    main(["lint", str(copy / "export" / "pi4" / "model_int8.tflite"), "--target=pi4"])
    results = tmp_path / "kitchen.json"
    main(["bench", str(copy / "export" / "pi4"), "--runs=3", "--warm_up=1", "--energy_s=0", f"--output={results}"])
    main(["report", f"--workdir={copy}", "--bench", str(results)])
    measured = content(results)["sections"]["decision"]["latency_ms"]["median_ms"]
    rows = [row for row in table(copy, "devices") if row["target"] == "pi4"]
    assert [row["network"] for row in rows] == ["net", "net"]
    assert measured in [float(row["latency_ms"]) for row in rows]
    with pytest.raises(SystemExit):
        main(["search", f"--workdir={copy}", "--max_macs=1000"])
    assert "is a run of one fixed network" in capsys.readouterr().err


# A cascade.


def test_its_threshold_is_the_best_of_all(runs):
    """By brute force over every threshold that tells two held-out images apart."""
    ready = prepared(runs.cascade)
    held_out, nets = ready.images.holdout, [job.trained_net(prepared(path)) for path in (runs.little, runs.big)]
    out = np.stack([logits(net, variables, held_out.images) for net, variables in nets])
    right, score = out.argmax(-1) == held_out.labels, max_softmax(out[0]).astype(np.float64)
    alone = [macs.net_cost(net, (8, 8, 1))[0] for net, _ in nets]
    found = content(runs.cascade / "search" / "found.json")["pair"]
    assert found["cost"] == [alone[0], sum(alone)]
    edges = np.unique(score)
    points = []
    for threshold in (0.0, *(edges[1:] + edges[:-1]) / 2, 1.0):
        leaves = score > threshold
        cost = np.where(leaves, alone[0], sum(alone)).mean()
        points.append((np.where(leaves, right[0], right[1]).mean(), cost))
    best = max(point for point in points if point[1] <= 0.8 * alone[1])  # of equals the costlier
    assert (found["holdout"]["accuracy"], found["holdout"]["average_macs"]) == pytest.approx(best)
    assert found["feasible"]
    (router,) = found["routers"]
    assert router["auroc"] == pytest.approx(roc_auc_score(right[0], score))
    (tested,) = content(runs.cascade / "evaluate" / "evaluation.json")["routers"]
    assert (tested["auroc_holdout"], tested["threshold"]) == (router["auroc"], found["thresholds"][0])


def test_its_files_answer_as_jax_does_and_both_read_the_image(runs):
    folder = runs.cascade / "export" / "x86"
    told = metadata.read(folder / "model_fp32.tflite")
    assert (told["steps"], told["whole"]) == (["little", "big"], [])
    for name in ("little", "big"):
        assert set(told["signatures"][name]["inputs"]) == {"image"}
        assert set(told["signatures"][name]["outputs"]) == {"logits"}
    found, evaluation = (
        content(runs.cascade / "search/found.json")["pair"],
        content(runs.cascade / "evaluate/evaluation.json"),
    )
    assert told["cost"] == [found["little"]["macs"], found["little"]["macs"] + found["big"]["macs"]]
    out = np.load(runs.cascade / "evaluate" / "outputs.npz")
    classifier = runtime.DynamicClassifier(folder, "fp32")
    answers = [classifier.predict(image) for image in prepared(runs.cascade).images.test.images]
    assert [answer.choice for answer in answers] == out["choice"].tolist()
    assert 0 < out["choice"].mean() < 1
    assert [answer.class_index for answer in answers] == out["prediction"][np.arange(96), out["choice"]].tolist()
    for which, path in (("little", runs.little), ("big", runs.big)):
        alone = content(path / "evaluate" / "evaluation.json")["net"]
        assert {key: evaluation[which][key] for key in ("accuracy", "macs", "params")} == {
            key: alone[key] for key in ("accuracy", "macs", "params")
        }
    (routed,) = evaluation["routers"]
    assert routed["router"] == "confidence (max_softmax)"
    assert routed["auroc"] == pytest.approx(roc_auc_score(out["correct"][:, 0], out["score"][:, 0]))
    assert routed["routing_accuracy"] == ((out["choice"] == 0) == out["correct"][:, 0]).mean()
    assert (routed["accuracy"], routed["average_macs"]) == tuple(evaluation["dynamic"][k] for k in ("accuracy", "macs"))
    for which, path in (("little", runs.little), ("big", runs.big)):
        alone = content(path / "evaluate" / "evaluation.json")
        assert evaluation["calibration"][which]["images"] == alone["calibration"]["net"]["images"]
        assert evaluation["by_class"][which] == alone["by_class"]["net"]
    assert evaluation["dynamic"]["params"] == sum(evaluation[which]["params"] for which in ("little", "big"))


def test_its_page_and_its_rows(runs):
    page = (runs.cascade / "report.html").read_text()
    assert "not run" not in page
    assert "Two networks that were trained apart" in page
    assert len(table(runs.cascade, "operating_points")) == 6
    assert [row["router"] for row in table(runs.cascade, "routers")] == ["confidence (max_softmax)"]
    rows = table(runs.cascade, "devices")
    assert {row["network"] for row in rows} == {"little", "big", "dynamic"}
    files = content(runs.cascade / "export/x86/export.json")["files"]
    (size,) = {row["size_bytes"] for row in rows if row["network"] == "dynamic" and row["precision"] == "int8"}
    assert int(size) == files["little_int8"]["size_bytes"]  # both nets stand in one file


def test_it_needs_the_runs_no_more_once_it_is_searched(runs, tmp_path):
    copy = Path(shutil.copytree(runs.cascade, tmp_path / "W"))
    away = {"little": str(tmp_path / "gone"), "big": str(tmp_path / "gone")}
    found = finished.dynamic_of_run(copy)
    assert found.thresholds == tuple(content(copy / "search/found.json")["pair"]["thresholds"])
    with pytest.raises(ValueError, match="stage 'search' was made with another config"):
        pipeline.run({**runs.config, "cascade": away}, copy)
    for which, path in (("little", runs.little), ("big", runs.big)):
        net, variables = job.trained_net(prepared(path))
        image = np.zeros((1, 8, 8, 1), np.uint8)
        rebuilt = finished.net_of(content(copy / "search/found.json")["pair"][which]["made_of"])
        np.testing.assert_allclose(
            logits(rebuilt, found.variables[which], image), logits(net, variables, image), atol=1e-5
        )


def test_a_run_that_has_changed_since_is_noticed(runs, tmp_path):
    folder = Path(shutil.copytree(runs.folder, tmp_path / "runs"))
    config = {**runs.config, "cascade": {which: str(folder / which) for which in ("little", "big")}}
    pipeline.run(config, tmp_path / "W", names=("search",))
    pipeline.run(config, tmp_path / "W", names=("search",))  # done before
    manifest = folder / "big" / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("files", "file"))
    with pytest.raises(ValueError, match="what cascade.big names has changed since stage 'search' was made from it"):
        pipeline.run(config, tmp_path / "W", names=("search",))


def refused(config, path):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        pipeline.run(config, path, names=("search",))
    assert "\n" not in str(caught.value)
    assert not (path / "search").exists()
    return str(caught.value)


def test_runs_that_make_no_cascade(runs, tmp_path):
    new = tmp_path / "W"

    def cascade(**changed):
        return {**runs.config, "cascade": {**runs.config["cascade"], **changed}}

    assert "cascade.little is missing" in refused(cascade(little=None), new)
    assert "cascade.big: " in (said := refused(cascade(big=str(tmp_path)), new))
    assert "is no working directory" in said
    assert "is a cascade of two runs" in refused(cascade(big=str(runs.cascade)), new)
    assert "no less than big's" in refused(cascade(little=str(runs.big), big=str(runs.little)), new)
    unfinished = Path(shutil.copytree(runs.big, tmp_path / "unfinished"))
    (unfinished / "train" / "manifest.json").unlink()
    assert "its stage 'train' is not done" in refused(cascade(big=str(unfinished)), new)
    assert "held out other images" in refused({**runs.config, "seed": 1}, new)
    assert "held out other images" in refused({**runs.config, "data": {**DATA, "holdout": 99}}, new)
    bigger = {**runs.config, "data": {**DATA, "image_size": 10}}
    assert "trained on other data; its image_shape is [8, 8, 1]" in refused(bigger, new)
    assert "holdout is 0" in refused({**runs.config, "data": {**DATA, "holdout": 0}}, new)
    over = {**runs.config, "dynamic": {"max_latency_fraction": 0.5}}
    assert "unknown config key 'dynamic.max_latency_fraction'" in refused(over, new)


def test_a_working_directory_is_of_one_kind(runs):
    for path, config in ((runs.little, runs.config), (runs.cascade, network(LITTLE))):
        with pytest.raises(ValueError, match=r"holds a run of .*, the config is one of .*; choose another --workdir"):
            pipeline.run(config, path)


def test_runs_from_before_fingerprints_are_read_again(runs, tmp_path):
    folder = Path(shutil.copytree(runs.little, tmp_path / "little"))
    data = content(folder / "train" / "data.json")
    (folder / "train" / "data.json").write_text(json.dumps({k: v for k, v in data.items() if k != "splits"}))
    little, big = sides.read_both(little=str(folder), big=str(runs.big))
    assert little.made_of["data"]["splits"] == data["splits"]
    sides.check(little, big, prepared(runs.cascade).images)


# Beside another run.


def test_baselines_stand_in_the_table_of_another_run(runs, tmp_path, capsys):
    copy = Path(shutil.copytree(runs.cascade, tmp_path / "W"))
    own = table(copy, "devices")
    main(["report", f"--workdir={copy}", f"--baselines={runs.little},{runs.big}"])
    shutil.rmtree(copy / "report")
    pipeline.report(copy)  # they are the run's own from now on
    found = table(copy, "devices")
    assert [row for row in found if row["run"] == "this run"] == own
    for name, path in (("little", runs.little), ("big", runs.big)):
        mine = [{**row, "run": "this run"} for row in found if row["run"] == name]
        assert mine == table(path, "devices")
    page = copy.joinpath("report.html").read_text()
    assert "not measured" in page
    before = page
    for run, said in (
        (str(tmp_path), "is no working directory"),
        (str(copy), "is this run itself"),
        (f"{runs.big},{runs.big}", "the second of that name"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["report", f"--workdir={copy}", f"--baselines={run}"])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert copy.joinpath("report.html").read_text() == before


def test_a_network_starts_from_trained_weights(tmp_path, noisy_variables):
    facts = {"image_shape": [32, 32, 3], "classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.2] * 3}
    section = {"name": "mobilenet_v3_small", "width": 0.35, "padding": "symmetric", "epsilon": 1e-5}
    ready = SimpleNamespace(supernet=fixed.build(section, facts), target="pi4")
    net = ready.supernet.largest_net()
    variables = noisy_variables(net, (32, 32, 3))
    np.savez(tmp_path / "weights.npz", **weights.to_state_dict(net, variables, "timm"))
    found = starting.of_file(ready, start_from=str(tmp_path / "weights.npz"))
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(one, other)
    other = SimpleNamespace(supernet=fixed.build({**section, "epsilon": 1e-3}, facts), target="pi4")
    with pytest.raises(ValueError, match=r"give network.padding='symmetric' and network.epsilon=1e-05"):
        starting.of_file(other, start_from=str(tmp_path / "weights.npz"))
