"""ONNX files: onnxruntime's answers against JAX's and LiteRT's, the fault of tf2onnx that is kept out, TensorRT's form."""

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from dynnas_jax.export import flatbuffer, tflite
from dynnas_jax.export import onnx as exporting

NETS = ("little", "big_after_stem", "big")


def answers(path, inputs):
    """Outputs by name for each input, from onnxruntime alone (nothing of this package)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in inputs]


def feeds(exported, net, count=8):
    images = exported.images[:count, None].astype(np.float32)
    if net != "big_after_stem":
        return [{"image": image} for image in images]
    return [{"stem": np.asarray(exported.little(image)[1])} for image in images]


def expected(exported, net, feed):
    logits = getattr(exported, net)(*feed.values())
    return np.asarray(logits[0] if isinstance(logits, tuple) else logits)


@pytest.mark.parametrize("net", NETS)
def test_fp32_equals_jax(exported, net):
    inputs = feeds(exported, net)
    for feed, found in zip(inputs, answers(exported.folder / f"{net}_fp32.onnx", inputs), strict=True):
        np.testing.assert_allclose(found["logits"], expected(exported, net, feed), atol=1e-4)
        if net == "little":
            np.testing.assert_allclose(found["stem"], exported.little(feed["image"])[1], atol=1e-4)


@pytest.mark.parametrize("net", NETS)
def test_int8_keeps_the_signal(exported, net):
    inputs = feeds(exported, net, 40)
    found = np.concatenate([row["logits"] for row in answers(exported.folder / f"{net}_int8.onnx", inputs)])
    exact = np.concatenate([expected(exported, net, feed) for feed in inputs])
    assert 10 * np.log10(np.square(exact).sum() / np.square(found - exact).sum()) > 20  # dB


@pytest.mark.parametrize("net", NETS)
def test_int8_is_what_tensorrt_reads(exported, net):
    """Zero points of 0, weights as float32 behind a pair, float32 biases; convolutions and dense layers all in int8."""
    graph = onnx.load(exported.folder / f"{net}_int8.onnx").graph
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
            assert node.op_type == "QuantizeLinear" or node.input[0] not in constants
        if node.op_type in ("Conv", "MatMul"):
            weights = made[node.input[1]]
            assert weights.op_type == "DequantizeLinear"
            stored = made[weights.input[0]]
            assert stored.op_type == "QuantizeLinear"
            assert constants[stored.input[0]].dtype == np.float32
            scale = constants[stored.input[1]]
            steps = constants[stored.input[0]] / (scale.reshape(-1, 1, 1, 1) if scale.ndim else scale)
            np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)  # the very weights of the TFLite file
            assert all(constants[name].dtype == np.float32 for name in node.input[2:])
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}


def test_symmetric_scales_hold_the_whole_range():
    for scale, zero_point in ((0.1, -128), (0.1, 0), (0.02, 57), (0.5, 127)):
        symmetric = exporting._symmetric_scale(np.float32(scale), np.int8(zero_point))
        ends = [(value - zero_point) * scale for value in (-128, 127)]
        assert 127 * symmetric == pytest.approx(max(np.abs(ends)))


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense layer with bias and ReLU6 behind a pool, the flattening between them folded away: it reads four axes."""
    weights = jax.random.normal(jax.random.key(0), (4, 5)) * 3

    def net(inputs):
        x = jax.lax.reduce_window(inputs["image"], 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        return {"logits": jax.nn.relu6(x.reshape(1, -1) @ weights + 3.0)}

    path, image = tmp_path_factory.mktemp("dense") / "net.tflite", np.linspace(-1, 1, 16, dtype=np.float32)
    image = image.reshape(1, 2, 2, 4)
    with tflite.saved({"net": tflite.Signature(net, {"image": image.shape})}) as traced:
        traced.write(path)
    model = flatbuffer.load(path)
    assert [own.operators for own in flatbuffer.work(path).values()] == [("AVERAGE_POOL_2D", "FULLY_CONNECTED")]
    assert len(model.subgraphs[0].tensors[model.subgraphs[0].operators[1].inputs[0]].shape) == 4
    return path, image, np.asarray(net({"image": image})["logits"])


def test_a_dense_layer_of_four_axes_keeps_its_bias_and_activation(dense, tmp_path):
    path, image, logits = dense
    exporting.convert(path, tmp_path / "net.onnx")
    (found,) = answers(tmp_path / "net.onnx", [{"image": image}])
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
    assert logits.max() > 2  # without its bias it would be below


def test_tf2onnx_alone_loses_them(dense, tmp_path, monkeypatch):
    """The guard is needed as long as this holds."""
    path, image, logits = dense
    monkeypatch.setattr(exporting, "_flattened", lambda source: source.read_bytes())
    exporting.convert(path, tmp_path / "net.onnx")
    (found,) = answers(tmp_path / "net.onnx", [{"image": image}])
    assert np.abs(found["logits"] - logits).max() > 1


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    """A convolution and the mean over its large output in fp32 and int8, a flat image, and the mean in float64."""
    folder, side, channels = tmp_path_factory.mktemp("pooled"), 112, 16
    weights = np.random.default_rng(0).uniform(0.5, 1, (1, 1, 1, channels)).astype(np.float32)

    def net(inputs):
        x = jax.lax.conv_general_dilated(
            inputs["image"], weights, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        window = (1, side, side, 1)
        return {"mean": jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / side**2}

    image = np.full((1, side, side, 1), 0.1, np.float32)  # every sum rounds the same way
    with tflite.saved({"net": tflite.Signature(net, {"image": image.shape}, {"image": image})}) as traced:
        for precision in ("fp32", "int8"):
            traced.write(folder / f"{precision}.tflite", precision=precision, float_outside=True)
    return folder, image, weights.ravel() * image[0, 0, 0]


def _mean(path, image):
    (found,) = answers(path, [{"image": image}])
    return found["mean"].ravel()


@pytest.mark.parametrize("opset", [13, 18])
def test_a_mean_over_the_image_keeps_its_digits(pooled, opset, tmp_path):
    folder, image, mean = pooled
    exporting.convert(folder / "fp32.tflite", tmp_path / "net.onnx", opset=opset)
    np.testing.assert_allclose(_mean(tmp_path / "net.onnx", image), mean, rtol=2e-6)


def test_a_pool_alone_loses_them(pooled, tmp_path, monkeypatch):
    """The other form is needed as long as this holds."""
    folder, image, mean = pooled
    monkeypatch.setattr(exporting, "_average_in_two", lambda *_: None)
    exporting.convert(folder / "fp32.tflite", tmp_path / "net.onnx")
    assert np.abs(_mean(tmp_path / "net.onnx", image) / mean - 1).max() > 1e-4


def test_a_mean_of_integers_stays_a_pool(pooled, tmp_path):
    folder, image, mean = pooled
    exporting.convert(folder / "int8.tflite", tmp_path / "net.onnx")
    assert "AveragePool" in {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    np.testing.assert_allclose(_mean(tmp_path / "net.onnx", image), mean, atol=0.1 / 100)


def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(exported, tmp_path):
    with pytest.raises(ValueError, match="has 3 signatures"):
        exporting.convert(exported.folder / "model_fp32.tflite", tmp_path / "a.onnx")
    (tmp_path / "text.tflite").write_text("these are no weights")
    with pytest.raises(ValueError, match="not a TFLite file"):
        exporting.convert(tmp_path / "text.tflite", tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["text.tflite"]


def test_conversion_is_silent(dense, tmp_path, capfd):
    capfd.readouterr()
    exporting.convert(dense[0], tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
