"""What is bound while a file is opened, and that nothing of it stays."""

import mmap
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as objects
from hand_made import DATA

from dynnas_jax.export import confined, engines

ANY = Path(__file__)


def limits():
    return resource.getrlimit(resource.RLIMIT_AS)


def test_memory_is_bound_meanwhile_and_no_longer():
    before = limits()
    with confined.confined(ANY, 2**28):
        assert limits()[0] != before[0]
        mmap.mmap(-1, 2**27).close()  # of the system: malloc may have room that it has kept
        with pytest.raises(OSError, match="Cannot allocate memory"):
            mmap.mmap(-1, 2**29)
    with pytest.raises(KeyError), confined.confined(ANY, 2**28):
        raise KeyError
    assert limits() == before
    with confined.confined(ANY, None):
        assert limits() == before


def test_a_tighter_limit_of_the_user_s_holds():
    before = limits()
    tight = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (tight, before[1]))
    try:
        with confined.confined(ANY, 2**30):
            assert limits()[0] == tight
        assert limits()[0] == tight
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_threads_wait_for_each_other():
    """Else each puts back what the other has set."""
    before, entered = limits(), threading.Event()

    def enter():
        with confined.confined(ANY, 2**30):
            entered.set()

    other = threading.Thread(target=enter)
    with confined.confined(ANY, 2**30):
        other.start()
        assert not entered.wait(0.1)
    other.join()
    assert entered.is_set()
    assert limits() == before


def test_a_system_without_such_limits_opens_files_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    with confined.confined(ANY, 2**20):
        assert np.ones(2**20).sum() == 2**20


def test_libraries_are_silent(capfd):
    with confined.confined(ANY, 2**30):
        os.write(2, b"a library's own words")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
    assert confined.first_line(RuntimeError("\nfirst\nsecond")) == "first"
    assert confined.first_line(RuntimeError("")) == "RuntimeError, as where it needs too much memory"


# Files whose sizes are found out by LiteRT and onnxruntime alone.

SIDE = 10_000


def net(name, operator, options, *constants):
    """A TFLite file of one operator that says its output has four values, and takes the mean of them in the end."""
    kinds = objects.BuiltinOperator
    model = objects.ModelT(version=3, buffers=[objects.BufferT()], metadata=[])
    graph = objects.SubGraphT(tensors=[], operators=[], inputs=[0], outputs=[])

    def tensor(shape, values=None):
        if values is not None:
            model.buffers.append(objects.BufferT(data=np.asarray(values).reshape(-1).view(np.uint8)))
        kind = objects.TensorType.INT32 if values is not None and values.dtype == np.int32 else 0
        place = 0 if values is None else len(model.buffers) - 1
        graph.tensors.append(objects.TensorT(shape=list(shape), type=kind, buffer=place, name=str(len(graph.tensors))))
        return len(graph.tensors) - 1

    def run(code, inputs, output, options):
        model.operatorCodes.append(
            objects.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), version=1, builtinCode=code)
        )
        kind = getattr(objects.BuiltinOptions, type(options).__name__.removesuffix("T"))
        place = len(model.operatorCodes) - 1
        graph.operators.append(
            objects.OperatorT(place, inputs, [output], builtinOptionsType=kind, builtinOptions=options)
        )

    model.operatorCodes, model.subgraphs = [], [graph]
    image = tensor((1, 256, 256, 1))
    large = [image, *(tensor(values.shape, values) for values in constants)]
    middle = tensor((1, 4))
    run(getattr(kinds, operator), large, middle, options)
    axes, end = tensor((3,), np.arange(1, 4, dtype=np.int32)), tensor((1, 4))
    run(kinds.MEAN, [middle, axes], end, objects.ReducerOptionsT())
    graph.outputs = [end]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    name.write_bytes(bytes(builder.Output()))
    return name


def hostile(kind, path):
    """A file of some hundred bytes that asks for gigabytes."""
    if kind == "pad":
        sides = np.asarray([[0, 0], [SIDE, SIDE], [SIDE, SIDE], [0, 0]], np.int32)
        return net(path, "PAD", objects.PadOptionsT(), sides)
    if kind == "tile":
        return net(path, "TILE", objects.TileOptionsT(), np.asarray([1, 100, 100, 1], np.int32))
    if kind == "convolution":
        options = objects.Conv2DOptionsT(strideW=1, strideH=1, dilationWFactor=1, dilationHFactor=1)
        zeros = np.zeros(2**15, np.float32)
        return net(path, "CONV_2D", options, zeros.reshape(-1, 1, 1, 1), zeros)
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    shape = onnx.numpy_helper.from_array(np.asarray([1, 3 * SIDE, 3 * SIDE, 1]), "shape")
    if kind == "onnx, by the image":
        nodes = [helper.make_node("Cast", ["image"], ["value"], to=onnx.TensorProto.INT64)]
        nodes += [helper.make_node("Mul", ["value", "shape"], ["sizes"])]
        nodes += [helper.make_node("Reshape", ["sizes", "four"], ["flat"])]
        nodes += [helper.make_node("ConstantOfShape", ["flat"], ["large"])]
    else:
        nodes = [helper.make_node("Expand", ["image", "shape"], ["large"])]
    nodes += [helper.make_node("ReduceMean", ["large"], ["logits"])]
    tensors = [[helper.make_tensor_value_info(name, real, (1, 1, 1, 1))] for name in ("image", "logits")]
    graph = helper.make_graph(nodes, "net", *tensors, [shape, onnx.numpy_helper.from_array(np.asarray([4]), "four")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = path.with_suffix(".onnx")
    path.write_bytes(model.SerializeToString())
    return path


OPENED = """
import sys
import numpy as np
from dynnas_jax.export import engines
from dynnas_jax.export.machine import resident_bytes
before = resident_bytes("VmPeak")
try:
    for model in engines.load(sys.argv[1]).values():
        model.invoke({name: np.ones(tensor.shape, tensor.dtype) for name, tensor in model.inputs.items()})
except ValueError as error:
    assert "\\n" not in str(error)
    print(resident_bytes("VmPeak") - before, error)
"""


@pytest.mark.parametrize("kind", ["pad", "tile", "convolution", "onnx", "onnx, by the image"])
def test_sizes_that_a_file_hides_are_found_before_memory_is_taken(kind, tmp_path):
    path = hostile(kind, tmp_path / "net.tflite")
    assert path.stat().st_size < 300_000
    command = [sys.executable, "-c", OPENED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(engines.__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    taken_bytes, said = done.stdout.split(" ", 1)
    assert int(taken_bytes) < 2**30 + 2**29  # the libraries themselves are among it
    assert said.startswith(("LiteRT cannot run net.tflite: ", "onnxruntime cannot run net.onnx: "))


@pytest.mark.parametrize("threads", [1, 16])
def test_real_files_open_within_the_bounds(threads):
    before = limits()
    for path in sorted(DATA.rglob("*.tflite")):
        assert engines.load(path, threads)
    assert limits() == before
