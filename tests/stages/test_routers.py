"""Routers of a finished tiny run: fitted in the search, judged in the evaluation, exported, and run on the device."""

import json
import shutil

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dynnas_jax import decisions, finished, job, pipeline, recipe
from dynnas_jax.dynamic import cascade, fitting, protocol, thresholds
from dynnas_jax.export import metadata, runtime
from dynnas_jax.stages import routers
from dynnas_jax.workdir import Workdir, read_json

TARGET = {"max_macs_fraction": 0.99}


@pytest.fixture(autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


def with_dynamic(tiny_run, **options):
    return {**tiny_run.config, "dynamic": {**TARGET, **options}}


def done_anew(tiny_run, path, precisions, **options):
    """A copy of the tiny run whose stages from the search on are done with another router."""
    shutil.copytree(tiny_run.workdir, path)
    config = with_dynamic(tiny_run, **options)
    config["export"] = {**config["export"], "precisions": precisions}
    pipeline.run(config, path, names=("search", "evaluate", "export"), redo="search")
    return config, path


@pytest.fixture(scope="module")
def learned(tiny_run, quick_programs, tmp_path_factory):
    """(config, working directory) with a learned router beside all others, exported."""
    options = {"router": "learned", "router_units": 4, "router_folds": 3, "compare_routers": True, "threshold": 0.45}
    with quick_programs():
        return done_anew(tiny_run, tmp_path_factory.mktemp("learned") / "W", ("fp32", "int8"), **options)


def prepared(config, path):
    return job.prepare(Workdir(path, pipeline.STAGES, config), config)


def test_the_nets_stay_as_they_are(tiny_run, learned):
    before, after = (job.load_variables(path / "search/pair.msgpack") for path in (tiny_run.workdir, learned[1]))
    assert set(after) == {"little", "big", "router"}
    for which in ("little", "big"):
        for first, second in zip(*map(jax.tree.leaves, (before[which], after[which])), strict=True):
            np.testing.assert_array_equal(first, second)


def test_thresholds_are_chosen_on_scores_of_routers_that_had_not_seen_the_image(learned):
    config, path = learned
    found = read_json(path / "search/found.json")["pair"]
    run = prepared(config, path)
    whole = finished.found_pair(run)
    seen = protocol.observed(whole.pair, whole.variables, run.images.holdout, (whole.router,))
    best = decisions.best(*seen.correct.T, "little_right")
    fitted = fitting.fit(seen.inputs[0], best, units=4, folds=3, seed=run.seed)
    row = found["routers"][0]
    assert row["auroc"] == pytest.approx(roc_auc_score(best, fitted.score), abs=1e-6)
    point = thresholds.evaluate(np.stack([fitted.score] * 2, axis=1), seen.correct, found["cost"], [0.45])
    assert found["holdout"]["accuracy"] == pytest.approx(point.accuracy)
    assert found["thresholds"] == [float(np.float32(0.45))]
    channels = seen.inputs[0]["mean"].shape[1]
    assert (row["macs"], row["params"]) == (channels * 4 + 4, channels * 4 + 4 + 4 + 1)
    little, big, stem = found["little"]["macs"], found["big"]["macs"], found["stem_macs"]
    assert found["cost"] == [little + row["macs"], little + big - stem + row["macs"]]
    stem_row = next(other for other in found["routers"] if other["router"] == "difficulty (stem)")
    assert stem_row["cost"] == [little + stem_row["macs"], big + stem_row["macs"]]


def test_every_router_is_judged_on_the_test_split(learned):
    config, path = learned
    found, evaluation = (read_json(path / name) for name in ("search/found.json", "evaluate/evaluation.json"))
    out, rows = np.load(path / "evaluate/outputs.npz"), evaluation["routers"]
    best = decisions.best(*out["correct"].T, "little_right")
    assert len(rows) == len(found["pair"]["routers"]) == 6
    assert rows[0]["auroc"] == pytest.approx(roc_auc_score(best, out["score"][:, 0]), abs=1e-6)
    stays = out["score"][:, 0] > np.float32(0.45)
    assert rows[0]["routing_accuracy"] == (stays == best).mean()
    assert rows[0]["accuracy"] == evaluation["dynamic"]["accuracy"]
    assert rows[0]["average_macs"] == evaluation["dynamic"]["macs"]
    assert 0 < rows[0]["exit_rate"] < 1
    by_name = {row["router"]: row for row in rows}
    run = prepared(config, path)
    whole = finished.found_pair(run)
    confident = protocol.answers(protocol.confident_pair(whole.pair, score="margin"), whole.variables, run.images.test)
    wanted = roc_auc_score(best, confident.score[:, 0])
    assert by_name["confidence (margin)"]["auroc"] == pytest.approx(wanted, abs=1e-6)


def test_the_device_routes_by_the_exported_score(learned):
    """fp32 as JAX does; int8 by a score of 256 steps that lies near it."""
    config, path = learned
    saved, images = np.load(path / "evaluate/outputs.npz"), prepared(config, path).images.test.images
    told = metadata.read(path / "export/x86/model_int8.tflite")
    assert told["policy"]["score"] == "own"
    assert told["thresholds"] == [float(np.float32(0.45))]
    assert told["signatures"]["little"]["outputs"]["score"] == [1]
    assert "score" not in told["signatures"]["big_after_stem"]["outputs"]
    found = {kind: runtime.DynamicClassifier(path / "export/x86", kind) for kind in ("fp32", "int8")}
    answers = {kind: [classifier.predict(image) for image in images] for kind, classifier in found.items()}
    np.testing.assert_allclose([answer.scores[0] for answer in answers["fp32"]], saved["score"][:, 0], atol=1e-5)
    assert [answer.choice for answer in answers["fp32"]] == saved["choice"].tolist()
    scores = np.asarray([answer.scores[0] for answer in answers["int8"]])
    np.testing.assert_allclose(scores * 256, np.rint(scores * 256), atol=1e-3)
    assert [answer.choice for answer in answers["int8"]] == [0 if score > np.float32(0.45) else 1 for score in scores]
    assert np.corrcoef(scores, saved["score"][:, 0])[0, 1] > 0.9


@pytest.fixture(scope="module")
def before_little(tiny_run, quick_programs, tmp_path_factory):
    """(config, working directory) with a router that looks at the stem alone, exported."""
    options = {"router": "difficulty", "router_place": "stem", "threshold": 0.5}
    with quick_programs():
        return done_anew(tiny_run, tmp_path_factory.mktemp("stem") / "W", ("fp32",), **options)


def test_a_hard_image_does_not_pay_for_little(before_little):
    _, path = before_little
    found = read_json(path / "search/found.json")["pair"]
    out, evaluation = np.load(path / "evaluate/outputs.npz"), read_json(path / "evaluate/evaluation.json")
    little, big, own = found["little"]["macs"], found["big"]["macs"], found["routers"][0]["macs"]
    assert found["cost"] == [little + own, big + own]
    choice = np.where(out["score"][:, 0] > np.float32(0.5), 0, 1)
    np.testing.assert_array_equal(out["choice"], choice)
    assert 0 < choice.mean() < 1
    assert evaluation["dynamic"]["macs"] == pytest.approx(np.asarray(found["cost"])[choice].mean())
    exported = read_json(path / "export/x86/export.json")["files"]
    stem = found["stem_macs"]
    assert exported["router_fp32"]["macs"] == stem + own
    assert exported["little_after_stem_fp32"]["macs"] == little - stem
    assert exported["big_after_stem_fp32"]["macs"] == big - stem


def test_the_device_asks_the_router_first(before_little):
    config, path = before_little
    saved, run = np.load(path / "evaluate/outputs.npz"), prepared(config, path)
    folder, images = path / "export/x86", run.images.test.images
    told = metadata.read(folder / "model_fp32.tflite")
    assert (told["policy"], told["router"]) == ({"rule": "routed", "score": "own"}, "router")
    assert told["steps"] == ["little_after_stem", "big_after_stem"]
    classifier = runtime.DynamicClassifier(folder, "fp32")
    classifier.warm_up()
    answers = [classifier.predict(image) for image in images]
    np.testing.assert_allclose([answer.score for answer in answers], saved["score"][:, 0], atol=1e-4)
    assert [answer.choice for answer in answers] == saved["choice"].tolist()
    assert [answer.step for answer in answers] == [told["steps"][choice] for choice in saved["choice"]]
    wanted = saved["prediction"][np.arange(len(images)), saved["choice"]]
    assert [answer.class_index for answer in answers] == wanted.tolist()
    measured = read_json(folder / "export.json")
    assert measured["cascade"]["fp32"]["agreement_with_jax"] == 1.0
    assert "accuracy" not in measured["files"]["router_fp32"]
    for limit, step in ((0.0, 0), (1.0, 1)):
        classifier.threshold = limit
        assert {classifier.predict(image).choice for image in images[:5]} == {step}
    found = finished.dynamic_of_run(path)
    batch = cascade.build(found.dynamic, capacity=20)(found.variables, images, found.thresholds)
    np.testing.assert_array_equal(batch.choice, saved["choice"])
    assert "answers where the score of router is above 0.5" in (folder / "README.md").read_text()


def test_statistics_that_the_target_cannot_compute(tiny_run):
    config = with_dynamic(tiny_run, router="difficulty") | {"target": "edgetpu"}
    said = r"target edgetpu cannot compute entropy and norm; write dynamic.router_statistics=\('mean', 'variance'\)$"
    with pytest.raises(ValueError, match=said):
        routers.check(config["dynamic"], config)
    routers.check({**config["dynamic"], "router_statistics": ("mean", "variance")}, config)
    routers.check({**TARGET, "router": "learned"}, config)


def test_a_router_is_judged_by_the_decision_that_it_was_trained_for(tiny_run):
    config = with_dynamic(tiny_run, router="learned", optimal="little_right_or_both_wrong")
    joint = {**config["train"], "joint_rule": {"router": "learned"}}
    trained = {**config, "supernet": {**config["supernet"], "coupled": True}, "train": joint}
    said = "dynamic.optimal is 'little_right_or_both_wrong', but the router is trained for .*'little_right'; give both the same"
    with pytest.raises(ValueError, match=said):
        routers.check(trained["dynamic"], trained)
    routers.check({**trained["dynamic"], "router_fit": "afterwards"}, trained)
    joint["joint_rule"]["optimal"] = "little_right_or_both_wrong"
    routers.check(trained["dynamic"], trained)


@pytest.mark.parametrize(
    ("dynamic", "said"),
    [
        ({"router": "oracle"}, "dynamic.router is 'oracle', choose from"),
        ({"threshold": 1.5}, "dynamic.threshold is 1.5, must be a number from 0 to 1"),
        ({"router_units": 8}, "does nothing for router 'confidence'; write dynamic.router='learned', or leave it out"),
        (
            {"router": "learned", "router_fit": "jointly"},
            "no router is trained with the nets; set supernet.coupled=True",
        ),
        ({"rooter": "learned"}, "did you mean 'dynamic.router'"),
    ],
)
def test_what_a_config_may_not_ask(tiny_run, tmp_path, dynamic, said):
    config = with_dynamic(tiny_run, **dynamic)
    with pytest.raises(ValueError, match=said):
        recipe.check(config)
    with pytest.raises(ValueError, match=said):
        pipeline.run(config, tmp_path / "W")
    assert not (tmp_path / "W").exists()
    assert json.dumps(tiny_run.config["dynamic"]) == json.dumps(TARGET)
