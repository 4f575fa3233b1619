"""Noise layer by layer: against arithmetic by hand, and with one layer spoilt on purpose."""

import json

import jax
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from dynnas_jax.export import flatbuffer, functions, sqnr, tflite


@pytest.fixture(scope="module")
def files(exported):
    return [exported.folder / f"model_{precision}.tflite" for precision in ("fp32", "int8")]


@pytest.fixture(scope="module")
def found(exported, files):
    return sqnr.layers(*files, "little", [{"image": image} for image in exported.images[:8]])


def test_the_last_layer_is_what_the_files_answer(exported, files, found):
    """The logits' SQNR from nothing but the two files' answers, in float64."""
    answers = []
    for path in files:
        options = {"experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
        runner = Interpreter(model_path=str(path), **options).get_signature_runner("little")
        (taken,), given = runner.get_input_details().values(), runner.get_output_details()["logits"]["quantization"]
        scale, zero_point = taken["quantization"]
        rows = []
        for image in exported.images[:8, None].astype(np.float32):
            stored = np.rint(image / scale + zero_point).clip(-128, 127).astype(np.int8) if scale else image
            rows.append(runner(image=stored)["logits"].astype(np.float64))
        answers.append(np.concatenate(rows) if not scale else (np.concatenate(rows) - given[1]) * given[0])
    exact, rounded = answers
    expected = 10 * np.log10(np.square(exact).sum() / np.square(exact - rounded).sum())
    assert found[-1].operator == "FULLY_CONNECTED"
    assert found[-1].sqnr_db == pytest.approx(expected, abs=1e-4)


def test_a_layer_by_hand(images, tmp_path):
    """Means of 2x2 pixels keep the image's scale, 1: what is lost is what rounding to whole numbers takes."""

    def means(inputs):
        return {
            "logits": jax.lax.reduce_window(inputs["image"], 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        }

    images = images[:6]
    assert (images.min(), images.max()) == (0, 255)
    signatures = {"means": tflite.Signature(means, {"image": (1, 16, 16, 3)}, {"image": images})}
    with tflite.saved(signatures) as traced:
        for precision in ("fp32", "int8"):
            traced.write(tmp_path / f"{precision}.tflite", precision=precision)
    (layer,) = sqnr.layers(
        tmp_path / "fp32.tflite", tmp_path / "int8.tflite", "means", functions.rows({"image": images})
    )
    exact = images.astype(np.float64).reshape(6, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    noise = np.square(exact - np.rint(exact)).sum() / np.square(exact).sum()
    assert layer.operator == "AVERAGE_POOL_2D"
    assert layer.sqnr_db == pytest.approx(-10 * np.log10(noise), abs=1e-3)
    assert layer.added_noise == pytest.approx(noise, rel=1e-3)


def test_layers_are_the_operators_in_order(files, found):
    assert [layer.operator for layer in found] == list(flatbuffer.work(files[1])["little"].operators)
    assert [layer.index for layer in found] == list(range(len(found)))
    noise = [10 ** (-layer.sqnr_db / 10) for layer in found]
    assert found[1].added_noise == pytest.approx(noise[1] - noise[0])
    assert json.loads(json.dumps(sqnr.facts(found), allow_nan=False))[0]["sqnr_db"] == found[0].sqnr_db


def test_a_spoilt_layer_is_the_worst(exported, files, tmp_path):
    """The scale of one convolution's output grows sixteenfold: that layer, and no other, is to blame."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(files[1].read_bytes(), 0))
    signature = next(entry for entry in model.signatureDefs if entry.signatureKey == b"big")
    graph = model.subgraphs[signature.subgraphIndex]
    place = next(i for i, name in enumerate(flatbuffer.work(files[1])["big"].operators) if name == "DEPTHWISE_CONV_2D")
    spoilt = graph.tensors[graph.operators[place].outputs[0]].quantization
    spoilt.scale = [16 * value for value in spoilt.scale]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), flatbuffer.IDENTIFIER)
    (tmp_path / "spoilt.tflite").write_bytes(builder.Output())
    layers = sqnr.layers(
        files[0], tmp_path / "spoilt.tflite", "big", [{"image": image} for image in exported.images[:4]]
    )
    first = sqnr.worst(layers, 1)[0]
    assert (first.index, first.operator) == (place, "DEPTHWISE_CONV_2D")
    assert f"big operator {place} DEPTHWISE_CONV_2D" in sqnr.line(first)
    assert f"SQNR {first.sqnr_db:.1f} dB" in sqnr.line(first)


def test_what_does_not_fit_is_named(exported, files):
    inputs = [{"image": exported.images[0]}]
    with pytest.raises(ValueError, match="no signature 'huge', choose from"):
        sqnr.layers(*files, "huge", inputs)
    with pytest.raises(ValueError, match="at least one input"):
        sqnr.layers(*files, "little", [])
