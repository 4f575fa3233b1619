"""ONNX files held to a target: what is counted, and each rule broken once, at the right operator."""

import onnx
import pytest

from dynnas_jax.__main__ import main
from dynnas_jax.export import lint

NETS = ("little", "big_after_stem", "big")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_the_exporter_makes_for_a_jetson_passes(exported, precision):
    paths = [exported.folder / f"{net}_{precision}.onnx" for net in NETS]
    found = lint.check(paths, "jetson_nano")
    assert found.warnings == ()
    assert [file.macs for file in found.files] == [exported.macs[net] for net in NETS]
    for file, path in zip(found.files, paths, strict=True):
        graph = onnx.load(path).graph
        assert file.operators == len(graph.node)
        held = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        shares = {name: 4 if name.endswith("_real") else 1 for name in held}  # an int8 engine keeps a quarter of these
        assert (4 in shares.values()) == (precision == "int8")
        assert file.parameters_bytes == sum(array.nbytes // shares[name] for name, array in held.items())
        assert file.size_bytes == path.stat().st_size


def odd_operator(model):
    model.graph.node.insert(2, onnx.helper.make_node("IsInf", [model.graph.node[1].output[0]], ["odd"]))


def foreign_operator(model):
    model.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    model.graph.node.append(onnx.helper.make_node("Odd", [model.graph.output[0].name], ["odd"], domain="com.acme"))


def hidden_operator(model):
    """In a branch of an If."""
    value = onnx.helper.make_tensor_value_info("odd", onnx.TensorProto.BOOL, None)
    odd = onnx.helper.make_node("IsInf", [model.graph.output[0].name], ["odd"])
    branch = onnx.helper.make_graph([odd], "branch", [], [value])
    model.graph.initializer.append(onnx.helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True]))
    both = onnx.helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)
    model.graph.node.append(both)


def too_new(model):
    model.opset_import[0].version = 14


def open_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


@pytest.mark.parametrize(
    ("change", "rule", "place", "text"),  # `place` tells the operator from how many there were
    [
        (odd_operator, "operator", lambda _: 2, "TensorRT 8.2 from ONNX files reads no such one"),
        (foreign_operator, "operator", lambda count: count, "reads no such one"),
        (hidden_operator, "operator", lambda count: count + 1, "reads no such one"),
        (too_new, "version", lambda _: None, "opset 14 is too new: TensorRT 8.2 from ONNX files reads up to 13"),
        (open_batch, "shape", lambda _: None, "input image has no fixed shape"),
    ],
)
def test_a_broken_promise_is_found_where_it_is(exported, tmp_path, change, rule, place, text):
    model = onnx.load(exported.folder / "little_fp32.onnx")
    operators = len(model.graph.node)
    change(model)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    found = lint.lint(path, "jetson_nano")
    first = found.errors[0]
    assert (first.rule, first.file) == (rule, "changed.onnx")
    assert text in first.text
    assert first.index == place(operators)
    if first.index is not None:
        (file,) = found.files
        assert file.first_unmapped == first
        assert (file.macs_after > 0.9) == (change is odd_operator)


def test_an_input_of_one_number_has_a_fixed_shape(exported, tmp_path):
    model = onnx.load(exported.folder / "little_fp32.onnx")
    model.graph.input.append(onnx.helper.make_tensor_value_info("threshold", onnx.TensorProto.FLOAT, []))
    onnx.save(model, tmp_path / "net.onnx")
    assert lint.lint(tmp_path / "net.onnx", "jetson_nano").found == ()
    (warning,) = lint.lint(tmp_path / "net.onnx", "pi4").found
    assert (warning.rule, warning.level) == ("runtime", "warning")


def test_weights_in_another_file_are_found(exported, tmp_path):
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 64}
    onnx.save(onnx.load(exported.folder / "little_fp32.onnx"), tmp_path / "net.onnx", **options)
    found = lint.lint(tmp_path / "net.onnx", "jetson_nano")
    assert found.errors[0].rule == "weights"
    assert "stands in another file" in found.errors[0].text


def test_by_the_command_line(exported, tmp_path, capsys):
    path = exported.folder / "little_fp32.onnx"
    main(["lint", str(path), "--target=jetson_nano"])
    said = capsys.readouterr().out
    assert f"{exported.macs['little']:,} MACs" in said
    assert said.endswith("0 errors, 0 warnings\n")
    with pytest.raises(SystemExit) as ended:
        main(["lint", str(path), "--target=edgetpu"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("little_fp32.onnx: the Edge TPU runs TFLite files alone\n")
