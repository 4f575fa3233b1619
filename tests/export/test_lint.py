"""What lint says of files: of one that the Edge TPU runs whole nothing, of broken ones the right rule and operator."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from dynnas_jax.export import device_folder, flatbuffer, lint, targets

OPS = ["MUL", "SUB", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "AVERAGE_POOL_2D", "FULLY_CONNECTED"]
FIRST, DEPTHWISE, SECOND, POOL, DENSE = 2, 3, 4, 5, 6
MACS = [0, 0, 8 * 8 * 9 * 3 * 8, 4 * 4 * 9 * 8, 4 * 4 * 8 * 16, 0, 16 * 5]


def code(model, builtin, version=1):
    """The index of a new operator code."""
    model.operatorCodes.append(
        schema.OperatorCodeT(builtinCode=builtin, deprecatedBuiltinCode=builtin, version=version)
    )
    return len(model.operatorCodes) - 1


def tensor_of(model, operator, which, position=0):
    graph = model.subgraphs[0]
    return graph.tensors[getattr(graph.operators[operator], which)[position]]


def hard_swish(model):
    """A HARD_SWISH between the second convolution and the pooling."""
    graph = model.subgraphs[0]
    before = graph.operators[SECOND].outputs[0]
    graph.tensors.append(graph.tensors[before])
    new = schema.OperatorT(opcodeIndex=code(model, schema.BuiltinOperator.HARD_SWISH), inputs=[before])
    new.outputs = [len(graph.tensors) - 1]
    graph.operators[POOL].inputs = new.outputs
    graph.operators.insert(POOL, new)


def float_island(model):
    """DEQUANTIZE, RELU in float, QUANTIZE between the second convolution and the pooling."""
    graph, names = model.subgraphs[0], schema.BuiltinOperator
    place = graph.operators[SECOND].outputs[0]
    shape = graph.tensors[place].shape
    for name, kind in ((names.DEQUANTIZE, "FLOAT32"), (names.RELU, "FLOAT32"), (names.QUANTIZE, "INT8")):
        tensor = schema.TensorT(shape=shape, type=getattr(schema.TensorType, kind), name=f"island{name}", buffer=0)
        tensor.quantization = graph.tensors[graph.operators[SECOND].outputs[0]].quantization if kind == "INT8" else None
        graph.tensors.append(tensor)
        new = schema.OperatorT(opcodeIndex=code(model, name), inputs=[place], outputs=[len(graph.tensors) - 1])
        graph.operators.insert(len(graph.operators) - 2, new)
        place = new.outputs[0]
    graph.operators[-2].inputs = [place]


def dynamic(model):
    tensor = tensor_of(model, DEPTHWISE, "outputs")
    tensor.shapeSignature = [-1, *tensor.shape[1:]]


def rank_5(model):
    tensor = tensor_of(model, SECOND, "outputs")
    tensor.shape = [1, 2, 2, 4, 16]


def new_version(model):
    model.subgraphs[0].operators[SECOND].opcodeIndex = code(model, schema.BuiltinOperator.CONV_2D, 6)


def per_channel(model):
    weights = tensor_of(model, DENSE, "inputs", 1)
    weights.quantization.scale, weights.quantization.zeroPoint = [0.01] * 5, [0] * 5
    weights.quantization.quantizedDimension = 0


def fused_pool(model):
    model.subgraphs[0].operators[POOL].builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU6


def float_constant(model):
    tensor = tensor_of(model, SECOND, "inputs", 2)
    tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None


def outside(model):
    buffer = model.buffers[tensor_of(model, SECOND, "inputs", 1).buffer]
    buffer.offset, buffer.size, buffer.data = 4096, len(buffer.data), None


def dilated(model):
    model.subgraphs[0].operators[DEPTHWISE].builtinOptions.dilationHFactor = 2


def custom(model):
    model.operatorCodes.append(schema.OperatorCodeT(builtinCode=32, deprecatedBuiltinCode=32, customCode="MyNorm"))
    model.subgraphs[0].operators[DENSE].opcodeIndex = len(model.operatorCodes) - 1


BROKEN = [  # change, rule, index, operator, what the text says
    (hard_swish, "operator", POOL, "HARD_SWISH", "no such operator: use ReLU6"),
    (dynamic, "shape", DEPTHWISE, "DEPTHWISE_CONV_2D", r"\[-1, 4, 4, 8\]"),
    (float_island, "type", POOL, "DEQUANTIZE", "is FLOAT32, must be INT8"),
    (per_channel, "per_channel", DENSE, "FULLY_CONNECTED", "5 scales"),
    (rank_5, "rank", SECOND, "CONV_2D", r"\[1, 2, 2, 4, 16\]"),
    (new_version, "version", SECOND, "CONV_2D", "version 6 is too new, the compiler knows 3"),
    (fused_pool, "fused", POOL, "AVERAGE_POOL_2D", "activation"),
    (float_constant, "constant", SECOND, "CONV_2D", "FLOAT32"),
    (outside, "outside", SECOND, "CONV_2D", "not inside the flatbuffer"),
    (dilated, "limit", DEPTHWISE, "DEPTHWISE_CONV_2D", "dilated"),
    (custom, "operator", DENSE, "MyNorm", "no such operator"),
]


def test_the_file_that_all_changes_start_from_is_clean(int8_file):
    found = lint.lint(int8_file, "edgetpu")
    assert found.found == ()
    (file,) = found.files
    assert (file.operators, file.macs, file.first_unmapped, file.macs_after) == (7, sum(MACS), None, 0)
    assert [own.operators for own in flatbuffer.work(int8_file).values()] == [tuple(OPS)]
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(int8_file.read_bytes(), 0))
    described = {entry.buffer for entry in model.metadata}
    sizes = [0 if buffer.data is None else len(buffer.data) for buffer in model.buffers]
    assert file.parameters_bytes == sum(size for n, size in enumerate(sizes) if n not in described)


@pytest.mark.parametrize(("change", "rule", "index", "name", "text"), BROKEN, ids=[row[0].__name__ for row in BROKEN])
def test_a_broken_file_fails_by_its_rule_and_operator(int8_file, edited, change, rule, index, name, text):
    path = edited(int8_file, change)
    found = lint.lint(path, "edgetpu")
    first = found.errors[0]
    assert (first.rule, first.index, first.op, first.file) == (rule, index, name, "edited.tflite")
    behind = MACS[index:] if change is not custom else [0]
    assert found.files[0].first_unmapped == first
    assert found.files[0].macs_after == pytest.approx(sum(behind) / (sum(MACS) - (80 if change is custom else 0)))
    with pytest.raises(ValueError, match=rf"^target edgetpu: edited.tflite: operator {index} {name}: .*{text}[^\n]*$"):
        lint.check(path, "edgetpu")


def test_what_a_converter_leaves_on_the_cpu(unmapped_file):
    """Hard-swish and a dense layer with a scale per channel, as TensorFlow makes them."""
    found = lint.lint(unmapped_file, "edgetpu")
    assert [(f.rule, f.index, f.op) for f in found.errors] == [
        ("operator", 3, "HARD_SWISH"),
        ("per_channel", 7, "FULLY_CONNECTED"),
    ]
    assert found.files[0].macs_after == pytest.approx(sum(MACS[DEPTHWISE:]) / sum(MACS))
    assert "the first that does not run there is operator 3 HARD_SWISH" in found.text()
    assert "19.2% of the MACs" in found.text()


@pytest.mark.parametrize("which", ["input", "output"])
def test_inputs_and_outputs_are_int8(int8_file, edited, which):
    def change(model):
        graph = model.subgraphs[0]
        graph.tensors[getattr(graph, f"{which}s")[0]].type = schema.TensorType.UINT8

    name = {"input": "image", "output": "logits"}[which]
    with pytest.raises(ValueError, match=f"edited.tflite: {which} '{name}' is UINT8, must be INT8"):
        lint.check(edited(int8_file, change), "edgetpu")


def two_signatures(model):
    model.subgraphs.append(model.subgraphs[0])
    again = schema.SignatureDefT(signatureKey="again", subgraphIndex=1)
    again.inputs, again.outputs = model.signatureDefs[0].inputs, model.signatureDefs[0].outputs
    model.signatureDefs.append(again)


def test_the_edge_tpu_takes_one_signature_others_take_several(int8_file, edited):
    path = edited(int8_file, two_signatures)
    with pytest.raises(ValueError, match=r"it has 2 subgraphs \(net, again\): export each into a file of its own"):
        lint.check(path, "edgetpu")
    found = lint.check(path, "pi4")
    assert found.files[0].macs == 2 * sum(MACS)
    assert found.files[0].parameters_bytes == lint.lint(int8_file, "pi4").files[0].parameters_bytes  # they share them


def heavier(megabytes):
    """Another dense layer's weights of so many MiB, in the place of the last one's."""

    def change(model):
        size, weights = megabytes * 2**20 // 16, tensor_of(model, DENSE, "inputs", 1)
        weights.shape = [size, 16]
        model.buffers[weights.buffer].data = np.zeros(size * 16, np.uint8)

    return change


@pytest.mark.parametrize(
    ("megabytes", "level", "text"),
    [
        ((5,), None, ""),
        ((7,), "warning", "7.00 MiB of parameters come near the cache's 8.00 MiB"),
        ((9,), "error", "9.00 MiB of parameters do not fit in 8.00 MiB"),
        ((3, 4), "warning", "7.00 MiB of parameters together come near"),
        ((5, 4), "error", "9.00 MiB of parameters together do not fit"),
    ],
)
def test_parameters_against_the_cache_a_pair_together(int8_file, edited, megabytes, level, text):
    paths = [edited(int8_file, heavier(size), f"{n}.tflite") for n, size in enumerate(megabytes)]
    found = lint.lint(paths, "edgetpu")
    assert [(f.rule, f.level) for f in found.found] == ([("memory", level)] if level else [])
    assert all(text in finding.text for finding in found.found)
    assert all(finding.file == ", ".join(path.name for path in paths) for finding in found.found)
    assert text in found.text()


@pytest.mark.parametrize("target", sorted(set(targets.TARGETS) - {"edgetpu"}))
def test_other_targets_look_at_operators_versions_and_memory(int8_file, unmapped_file, edited, target):
    assert lint.check([int8_file, unmapped_file], target).errors == ()

    def too_new(model):
        model.subgraphs[0].operators[SECOND].opcodeIndex = code(model, schema.BuiltinOperator.CONV_2D, 99)

    with pytest.raises(
        ValueError, match=f"operator {SECOND} CONV_2D: version 99 is too new: LiteRT on {target} knows 8"
    ):
        lint.check(edited(int8_file, too_new), target)
    with pytest.raises(ValueError, match=f"operator {DENSE} MyNorm: LiteRT has no such operator on {target}"):
        lint.check(edited(int8_file, custom), target)


def test_the_signature_of_a_finding_is_named(int8_file, edited):
    def change(model):
        two_signatures(model)
        model.subgraphs[1] = schema.SubGraphT(**vars(model.subgraphs[0]))
        model.subgraphs[1].operators = [schema.OperatorT(**vars(op)) for op in model.subgraphs[0].operators]
        model.subgraphs[1].operators[SECOND].opcodeIndex = code(model, schema.BuiltinOperator.CONV_2D, 99)

    (finding,) = lint.lint(edited(int8_file, change), "android").errors
    assert (finding.signature, finding.index) == ("again", SECOND)
    assert finding.line().startswith("edited.tflite, signature 'again': operator 4 CONV_2D: version 99")


def test_advice_where_a_target_is_slow(int8_file, unmapped_file, edited):
    def seven(model):
        weights = tensor_of(model, DEPTHWISE, "inputs", 1)
        weights.shape = [1, 7, 7, 8]
        model.buffers[weights.buffer].data = np.zeros(7 * 7 * 8, np.uint8)

    assert [(f.rule, f.level, f.index) for f in lint.lint(unmapped_file, "pi4").found] == [("activation", "warning", 3)]
    wide = edited(int8_file, seven)
    for target, rules in (("pi4", ["kernel"]), ("edgetpu", ["kernel"]), ("x86", ["kernel"]), ("jetson_nano", [])):
        assert [f.rule for f in lint.lint(wide, target).warnings] == rules
    assert "a 7x7 depthwise convolution is slow there: use 3 or 5" in lint.lint(wide, "pi5").text()


def test_facts_are_json(unmapped_file):
    found = lint.lint(unmapped_file, "edgetpu")
    facts = json.loads(json.dumps(found.facts()))
    assert facts["files"][0]["first_unmapped"]["op"] == "HARD_SWISH"
    assert [finding["rule"] for finding in facts["findings"]] == ["operator", "per_channel"]


def test_what_the_compiler_made_is_clean(int8_file, edited):
    def change(model):
        custom(model)
        model.operatorCodes[-1].customCode = "edgetpu-custom-op"
        model.subgraphs[0].operators = model.subgraphs[0].operators[-1:]

    assert lint.check(edited(int8_file, change), "edgetpu").found == ()


@pytest.mark.parametrize(
    ("builtin", "numbers", "text"),
    [
        ("MEAN", [1, 2], None),
        ("MEAN", [-2, 1], None),
        ("MEAN", [3], r"the axes \[3\]"),
        ("PAD", [0, 0, 1, 1, 1, 1, 0, 0], None),
        ("PAD", [0, 0, 0, 0, 0, 0, 0, 3], "only height and width can be padded"),
    ],
)
def test_means_and_padding(int8_file, edited, builtin, numbers, text):
    """In the place of the pooling."""

    def change(model):
        graph = model.subgraphs[0]
        model.buffers.append(schema.BufferT(data=np.asarray(numbers, "<i4").view(np.uint8)))
        tensor = schema.TensorT(
            shape=[len(numbers)], type=schema.TensorType.INT32, name="n", buffer=len(model.buffers) - 1
        )
        graph.tensors.append(tensor)
        pool = graph.operators[POOL]
        pool.opcodeIndex, pool.builtinOptions, pool.builtinOptionsType = (
            code(model, getattr(schema.BuiltinOperator, builtin)),
            None,
            0,
        )
        pool.inputs = [pool.inputs[0], len(graph.tensors) - 1]

    path = edited(int8_file, change)
    if text is None:
        assert lint.check(path, "edgetpu").found == ()
    else:
        with pytest.raises(ValueError, match=f"operator {POOL} {builtin}: .*{text}"):
            lint.check(path, "edgetpu")


def test_files_of_one_name_are_told_apart(int8_file, unmapped_file):
    found = lint.lint([int8_file, unmapped_file], "edgetpu")
    assert {finding.file for finding in found.errors} == {str(unmapped_file)}
    assert [file.name for file in found.files] == [str(int8_file), str(unmapped_file)]


def test_a_name_that_would_write_to_the_terminal_is_quoted(int8_file, edited):
    def change(model):
        custom(model)
        model.operatorCodes[-1].customCode = "\x1b[2J\nall is well"

    found = lint.lint(edited(int8_file, change), "pi4")
    assert found.text().isprintable() is False  # for its line ends alone
    assert all(line.isprintable() for line in found.text().splitlines())
    assert found.errors[0].op == repr("\x1b[2J\nall is well")


def test_unknown_targets_and_files(int8_file, tmp_path):
    with pytest.raises(ValueError, match=r"target is 'pi3', choose from \['edgetpu', 'pi4'"):
        lint.lint(int8_file, "pi3")
    with pytest.raises(ValueError, match="cannot read .*absent.tflite: No such file"):
        lint.lint(tmp_path / "absent.tflite", "pi4")


ASK = """
import json, sys
import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

def accepted(builtin, version):
    model, code, tensor, graph = schema.ModelT(), schema.OperatorCodeT(), schema.TensorT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, [schema.BufferT()], [code], [graph]
    code.deprecatedBuiltinCode, code.version, code.builtinCode = min(builtin, 127), version, builtin
    tensor.shape, tensor.type, tensor.buffer, tensor.name = [1], 0, 0, "x"
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor], [0], [0], []
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), b"TFL3")
    try:
        Interpreter(model_content=bytes(builder.Output()))
    except (RuntimeError, ValueError):
        return False
    return True

found = {}
for name, builtin in vars(schema.BuiltinOperator).items():
    if isinstance(builtin, int):
        found[name] = max((version for version in range(1, 20) if accepted(builtin, version)), default=0)
print(json.dumps(found))
"""


def newest(place=None):
    """The newest version of each operator that a LiteRT has a kernel for: else it stops before anything runs."""
    environment = {**os.environ, **({"PYTHONPATH": str(place)} if place else {})}
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return {name: version for name, version in json.loads(done.stdout).items() if version}


@pytest.mark.parametrize(
    ("version", "ops"),
    [(device_folder._LITERT.partition(">=")[2] + ".0", targets.LITERT_OPS), ("1.4.0", targets.TARGETS["android"].ops)],
)
def test_the_oldest_litert_knows_the_versions_that_targets_promise(version, ops, tmp_path):
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={tmp_path}"]
    done = subprocess.run([*install, f"ai-edge-litert=={version}"], capture_output=True, text=True, check=False)
    unmade = "No matching distribution" in done.stderr  # for this Python
    if done.returncode and (unmade or not os.environ.get("CI")):
        pytest.skip(f"ai-edge-litert {version} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    assert newest(tmp_path) == ops


def test_the_litert_here_knows_them_too():
    here = newest()
    assert {name for name, version in targets.LITERT_OPS.items() if version > here.get(name, 0)} == set()
    for ops in (targets.EDGETPU_OPS, targets.ANDROID_OPS):
        assert {name for name, version in ops.items() if version > targets.LITERT_OPS.get(name, 0)} == set()
