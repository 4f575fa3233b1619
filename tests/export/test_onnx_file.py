"""ONNX files as data: MACs counted by hand, and what is no ONNX file."""

import numpy as np
import onnx
import pytest

from dynnas_jax.export import onnx_file

NETS = ("little", "big_after_stem", "big")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("net", NETS)
def test_macs_are_those_counted_by_hand(exported, net, precision):
    assert onnx_file.macs(exported.folder / f"{net}_{precision}.onnx") == exported.macs[net]


def graph_of(path, node, weights, image):
    """A file of one operator, its weights an initializer."""
    real = onnx.TensorProto.FLOAT
    shapes = {"x": image, "y": [None] * len(image)}
    ends = [onnx.helper.make_tensor_value_info(name, real, shape) for name, shape in shapes.items()]
    constant = onnx.numpy_helper.from_array(np.zeros(weights, np.float32), "w")
    graph = onnx.helper.make_graph([node], "graph", ends[:1], ends[1:], [constant])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]), path)
    return path


@pytest.mark.parametrize(
    ("operator", "options", "weights", "image", "expected"),
    [
        # Seven outputs a side, two groups of 4 -> 6 channels.
        ("Conv", {"group": 2, "strides": [2, 2], "pads": [1] * 4}, (12, 4, 3, 3), (1, 8, 14, 14), 49 * 12 * 4 * 9),
        ("Conv", {"group": 8, "dilations": [2, 2]}, (8, 1, 3, 3), (1, 8, 10, 10), 36 * 8 * 9),
        ("Gemm", {}, (5, 7), (3, 5), 3 * 5 * 7),
        ("Gemm", {"transB": 1}, (7, 5), (3, 5), 3 * 5 * 7),
        ("MatMul", {}, (5, 7), (2, 3, 5), 2 * 3 * 5 * 7),
        ("Relu", {}, (1,), (3, 5), 0),
    ],
)
def test_macs_of_operators(tmp_path, operator, options, weights, image, expected):
    node = onnx.helper.make_node(operator, ["x"] if operator == "Relu" else ["x", "w"], ["y"], **options)
    assert onnx_file.macs(graph_of(tmp_path / "net.onnx", node, weights, image)) == expected


def test_macs_of_open_shapes_are_refused(tmp_path):
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="first")
    path = graph_of(tmp_path / "net.onnx", node, (4, 3, 3, 3), (1, 3, "height", 8))
    with pytest.raises(ValueError, match=r"^net.onnx: the shapes of Conv 'first' do not follow"):
        onnx_file.macs(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content[:-9], "truncated, damaged or not an ONNX file"),
        (lambda content: b"TFL3" + content, "ONNX file"),
        (lambda content: b"", "is not an ONNX file"),
        (lambda content: content.replace(b"Conv", b"Cone"), "is no valid ONNX file: No Op registered for Cone"),
    ],
)
def test_foreign_and_damaged_files_are_refused_in_one_line(tmp_path, spoil, said):
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    path = graph_of(tmp_path / "net.onnx", node, (4, 3, 3, 3), (1, 3, 8, 8))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=said) as caught:
        onnx_file.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
