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

from dynnas_jax.export import engines, flatbuffer, functions, targets, tflite
from dynnas_jax.networks import blocks


def litert(path, values, signature=None):
    """Outputs by name, from LiteRT's signature runner alone (nothing of this package)."""
    runner = Interpreter(model_path=str(path)).get_signature_runner(signature)
    return runner(**dict.fromkeys(runner.get_input_details(), values))


def counts(path):
    """Of the operators of a file of one function."""
    return flatbuffer.work(path)[tflite.SIGNATURE].counts


def test_fp32_equals_jax(exported):
    path = exported.folder / "model_fp32.tflite"
    for image in exported.images[:10]:
        image = image[None].astype(np.float32)
        logits, stem = exported.little(image)
        found = litert(path, image, "little")
        np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
        np.testing.assert_allclose(found["stem"], stem, atol=1e-4)
        found = litert(path, np.asarray(stem), "big_after_stem")
        np.testing.assert_allclose(found["logits"], exported.big(image), atol=1e-4)


def signal_to_noise_db(exported, precision, net):
    """Of the logits over all images, in LiteRT against JAX."""
    runner = Interpreter(model_path=str(exported.folder / f"model_{precision}.tflite")).get_signature_runner(net)
    taken, given = runner.get_input_details()["image"], runner.get_output_details()["logits"]
    integers = precision == "int8"
    assert taken["dtype"] is given["dtype"] is (np.int8 if integers else np.float32)
    signal, noise = 0.0, 0.0
    for image in exported.images:
        image = image[None].astype(np.float32)
        expected = functions.outputs(exported.network.functions[net], {"image": image})[0]["logits"]
        if integers:
            stored = np.rint(image / taken["quantization"][0] + taken["quantization"][1]).clip(-128, 127)
            scale, zero_point = given["quantization"]
            found = (runner(image=stored.astype(np.int8))["logits"].astype(np.float32) - zero_point) * scale
        else:
            found = runner(image=image)["logits"]
        signal, noise = signal + np.sum(np.square(expected)), noise + np.sum(np.square(found - expected))
    return 10 * np.log10(signal / noise)


@pytest.mark.parametrize(("precision", "least_db"), [("fp16", 50), ("dynamic_range", 30), ("int8", 25)])
@pytest.mark.parametrize("net", ["little", "big"])
def test_every_precision_keeps_the_signal(exported, net, precision, least_db):
    assert signal_to_noise_db(exported, precision, net) > least_db


def test_smaller_precisions_make_smaller_weights(exported):
    """Of big's head convolution, 8 x 24 weights: 4 bytes each, 2, and 1."""
    sizes = {}
    for precision in ("fp32", "fp16", "int8"):
        model = flatbuffer.load(exported.folder / f"model_{precision}.tflite")
        tensors = [t for graph in model.subgraphs for t in graph.tensors if t.shape.tolist() == [24, 1, 1, 8]]
        sizes[precision] = max(len(model.buffers[tensor.buffer].data) for tensor in tensors)
    assert sizes == {"fp32": 768, "fp16": 384, "int8": 192}


def test_int8_dense_weights_have_one_scale_and_convolutions_one_per_channel(exported):
    model = flatbuffer.load(exported.folder / "model_int8.tflite")
    scales = {
        name: len(graph.tensors[operator.inputs[1]].quantization.scale)
        for name, operator, graph in flatbuffer.operators(model, flatbuffer.signatures(model)["big"].subgraph)
        if name in ("FULLY_CONNECTED", "DEPTHWISE_CONV_2D")
    }
    assert scales == {"FULLY_CONNECTED": 1, "DEPTHWISE_CONV_2D": 32}


def test_a_file_of_some_signatures(tmp_path):
    def scaled(factor):
        shape = {"left": (1, 2), "right": (1, 3)}
        return tflite.Signature(
            lambda i: {"sum": i["left"].sum() * factor + i["right"], "left": i["left"] * 2.0}, shape
        )

    left, right = np.array([[1, 2]], np.float32), np.array([[1, 2, 3]], np.float32)
    with tflite.saved({"a": scaled(1.0), "b": scaled(10.0), "c": scaled(100.0)}) as traced:
        traced.write(tmp_path / "two.tflite", only=("c", "a"), metadata={"what": "two of them"})
    interpreter = Interpreter(model_path=str(tmp_path / "two.tflite"))
    assert set(interpreter.get_signature_list()) == {"a", "c"}
    for name, factor in (("a", 1), ("c", 100)):
        found = interpreter.get_signature_runner(name)(left=left, right=right)
        np.testing.assert_allclose(found["sum"], 3 * factor + right)
        np.testing.assert_allclose(found["left"], 2 * left)
    assert flatbuffer.read_metadata(tmp_path / "two.tflite") == {"what": "two of them"}


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
    assert set(counts(path)) == promised
    assert promised <= set(targets.LITERT_OPS)
    x = np.linspace(-4, 4, 36, dtype=np.float32).reshape(1, 3, 3, 4)
    np.testing.assert_allclose(litert(path, x)["logits"], net(x), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_wide_depthwise_convolution_in_bands(tmp_path, stride):
    """Three narrow ones, added up: as many MACs, the same answers, and no worse in int8."""
    kernel = {"params": {"kernel": jax.random.normal(jax.random.key(0), (7, 7, 1, 4))}}
    net = lambda form: lambda x: blocks.Depthwise(7, stride, form).apply(kernel, x)  # noqa: E731
    x = np.random.default_rng(0).normal(size=(20, 1, 12, 12, 4)).astype(np.float32)
    exact, noise = np.asarray([net("conv")(row) for row in x]), {}
    for form in ("conv", "bands"):
        for precision in ("fp32", "int8"):
            path, calibration = tmp_path / f"{form}_{precision}.tflite", x[:, 0] if precision == "int8" else None
            tflite.convert(net(form), (1, 12, 12, 4), path, precision=precision, calibration=calibration)
            assert flatbuffer.work(path)[tflite.SIGNATURE].macs == 49 * exact[0].size
        (model,) = engines.load(path).values()
        noise[form] = np.square([model.run(row)["logits"] for row in x] - exact).sum()
    fp32 = tmp_path / "bands_fp32.tflite"
    assert counts(fp32) == {"DEPTHWISE_CONV_2D": 3, "ADD": 2}
    found = [litert(fp32, row)["logits"] for row in x]
    np.testing.assert_allclose(found, exact, atol=1e-4)
    assert noise["bands"] < 4 * noise["conv"] < 1e-3 * np.square(exact).sum()


@pytest.mark.parametrize(
    ("stride", "padding", "promised"),
    [
        (1, "SAME", {"AVERAGE_POOL_2D": 1}),
        (2, "SAME", {"AVERAGE_POOL_2D": 1}),
        (2, "symmetric", {"PAD": 1, "AVERAGE_POOL_2D": 1, "MUL": 1}),
    ],
)
def test_means_over_windows_are_pools(tmp_path, stride, padding, promised):
    """StableHLO's windows would have no int8 form."""
    net = lambda x: blocks.average_pool(x, 3, stride, padding)  # noqa: E731
    x = np.random.default_rng(0).normal(size=(20, 1, 6, 6, 4)).astype(np.float32)
    for precision, calibration, most in (("fp32", None, 1e-5), ("int8", x[:, 0], 0.05)):
        path = tmp_path / f"{precision}.tflite"
        tflite.convert(net, (1, 6, 6, 4), path, precision=precision, calibration=calibration)
        assert counts(path) == promised
        (model,) = engines.load(path).values()
        np.testing.assert_allclose([model.run(row)["logits"] for row in x], [net(row) for row in x], atol=most)


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


def test_what_the_quantizer_refuses_without_a_word_is_one_line(tmp_path):
    """It takes windows whose edges are no pool's for custom operators."""
    edges = ((0, 0), (2, 0), (2, 0), (0, 0))
    net = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), edges)  # noqa: E731
    values = np.ones((4, 6, 6, 2), np.float32)
    with pytest.raises(ValueError, match=r"^TensorFlow cannot express this function in TFLite, int8: [^\n]+$"):
        tflite.convert(net, (1, 6, 6, 2), tmp_path / "net.tflite", precision="int8", calibration=values)
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
