"""What is measured of an export, against JAX; and which files lose too much."""

import json
import shutil

import numpy as np
import pytest
from hand_made import SHAPES, hand_made, tell  # noqa: F401 (a fixture)

from dynnas_jax.export import engines, measuring

GROUPS = ("fp32", "fp16", "dynamic_range", "int8", "fp32_onnx", "int8_onnx")


@pytest.fixture(scope="module")
def in_jax(exported):
    """(reference, first: whether little answers, its logits, big's answers)."""
    images = exported.images.astype(np.float32)
    little = np.array([np.asarray(exported.little(image[None])[0])[0] for image in images], np.float64)
    big = np.array([int(exported.big(image[None]).argmax()) for image in images])
    probability = np.exp(little) / np.exp(little).sum(-1, keepdims=True)
    first = probability.max(-1) > exported.promise.thresholds[0]
    predictions = {"little": little.argmax(-1), "big_after_stem": big, "big": big}
    spent = np.where(first, *exported.promise.cost).mean()
    return measuring.Reference(predictions, np.where(first, little.argmax(-1), big), spent), first


@pytest.fixture(scope="module")
def measured(exported, in_jax):
    labels = np.arange(len(exported.images)) % 5
    found = measuring.measure(exported.folder, exported.facts, exported.images, labels, in_jax[0], runs=5, warm_up=1)
    return found, labels


def test_measuring_agrees_with_jax(exported, in_jax, measured):
    (found, labels), (reference, first) = measured, in_jax
    assert json.loads(json.dumps(found)) == found
    assert set(found["cascade"]) == set(GROUPS)
    assert set(found["files"]) == set(exported.facts)
    for key in ("fp32", "fp32_onnx"):
        cascade = found["cascade"][key]
        assert cascade["agreement_with_jax"] == 1.0
        assert cascade["accuracy"] == np.mean(reference.answers == labels)
        assert cascade["exit_rate"] == [np.mean(first), np.mean(~first)]
        assert cascade["accuracy_loss"] == 0
        assert cascade["macs"] == pytest.approx(reference.macs)
    assert all(cascade["agreement_with_jax"] >= 0.85 for cascade in found["cascade"].values())
    for name, fact in found["files"].items():
        assert fact["latency_ms"] <= fact["latency_p95_ms"]
        assert 0 < fact["latency_spread_ms"][0] <= fact["latency_ms"] <= fact["latency_spread_ms"][1]
        exact = np.mean(reference.predictions[fact["function"]] == labels)
        assert fact["accuracy_loss"] == pytest.approx(exact - fact["accuracy"])
        if fact["precision"] == "fp32":
            assert fact["accuracy_loss"] == 0, name


def fact(function, precision, loss):
    return {"function": function, "precision": precision, "accuracy": 0.9 - loss, "accuracy_loss": loss}


def decision(loss, macs=5e6, exit_rate=(0.6, 0.4)):
    told = {"macs": macs, "macs_in_jax": 4e6, "most_macs": 8_000_000}
    return {"accuracy": 0.9 - loss, "accuracy_loss": loss, "exit_rate": list(exit_rate), **told}


def test_losses_are_of_all_that_rounds_and_above_the_limit():
    files = {
        "little_fp32": fact("little", "fp32", 0.5),  # its outputs are compared one by one
        "little_fp16": fact("little", "fp16", 0.02),
        "big_dynamic_range": fact("big", "dynamic_range", 0.03),
        "little_int8": fact("little", "int8", 0.011),
        "big_int8": fact("big", "int8", 0.01),
        "big_int8_onnx": fact("big", "int8", 0.05),
        "router_int8": {"function": "router", "precision": "int8"},
    }
    cascade = {"fp32": decision(0.02), "int8": decision(0.01), "int8_onnx": decision(0.03)}
    found = measuring.losses({"files": files, "cascade": cascade}, 0.01)
    keys = ["big_int8_onnx", "big_dynamic_range", "little_fp16", "little_int8", "int8_onnx", "fp32"]
    assert [loss.key for loss in found] == keys
    assert [loss.function == measuring.DECISION for loss in found] == [False] * 4 + [True] * 2
    assert found[0].accuracy == pytest.approx(0.85)
    assert found[4].text == "the whole decision in int8_onnx loses 3.00 points of accuracy on the test split"
    assert measuring.losses({"files": files, "cascade": cascade}, 1) == []
    alone = {"int8": decision(0.5, exit_rate=(1.0,))}  # the net's own accuracy tells it already
    assert measuring.losses({"files": {}, "cascade": alone}, 0.01) == []


@pytest.mark.parametrize(("macs", "too_many"), [(5.9e6, False), (6.1e6, True), (8e6, True), (1e6, False)])
def test_a_decision_may_not_lose_most_of_what_it_saves(macs, too_many):
    """In JAX 4 of 8 million are saved."""
    found = measuring.losses({"files": {}, "cascade": {"int8": decision(0.0, macs)}}, 0.01)
    assert bool(found) == too_many
    assert measuring.losses({"files": {}, "cascade": {"int8": decision(0.0, macs)}}, 1) == []


def test_some_images_of_a_routing_that_saves_little_are_no_collapse():
    told = decision(0.0, 7.99e6) | {"macs_in_jax": 7.95e6}
    assert measuring.losses({"files": {}, "cascade": {"int8": told}}, 0.01) == []
    assert measuring.losses({"files": {}, "cascade": {"int8": told | {"macs_in_jax": None}}}, 0.01) == []


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        (
            1.0,
            r"^the whole decision in int8 costs [\d.]+ M MACs an image, .* save is lost; in int8 .*int8_layers.json$",
        ),
        (
            0.0,
            r"^the whole decision in int8 loses [\d.]+ points of accuracy on the test split, more than .*int8_layers",
        ),
    ],
    ids=["all to big", "all to little"],
)
def test_a_routing_that_has_collapsed_is_found(exported, in_jax, tmp_path, threshold, said):
    """As by a router whose int8 score is the same for all images, on either side; the nets are right all the same."""
    folder, (reference, _) = shutil.copytree(exported.folder, tmp_path / "x86"), in_jax
    facts = {key: fact for key, fact in exported.facts.items() if key.endswith("_int8")}
    # To big: no net ever answers rightly, so that none loses.
    labels = np.full(len(exported.images), -1) if threshold else reference.answers
    measure = lambda: measuring.measure(folder, facts, exported.images, labels, reference, runs=2, warm_up=0)  # noqa: E731
    whole = [loss for loss in measuring.losses(measure(), 0.2) if loss.function == measuring.DECISION]
    assert whole == []
    tell(folder / "model_int8.tflite", thresholds=[threshold])
    measured = measure()
    measured["files"] = {key: fact | {"accuracy_loss": 0.0} for key, fact in measured["files"].items()}
    with pytest.raises(ValueError, match=said):
        measuring.insist(measured, 0.2, exported.network, exported.images[:4], tmp_path / "none")
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["int8_layers.json"]


def test_layers_of_lossy_functions(exported):
    layers = measuring.lossy_layers(exported.network, ["big", "little", "big"], exported.images[:8], images=2)
    assert list(dict.fromkeys(layer.signature for layer in layers)) == ["big", "little"]
    assert sum(layer.signature == "big" for layer in layers) == sum(exported.facts["big_int8"]["ops"].values())


def test_one_answer_an_image(exported, in_jax):
    labels = np.zeros(39, int)
    with pytest.raises(ValueError, match="40 images, 39 labels"):
        measuring.measure(exported.folder, exported.facts, exported.images, labels, in_jax[0])


def test_a_net_s_time_is_that_of_its_part_in_a_decision(hand_made, monkeypatch):  # noqa: F811
    """As `bench` takes it: `run`, which scales and reads all that flows, is called for accuracies alone."""
    images, labels, runs, own = hand_made.images[:3], np.zeros(3, int), [], engines.Model.run
    monkeypatch.setattr(engines.Model, "run", lambda self, values: runs.append(self.name) or own(self, values))
    reference = measuring.Reference(dict.fromkeys(SHAPES, labels), labels)
    path = "model_int8.tflite"
    facts = {f"{name}_int8": {"function": name, "path": path, "precision": "int8"} for name in SHAPES}
    counts = []
    for timed in (3, 60):
        found = measuring.measure(hand_made.one_file, facts, images, labels, reference, runs=timed, warm_up=0)
        counts.append(len(runs))
        runs.clear()
    assert counts[0] == counts[1]
    assert all(fact["latency_ms"] > 0 for fact in found["files"].values())
