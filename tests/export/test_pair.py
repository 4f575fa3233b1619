"""The export of a pair, all or nothing, and what is measured of it."""

import json

import numpy as np
import pytest

from dynnas_jax.export import flatbuffer, pair, tflite


def export(exported, folder, **changes):
    options = {
        "image_shape": exported.images.shape[1:],
        "folder": folder,
        "calibration": exported.images[:4],
        "metadata": exported.metadata,
        "macs": exported.macs,
        "precisions": ("fp32",),
    }
    return pair.export_pair(exported.little, exported.big_after_stem, exported.big, **(options | changes))


def test_the_facts_are_of_the_files(exported):
    names = {f"{net}_{precision}" for net in exported.macs for precision in ("fp32", "int8")}
    assert set(exported.facts) == names
    for name, facts in exported.facts.items():
        path = exported.folder / facts["path"]
        assert path.name == f"{name}.tflite"
        assert facts["size_bytes"] == path.stat().st_size
        assert facts["ops"] == flatbuffer.op_counts(path)
        assert facts["macs"] == exported.macs[name.rsplit("_", 1)[0]]
        assert facts["max_logit_difference"] < (1e-4 if name.endswith("fp32") else 1)
    alone = {"runtime.py", "flatbuffer.py", "schema.py", "confidence.py", "requirements.txt"}
    assert {path.name for path in exported.folder.iterdir()} == {f"{name}.tflite" for name in names} | alone


def test_every_file_says_what_it_is(exported):
    little = flatbuffer.read_metadata(exported.folder / "little_int8.tflite")
    assert (little["version"], little["net"], little["precision"]) == (1, "little", "int8")
    assert little["signatures"] == {tflite.SIGNATURE: {"input": [1, 16, 16, 3], "outputs": ["logits", "stem"]}}
    assert little["policy"] == {"rule": "first_above", "score": "max_softmax"}
    for key in ("labels", "cost", "thresholds"):
        assert little[key] == exported.metadata[key]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"macs": {"little": 1, "big_after_stem": 1, "big": 1}}, "the JAX network 1"),
        ({"tolerance": 0.0}, "outputs differ from JAX's by"),
        ({"metadata": {"labels": ["a"] * 5}}, "lacks cost, score, thresholds"),
        ({"calibration": np.zeros((4, 8, 8, 3), np.uint8)}, r"uint8\[4, 8, 8, 3\], but must be"),
    ],
)
def test_a_broken_promise_leaves_no_file(exported, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export(exported, tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_labels_and_scores_must_fit(exported, tmp_path):
    for change, message in (
        ({"labels": ["ant"]}, r"logits \(1, 5\) for 1 labels"),
        ({"score": "gut"}, "'gut' is unknown"),
        ({"thresholds": [0.1, 0.2]}, "2 costs and 1 threshold, not 2 and 2"),
    ):
        with pytest.raises(ValueError, match=message):
            export(exported, tmp_path, metadata=exported.metadata | change)


def test_measuring_agrees_with_jax(exported):
    images = exported.images.astype(np.float32)
    little = np.array([np.asarray(exported.little(image[None])[0])[0] for image in images], np.float64)
    big = np.array([int(exported.big(image[None]).argmax()) for image in images])
    probability = np.exp(little) / np.exp(little).sum(-1, keepdims=True)
    first = probability.max(-1) > exported.metadata["thresholds"][0]
    answers = np.where(first, little.argmax(-1), big)
    labels = np.arange(len(images)) % 5
    found = pair.measure(exported.folder, exported.facts, exported.images, labels, answers, runs=20, warm_up=2)
    assert json.loads(json.dumps(found)) == found

    fp32 = found["cascade"]["fp32"]
    assert fp32["agreement_with_jax"] == 1.0
    assert fp32["accuracy"] == np.mean(answers == labels)
    assert fp32["exit_rate"] == [np.mean(first), np.mean(~first)]
    assert found["files"]["little_fp32"]["accuracy"] == np.mean(little.argmax(-1) == labels)
    for net in ("big", "big_after_stem"):
        assert found["files"][f"{net}_fp32"]["accuracy"] == np.mean(big == labels)
    assert found["cascade"]["int8"]["agreement_with_jax"] >= 0.9
    for fact in found["files"].values():
        assert 0 < fact["latency_spread_ms"][0] <= fact["latency_ms"] <= fact["latency_spread_ms"][1]
    for name in ("little", "big", "big_after_stem"):
        exact, rounded = found["files"][f"{name}_fp32"], found["files"][f"{name}_int8"]
        assert rounded["accuracy_loss"] == exact["accuracy"] - rounded["accuracy"]
        assert "accuracy_loss" not in exact
    with pytest.raises(ValueError, match="40 images, 39 labels"):
        pair.measure(exported.folder, exported.facts, exported.images, labels[:-1], answers)
