"""Conversion: LiteRT's own answers against JAX's, and failures that leave nothing behind."""

import errno
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from dynnas_jax.export import flatbuffer, tflite


def litert(path, values):
    """Outputs by name, from LiteRT's signature runner alone (nothing of this package)."""
    return Interpreter(model_path=str(path)).get_signature_runner()(**{tflite.INPUT_NAME: values})


def test_fp32_equals_jax(exported):
    for image in exported.images[:10]:
        image = image[None].astype(np.float32)
        logits, stem = exported.little(image)
        found = litert(exported.folder / "little_fp32.tflite", image)
        np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
        np.testing.assert_allclose(found["stem"], stem, atol=1e-4)
        found = litert(exported.folder / "big_after_stem_fp32.tflite", np.asarray(stem))
        np.testing.assert_allclose(found["logits"], exported.big(image), atol=1e-4)


@pytest.mark.parametrize("net", ["little", "big"])
def test_int8_takes_and_gives_int8_and_keeps_the_signal(exported, net):
    path = exported.folder / f"{net}_int8.tflite"
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    taken, given = runner.get_input_details()[tflite.INPUT_NAME], runner.get_output_details()["logits"]
    assert taken["dtype"] is np.int8
    assert given["dtype"] is np.int8
    scale, zero_point = given["quantization"]
    signal, noise = 0.0, 0.0
    for image in exported.images:
        image = image[None].astype(np.float32)
        expected = tflite.named(getattr(exported, net))(image)["logits"]
        stored = np.rint(image / taken["quantization"][0] + taken["quantization"][1]).clip(-128, 127)
        found = (
            runner(**{tflite.INPUT_NAME: stored.astype(np.int8)})["logits"].astype(np.float32) - zero_point
        ) * scale
        signal, noise = signal + np.sum(np.square(expected)), noise + np.sum(np.square(found - expected))
    assert 10 * np.log10(signal / noise) > 25  # dB


def test_int8_dense_weights_have_one_scale_and_convolutions_one_per_channel(exported):
    model = flatbuffer.load(exported.folder / "big_int8.tflite")
    scales = {
        name: len(graph.tensors[operator.inputs[1]].quantization.scale)
        for name, operator, graph in flatbuffer.operators(model)
        if name in ("FULLY_CONNECTED", "DEPTHWISE_CONV_2D")
    }
    assert scales == {"FULLY_CONNECTED": 1, "DEPTHWISE_CONV_2D": 32}


@pytest.mark.parametrize(
    ("activation", "promised"),
    [
        ("relu", {"CONV_2D"}),
        ("relu6", {"CONV_2D"}),
        ("hard_swish", {"CONV_2D", "HARD_SWISH"}),
        ("swish", {"CONV_2D", "LOGISTIC", "MUL"}),
        ("sigmoid", {"CONV_2D", "LOGISTIC"}),
        ("hard_sigmoid", {"CONV_2D", "MUL"}),
    ],
)
def test_what_each_activation_becomes(tmp_path, activation, promised):
    kernel = jax.random.normal(jax.random.key(0), (1, 1, 4, 4))
    act = getattr(jax.nn, activation)

    def net(x):
        return act(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))

    path = tmp_path / "net.tflite"
    tflite.convert(net, (1, 3, 3, 4), path)
    assert set(flatbuffer.op_counts(path)) == promised
    assert promised <= flatbuffer.BUILTIN_OPS
    x = np.linspace(-4, 4, 36, dtype=np.float32).reshape(1, 3, 3, 4)
    np.testing.assert_allclose(litert(path, x)["logits"], net(x), atol=1e-5)


def test_wrong_arguments_are_named(tmp_path):
    path, one = tmp_path / "net.tflite", np.zeros((1, 4), np.float32)
    cases = [
        ({"precision": "int4"}, "'int4' is unknown"),
        ({"precision": "int8"}, "needs calibration"),
        ({"precision": "int8", "calibration": np.zeros((2, 5), np.float32)}, r"float32\[2, 5\], but must be"),
        ({"precision": "int8", "calibration": one.astype(np.float64)}, r"float64\[1, 4\], but must be"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            tflite.convert(lambda x: x, (1, 4), path, **options)
    with pytest.raises(ValueError, match="batch of 1"):
        tflite.convert(lambda x: x, (2, 4), path)
    with pytest.raises(ValueError, match="there is no folder"):
        tflite.convert(lambda x: x, (1, 4), tmp_path / "absent" / "net.tflite")
    assert list(tmp_path.iterdir()) == []


def test_what_tflite_cannot_express_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"^TensorFlow cannot express[^\n]*$"):
        tflite.convert(lambda x: jnp.linalg.cholesky(x), (1, 4, 4), tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"^cannot write .*net.tflite: No space left on device$"):
        tflite.convert(lambda x: x + 1.0, (1, 4), tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []


def test_conversion_is_silent(tmp_path, capfd):
    calibration = np.ones((4, 4), np.float32)
    tflite.convert(lambda x: x * 2.0, (1, 4), tmp_path / "net.tflite", precision="int8", calibration=calibration)
    assert capfd.readouterr() == ("", "")


def test_conversion_is_silent_where_tensorflow_tells_every_step(tmp_path):
    """In a notebook TensorFlow's log starts at INFO, and its handler writes past descriptor 2."""
    said = []
    log, handler = tf.get_logger(), logging.Handler()
    handler.emit = said.append
    level = log.level
    log.addHandler(handler)
    try:
        log.setLevel(logging.INFO)
        tflite.convert(lambda x: x * 2.0, (1, 4), tmp_path / "net.tflite")
        assert not said
        log.info("heard again")
        assert len(said) == 1
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
