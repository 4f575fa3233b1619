"""The device's run time: against JAX, against float64 arithmetic, and alone in an export folder."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from dynnas_jax.export import runtime


def in_jax(exported):
    """Class, probability and choice of each image: both nets on every image, routed afterwards."""
    rows = []
    for image in exported.images.astype(np.float32):
        both = [exported.little(image[None])[0], exported.big(image[None])]
        probabilities = [np.asarray(jax.nn.softmax(logits))[0] for logits in both]
        choice = 0 if probabilities[0].max() > exported.metadata["thresholds"][0] else 1
        rows.append((int(probabilities[choice].argmax()), probabilities[choice].max(), choice))
    return rows


def test_the_cascade_answers_as_both_nets_do_in_jax(exported):
    classifier = runtime.DynamicClassifier(exported.folder)
    expected = in_jax(exported)
    found = [classifier.predict(image) for image in exported.images]
    assert {choice for _, _, choice in expected} == {0, 1}
    assert [(p.class_index, p.choice) for p in found] == [(index, choice) for index, _, choice in expected]
    np.testing.assert_allclose(
        [p.probability for p in found], [probability for _, probability, _ in expected], atol=1e-5
    )
    assert all(p.label == exported.metadata["labels"][p.class_index] and p.latency_ms > 0 for p in found)
    assert all((p.score > classifier.threshold) == (p.choice == 0) for p in found)


def test_the_int8_cascade_mostly_agrees(exported):
    classifier = runtime.DynamicClassifier(exported.folder, "int8")
    expected = in_jax(exported)
    found = [classifier.predict(image) for image in exported.images]
    agreement = np.mean([p.class_index == index for p, (index, _, _) in zip(found, expected, strict=True)])
    assert agreement >= 0.9


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_threshold_moves_at_run_time(exported, precision):
    classifier = runtime.DynamicClassifier(exported.folder, precision)
    assert [classifier.threshold] == exported.metadata["thresholds"]
    assert classifier.cost == exported.metadata["cost"]
    for threshold, choice in ((0.0, 0), (1.0, 1)):
        classifier.threshold = threshold
        assert {classifier.predict(image).choice for image in exported.images} == {choice}
    score = classifier.predict(exported.images[0]).score
    classifier.threshold = score  # an image exits strictly above the threshold
    assert classifier.predict(exported.images[0]).choice == 1
    with pytest.raises(ValueError, match="threshold nan"):
        classifier.threshold = float("nan")


def test_the_stem_is_requantised_only_where_scales_differ():
    given, stored = runtime._Scale(0.02, -100), np.arange(-128, 128).astype(np.int8)
    assert runtime._passing(given, runtime._Scale(0.02 * (1 + 1e-6), -100))(stored) is stored
    passed = runtime._passing(given, runtime._Scale(0.03, -90))(stored)
    exact = np.rint((stored.astype(np.float64) + 100) * 0.02 / 0.03) - 90
    assert np.max(np.abs(passed - exact.clip(-128, 127))) <= 1  # a tie may round either way in float32
    assert np.mean(passed == exact.clip(-128, 127)) > 0.95


def test_float_and_byte_images_give_the_same(exported):
    for precision in ("fp32", "int8"):
        model = runtime.Model(exported.folder / f"big_{precision}.tflite")
        image = exported.images[3]
        for other in (image.astype(np.float32), image[None]):
            np.testing.assert_array_equal(model.run(image)["logits"], model.run(other)["logits"])


def test_what_a_caller_gets_wrong_is_named(exported, tmp_path):
    classifier, image = runtime.DynamicClassifier(exported.folder), exported.images[0]
    with pytest.raises(ValueError, match=r"takes \[16, 16, 3\], not \[8, 8, 3\]"):
        classifier.predict(image[:8, :8])
    with pytest.raises(ValueError, match="not float64"):
        classifier.predict(image / 255.0)
    with pytest.raises(ValueError, match="not int64"):
        classifier.little.run(image.astype(np.int64))
    with pytest.raises(ValueError, match="threads=0"):
        runtime.Model(exported.folder / "big_fp32.tflite", threads=0)
    with pytest.raises(ValueError, match="cannot read .*little_fp32.tflite"):
        runtime.DynamicClassifier(tmp_path)


def test_a_truncated_file_is_an_error_and_no_crash(exported, tmp_path):
    path = tmp_path / "big.tflite"
    path.write_bytes((exported.folder / "big_fp32.tflite").read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or damaged"):
        runtime.Model(path)


def test_bench_times_the_counted_runs_only():
    calls = []
    latency = runtime.bench(calls.append, ["a", "b", "c"], runs=6, warm_up=3)
    assert calls == ["a", "b", "c"] * 3
    assert 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms <= latency.p95_ms
    assert latency.p10_ms / 6 <= latency.mean_ms
    with pytest.raises(ValueError, match="at least one input"):
        runtime.bench(calls.append, [])


def test_the_export_folder_stands_alone(exported):
    script = (
        "import sys; sys.path.insert(0, '.'); sys.modules['dynnas_jax'] = None\n"
        "import numpy, runtime\n"
        "image = numpy.full((16, 16, 3), 200, numpy.uint8)\n"
        "print(*runtime.DynamicClassifier('.', 'int8').predict(image)[:2])\n"
        "assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-I", "-c", script]
    done = subprocess.run(command, cwd=exported.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    image = np.full((16, 16, 3), 200, np.uint8)
    expected = runtime.DynamicClassifier(exported.folder, "int8").predict(image)
    assert done.stdout.split() == [expected.label, str(expected.class_index)]


def test_importing_the_runtime_brings_neither_jax_nor_tensorflow():
    script = "import sys, dynnas_jax.export.runtime; print({'jax', 'flax', 'tensorflow'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "set()"
