"""What is measured of an export, against JAX; and which files lose too much."""

import json

import numpy as np
import pytest
from hand_made import SHAPES, hand_made  # noqa: F401 (a fixture)

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
    return measuring.Reference(predictions, np.where(first, little.argmax(-1), big)), first


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
    assert all(cascade["agreement_with_jax"] >= 0.85 for cascade in found["cascade"].values())
    for name, fact in found["files"].items():
        assert 0 < fact["latency_spread_ms"][0] <= fact["latency_ms"] <= fact["latency_spread_ms"][1]
        exact = np.mean(reference.predictions[fact["function"]] == labels)
        assert fact["accuracy_loss"] == pytest.approx(exact - fact["accuracy"])
        if fact["precision"] == "fp32":
            assert fact["accuracy_loss"] == 0, name


def test_losses_are_of_int8_alone_and_above_the_limit():
    def fact(function, precision, loss):
        return {"function": function, "precision": precision, "accuracy": 0.9 - loss, "accuracy_loss": loss}

    files = {
        "little_fp16": fact("little", "fp16", 0.5),
        "little_int8": fact("little", "int8", 0.011),
        "big_int8": fact("big", "int8", 0.01),
        "big_int8_onnx": fact("big", "int8", 0.05),
    }
    found = measuring.losses({"files": files}, 0.01)
    assert [loss.key for loss in found] == ["big_int8_onnx", "little_int8"]
    assert found[0].accuracy == pytest.approx(0.85)


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
