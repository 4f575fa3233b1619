"""Files as nets: against LiteRT's own calls, across kinds of files, and damaged on purpose."""

import ctypes
import json
import shutil
import subprocess
import sys
import warnings

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as objects
from ai_edge_litert.interpreter import Interpreter
from hand_made import OUTPUTS, SHAPES, STEPS, hand_made, metadata  # noqa: F401 (a fixture)

from dynnas_jax.__main__ import main
from dynnas_jax.export import bench, engines, flatbuffer, runtime, soundness


def rewritten(path, target, change):
    """The file at `path` with its tree of objects changed."""
    model = objects.ModelT.InitFromObj(objects.Model.GetRootAsModel(path.read_bytes(), 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(bytes(builder.Output()))
    return target


def with_operator(name):
    """Makes the first operator a custom one."""

    def change(model):
        code = model.operatorCodes[0]
        code.customCode, code.builtinCode = name, objects.BuiltinOperator.CUSTOM
        code.deprecatedBuiltinCode = objects.BuiltinOperator.CUSTOM

    return change


def test_the_nets_of_a_file_and_their_tensors(hand_made):  # noqa: F811
    nets = engines.load(hand_made.one_file / "model_int8.tflite")
    assert set(nets) == set(SHAPES)
    for name, model in nets.items():
        assert {key: tensor.shape for key, tensor in model.inputs.items()} == SHAPES[name]
        assert {key: tensor.shape for key, tensor in model.outputs.items()} == OUTPUTS[name]
        assert {tensor.dtype for tensor in (*model.inputs.values(), *model.outputs.values())} == {"int8"}
    assert {
        model.inputs["image"].scale
        for model in engines.load(hand_made.one_file / "model_fp32.tflite").values()
        if "image" in model.inputs
    } == {0}


def test_runs_are_litert_s(hand_made):  # noqa: F811
    path = hand_made.one_file / "model_fp32.tflite"
    nets, interpreter = engines.load(path), Interpreter(model_path=str(path))
    image = hand_made.images[0]
    features = nets["first"].run(image)["features"]
    context = nets["second"].run(features)["context"]
    for name, inputs in (
        ("first", {"image": image[None].astype(np.float32)}),
        ("second", {"features": features}),
        ("third", {"features": features, "context": context}),
    ):
        expected = interpreter.get_signature_runner(name)(**inputs)
        found = nets[name].run(inputs if len(inputs) > 1 else next(iter(inputs.values())))
        assert set(found) == set(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_float_and_byte_images_give_the_same(hand_made, precision):  # noqa: F811
    model = engines.load(hand_made.one_file / f"model_{precision}.tflite")["large"]
    image = hand_made.images[3]
    for other in (image.astype(np.float32), image[None], {"image": image}):
        np.testing.assert_array_equal(model.run(image)["logits"], model.run(other)["logits"])


def test_what_a_net_is_given_wrongly_is_named(hand_made):  # noqa: F811
    nets = engines.load(hand_made.one_file / "model_fp32.tflite")
    with pytest.raises(ValueError, match=r"first, takes image of \[8, 8, 3\], not \[4, 8, 3\]"):
        nets["first"].run(hand_made.images[0][:4])
    with pytest.raises(ValueError, match="not int64"):
        nets["first"].run(hand_made.images[0].astype(np.int64))
    with pytest.raises(ValueError, match="third, takes [a-z]+, [a-z]+: give each by its name"):
        nets["third"].run(np.zeros((8, 8, 6), np.float32))
    with pytest.raises(ValueError, match="third, takes [a-z]+, [a-z]+, not image"):
        nets["third"].run({"image": hand_made.images[0]})
    for threads in (0, 1.5, True, 1025, 3_000_000_000, 10**12):
        with pytest.raises(ValueError, match=f"threads={threads}"):
            engines.load(hand_made.one_file / "model_fp32.tflite", threads)


def test_a_file_without_signatures_is_one_net(hand_made, tmp_path):  # noqa: F811
    """As a compiler may leave it: names are lost, shapes are not."""
    path = rewritten(
        hand_made.own_files / "second_int8.tflite",
        tmp_path / "plain.tflite",
        lambda model: setattr(model, "signatureDefs", None),
    )
    (plain,) = engines.load(path).values()
    assert plain.name == engines.UNNAMED
    again = engines.renamed(plain, "second", SHAPES["second"], OUTPUTS["second"])
    expected = engines.load(hand_made.own_files / "second_int8.tflite")["second"]
    values = np.random.default_rng(0).uniform(0, 6, (8, 8, 6)).astype(np.float32)
    for name, value in expected.run(values).items():
        np.testing.assert_array_equal(again.run(values)[name], value)
    with pytest.raises(ValueError, match="of net third"):
        engines.renamed(plain, "third", SHAPES["third"], OUTPUTS["third"])


def test_stored_values_pass_on_without_floats_where_scales_agree():
    given, stored = engines.Tensor((1, 256), "int8", 0.02, -100), np.arange(-128, 128).astype(np.int8)
    same = given._replace(scale=0.02 * (1 + 1e-6))
    assert engines.passing(given, same)(stored) is stored
    passed = engines.passing(given, engines.Tensor((1, 256), "int8", 0.03, -90))(stored)
    exact = (np.rint((stored.astype(np.float64) + 100) * 0.02 / 0.03) - 90).clip(-128, 127)
    assert passed.dtype == np.int8
    assert np.max(np.abs(passed - exact)) <= 1  # a tie may round either way in float32
    assert np.mean(passed == exact) > 0.95
    real = engines.Tensor((1, 256), "float32", 0.0, 0)
    assert engines.passing(real, real)(stored) is stored
    np.testing.assert_allclose(engines.passing(given, real)(stored), (stored + 100.0) * 0.02, rtol=1e-6)
    np.testing.assert_array_equal(engines.passing(real, given)(engines.passing(given, real)(stored)), stored)


def test_an_absurd_file_is_refused_before_memory_is_taken(hand_made, tmp_path, monkeypatch):  # noqa: F811
    path = hand_made.one_file / "model_fp32.tflite"
    largest = max(sum(flatbuffer.count(t.shape) for t in graph.tensors) for graph in flatbuffer.load(path).subgraphs)
    monkeypatch.setattr(soundness, "MOST_VALUES", largest - 1)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)  # it is not even asked
    with pytest.raises(ValueError, match=f"its tensors have {largest:,} values"):
        engines.load(path)


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (RuntimeError("tflite/kernels/div.cc:262 data[i] != zero_point was not true."), True),
        (RuntimeError(""), False),
        (ValueError("Cannot set tensor: Tensor is unallocated. Try calling allocate_tensors() first"), False),
        (MemoryError(), False),
    ],
)
def test_a_net_opens_that_fails_for_some_image_but_not_one_without_memory(hand_made, monkeypatch, error, opens):  # noqa: F811
    """When it is opened, a net runs once on values of no meaning, for the memory that it takes then."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("ai_edge_litert.interpreter.SignatureRunner.__call__", fail)
    path = hand_made.one_file / "model_fp32.tflite"
    if not opens:
        with pytest.raises(ValueError, match=r"^LiteRT cannot run model_fp32\.tflite: \S[^\n]*$"):
            engines.load(path)
        return
    with pytest.raises(ValueError, match=r"^LiteRT cannot run model_fp32\.tflite: tflite/kernels/div\.cc"):
        engines.load(path)["first"].run(hand_made.images[0])


def test_a_compiled_file_asks_for_its_delegate(hand_made, tmp_path):  # noqa: F811
    change = with_operator(engines.EDGETPU_OPERATOR)
    path = rewritten(hand_made.own_files / "first_int8.tflite", tmp_path / "first_int8_edgetpu.tflite", change)
    with pytest.raises(ValueError, match=r"is compiled for the Edge TPU: add --delegate=libedgetpu\.so\.1"):
        engines.load(path)


def test_an_operator_that_litert_lacks_is_one_plain_line(hand_made, tmp_path, capfd):  # noqa: F811
    change = with_operator("a_stranger")
    path = rewritten(hand_made.own_files / "first_int8.tflite", tmp_path / "strange.tflite", change)
    with pytest.raises(ValueError, match=r"^LiteRT cannot run strange.tflite: [^\n]*a_stranger[^\n]*$"):
        engines.load(path)
    assert capfd.readouterr().err == ""


# Delegates.

LIBRARY = """
#include <stdint.h>
#include <stdlib.h>
typedef struct Delegate {
  void* data; int (*prepare)(void*, struct Delegate*); void *to, *from, *gone; int64_t flags; void* builder;
} Delegate;
int prepared = 0;
static int prepare(void* context, Delegate* self) { (void)context; (void)self; prepared++; return 0; }
Delegate* tflite_plugin_create_delegate(char** k, char** v, size_t n, void (*report)(const char*)) {
  (void)k; (void)v; (void)n; (void)report;
  Delegate* made = calloc(1, sizeof(Delegate));
  made->prepare = prepare;
  return made;
}
void tflite_plugin_destroy_delegate(Delegate* made) { free(made); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A delegate that counts the graphs it is shown, and takes none of their operators."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: a delegate is a shared library")
    path = tmp_path_factory.mktemp("delegate") / "libcounting.so"
    source = path.with_suffix(".c")
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    return path


def test_a_delegate_is_shown_every_graph(library, hand_made):  # noqa: F811
    path, image = hand_made.one_file / "model_int8.tflite", hand_made.images[0]
    prepared = ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "prepared")
    before = prepared.value
    (_, found), *_ = sorted(engines.load(path, delegate=str(library)).items())
    assert prepared.value - before == len(SHAPES)
    (_, expected), *_ = sorted(engines.load(path).items())
    np.testing.assert_array_equal(found.run(image)["logits"], expected.run(image)["logits"])


@pytest.fixture
def compiled_folder(hand_made, tmp_path):  # noqa: F811
    """compiled_folder(nets): the compiler's output beside the files it was made of, without our metadata."""

    def make(nets):
        folder = shutil.copytree(hand_made.own_files, tmp_path / "edgetpu")
        for net in nets:
            drop = lambda model: setattr(model, "metadata", None)  # noqa: E731
            rewritten(folder / f"{net}_int8.tflite", folder / f"{net}_int8_edgetpu.tflite", drop)
        return folder

    return make


def test_the_edge_tpu_s_files_need_a_delegate_and_get_it(library, hand_made, compiled_folder):  # noqa: F811
    folder = compiled_folder(SHAPES)
    compiled = runtime.DynamicClassifier(folder, delegate=str(library))
    assert {model.path.name for model in compiled.steps} == {
        f"{net}_int8_edgetpu.tflite" for net in compiled.metadata["steps"]
    }
    assert [model.path.name for model in compiled.whole.values()] == ["large_int8_edgetpu.tflite"]
    plain = runtime.DynamicClassifier(folder)
    assert [compiled.predict(image)[:6] for image in hand_made.images] == [
        plain.predict(image)[:6] for image in hand_made.images
    ]


def test_nets_that_were_not_compiled_are_not_measured(library, compiled_folder, tmp_path):
    """The documented call of the compiler names the steps alone."""
    folder, output = compiled_folder(STEPS), tmp_path / "bench.json"
    main(["bench", str(folder), f"--delegate={library}", f"--output={output}", "--runs=2", "--warm_up=0"])
    assert list(bench.read(output)["sections"]) == [bench.DECISION, *STEPS]
    (folder / "second_int8_edgetpu.tflite").unlink()
    with pytest.raises(ValueError, match=r"no second_int8_edgetpu\.tflite: run the Edge TPU compiler first"):
        runtime.DynamicClassifier(folder, delegate=str(library))


def test_a_library_that_is_no_delegate(hand_made):  # noqa: F811
    with pytest.raises(ValueError, match=r"^cannot load the delegate libc\.so\.6: [^\n]*$"):
        engines.load(hand_made.one_file / "model_int8.tflite", delegate="libc.so.6")


# ONNX.


WEIGHTS = np.random.default_rng(2).normal(size=(192, 4)).astype(np.float32)


def onnx_file(path, source, outputs, told, shape=(1, 8, 8, 3)):
    """A graph whose logits are a product of the flattened input and WEIGHTS, and which passes the input on."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Flatten", [source], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        *(helper.make_node("Identity", [source], [name]) for name in outputs),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(source, real, shape)],
        [helper.make_tensor_value_info("logits", real, (1, 4))]
        + [helper.make_tensor_value_info(name, real, shape) for name in outputs],
        [onnx.numpy_helper.from_array(WEIGHTS / 255, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"author": "by hand", "dynnas": json.dumps(told)})
    path.write_bytes(model.SerializeToString())


@pytest.fixture
def onnx_folder(tmp_path):
    """Two steps with the same weights: the second answers as the first would."""
    told = metadata("one_file", "fp32")
    told |= {"steps": ["first", "second"], "whole": [], "thresholds": [0.5], "cost": [1, 2]}
    told["files"] = {"first": "first_fp32.onnx", "second": "second_fp32.onnx"}
    onnx_file(tmp_path / "first_fp32.onnx", "image", ["features"], told)
    onnx_file(tmp_path / "second_fp32.onnx", "features", [], told)
    return tmp_path


def test_onnx_files_route_alike(onnx_folder, hand_made):  # noqa: F811
    expected = hand_made.images.reshape(40, -1).astype(np.float32) / 255 @ WEIGHTS
    classifier = runtime.DynamicClassifier(onnx_folder)
    assert [model.path.name for model in classifier.steps] == ["first_fp32.onnx", "second_fp32.onnx"]
    for threshold, choice in ((0.0, 0), (1.0, 1)):
        classifier.threshold = threshold
        found = [classifier.predict(image) for image in hand_made.images]
        assert {p.choice for p in found} == {choice}
        assert [p.class_index for p in found] == expected.argmax(-1).tolist()


def test_damaged_onnx_files_are_named(onnx_folder):
    path = onnx_folder / "first_fp32.onnx"
    content = path.read_bytes()
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"^[^\n]*first_fp32.onnx[^\n]*$"):
            engines.load(path)
    path.write_bytes(b"\x08\x07these are no weights")
    with pytest.raises(ValueError, match="not an ONNX file"):
        engines.load(path)
    with pytest.raises(ValueError, match="cannot read .*absent.onnx: No such file"):
        engines.load(onnx_folder / "absent.onnx")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="'libedgetpu' is no execution provider of this onnxruntime: .*CPU"):
        engines.load(path, delegate="libedgetpu")


def test_an_onnx_file_that_names_no_files_is_named(onnx_folder):
    """Of a folder's files only the first is checked as a whole."""
    told = metadata("one_file", "fp32") | {"steps": ["first", "second"], "files": ["first_fp32.onnx"]}
    onnx_file(onnx_folder / "second_fp32.onnx", "features", [], told)
    with pytest.raises(ValueError, match=r"^the metadata of second_fp32\.onnx does not give a file of each net"):
        runtime.DynamicClassifier(onnx_folder)


def test_a_provider_that_does_not_start_is_named(onnx_folder, monkeypatch):
    """onnxruntime goes on by the CPU where the libraries of its GPU are absent; here it has never heard of them."""
    import onnxruntime

    known = onnxruntime.get_available_providers()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", *known])
    path = onnx_folder / "first_fp32.onnx"
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(ValueError, match=r"^CUDAExecutionProvider does not start [^\n]* first_fp32\.onnx by CPU"),
    ):
        engines.load(path, delegate="CUDAExecutionProvider")
    assert engines.load(path, delegate="CPUExecutionProvider")


def test_onnx_files_of_open_shapes_are_refused(tmp_path):
    onnx_file(tmp_path / "net_fp32.onnx", "image", [], {}, shape=("batch", 8, 8, 3))
    with pytest.raises(ValueError, match="this runtime needs static shapes"):
        engines.load(tmp_path / "net_fp32.onnx")
