"""TFLite -> ONNX through tf2onnx, with a fault of it kept out, in the form that TensorRT reads.

An int8 file becomes QDQ: float32 outside, QuantizeLinear and DequantizeLinear around what is computed in int8. TensorRT asks
three things of it (NVIDIA/TensorRT issue 2774, microsoft/onnxruntime issues 11535 and 14229, onnx/onnx-tensorrt issue 850):
zero points of 0, weights as float32 behind a pair of both operators, biases in float32.
"""

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dynnas_jax.errors import first_line
from dynnas_jax.export import flatbuffer, tflite
from dynnas_jax.export.onnx_file import WEIGHTED

OPSET = 13  # the first with one scale per channel, and the newest that TensorRT 8.2 reads
METADATA_KEY = flatbuffer.METADATA_NAME  # of the entry in metadata_props
PRECISIONS = ("fp32", "int8")  # that are written as ONNX: TensorRT makes its own fp16 of fp32
_INT8_LARGEST = 127
_HARD_SWISH_OPSET = 14  # the first with this operator; tf2onnx writes it into older ones as well
_AXES_AS_INPUT_OPSET = 18  # the first in which ReduceMean reads its axes as an input
_MOST_POOLED = 1024  # pixels of which onnxruntime's float pool keeps enough digits


def convert(
    source: str | Path, path: str | Path, *, opset: int = OPSET, for_tensorrt: bool = True, metadata: dict | None = None
) -> None:
    """Writes the one signature of a TFLite file as an ONNX file; inputs and outputs bear the signature's names.

    Args:
      source: a TFLite file of one signature, float32 outside: fp32, or int8 inside (`float_outside` of `tflite`).
      path: the file; its folder exists. A failure leaves none there.
      opset: of ONNX.
      for_tensorrt: an int8 file gets the form that TensorRT reads; else scales, zero points and biases are TFLite's own.
      metadata: JSON-able, goes into the file as its `dynnas` entry.

    Raises: ValueError if the source is no such file, or holds what tf2onnx cannot express; OSError if the disk refuses.
    """
    import onnx

    model = _converted(Path(source), opset)
    if for_tensorrt:
        _suit_tensorrt(model.graph)
    if metadata is not None:
        model.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"tf2onnx made no valid ONNX file of {Path(source).name}: {reason}") from error
    with tflite.finished_file(Path(path)) as unfinished:
        unfinished.write_bytes(model.SerializeToString())


def _converted(source: Path, opset: int):
    """The ModelProto that tf2onnx makes of a file, under the signature's names."""
    known = flatbuffer.signatures(flatbuffer.load(source))
    if len(known) != 1:
        raise ValueError(f"{source.name} has {len(known)} signatures: an ONNX file holds one, convert them apart")
    with tempfile.TemporaryDirectory(prefix="dynnas_") as folder, tflite.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx asks TensorFlow's own interpreter, which is to go
        import tf2onnx

        flat = Path(folder) / "flat.tflite"
        flat.write_bytes(_flattened(source))
        try:
            model, _ = tf2onnx.convert.from_tflite(str(flat), opset=opset)
        except Exception as error:  # tf2onnx raises what its handlers meet
            raise ValueError(f"tf2onnx cannot express {source.name}: {first_line(error)}") from error
    if opset < _HARD_SWISH_OPSET:
        _spell_out_hard_swish(model.graph)
    _average_in_two(model, opset)
    _rename(model.graph, source)
    return model


def _flattened(source: Path) -> bytes:
    """The file with a RESHAPE to two axes before every dense layer that reads more.

    tf2onnx puts that reshape in itself, but loses the layer's bias and activation as it does.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(source.read_bytes(), 0))
    for graph in model.subgraphs:
        operators = []
        for operator in graph.operators:
            if _reads_more_axes(model, graph, operator):
                operators.append(_reshape(model, graph, operator))
            operators.append(operator)
        graph.operators = operators
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), flatbuffer.IDENTIFIER)
    return bytes(builder.Output())


def _reads_more_axes(model, graph, operator) -> bool:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    dense = model.operatorCodes[operator.opcodeIndex].builtinCode == BuiltinOperator.FULLY_CONNECTED
    return dense and not operator.builtinOptions.keepNumDims and len(graph.tensors[operator.inputs[0]].shape) != 2


def _reshape(model, graph, dense):
    """A RESHAPE of what a dense layer reads; the layer reads its output from now on."""
    from ai_edge_litert import schema_py_generated as schema

    taken, columns = graph.tensors[dense.inputs[0]], int(graph.tensors[dense.inputs[1]].shape[1])
    shape = np.array([int(np.prod(taken.shape)) // columns, columns], np.int32)
    model.buffers += [schema.BufferT(data=shape.view(np.uint8)), schema.BufferT()]
    name, empty = bytes(taken.name), len(model.buffers) - 1
    graph.tensors += [
        schema.TensorT(
            shape=np.array([2], np.int32),
            type=schema.TensorType.INT32,
            buffer=empty - 1,
            name=name + b"/flat_shape",
        ),
        schema.TensorT(
            shape=shape, type=taken.type, buffer=empty, name=name + b"/flat", quantization=taken.quantization
        ),
    ]
    code = schema.BuiltinOperator.RESHAPE
    model.operatorCodes.append(schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1))
    flat = len(graph.tensors) - 1
    operator = schema.OperatorT(
        opcodeIndex=len(model.operatorCodes) - 1,
        inputs=np.array([dense.inputs[0], flat - 1], np.int32),
        outputs=np.array([flat], np.int32),
        builtinOptionsType=schema.BuiltinOptions.ReshapeOptions,
        builtinOptions=schema.ReshapeOptionsT(newShape=shape),
    )
    dense.inputs = np.array([flat, *dense.inputs[1:]], np.int32)
    return operator


def _spell_out_hard_swish(graph) -> None:
    """x * relu6(x + 3) / 6 as Mul(x, HardSigmoid(x))."""
    import onnx

    nodes = []
    for node in graph.node:
        if node.op_type == "HardSwish":
            gate = f"{node.output[0]}_gate"
            nodes.append(onnx.helper.make_node("HardSigmoid", [node.input[0]], [gate], alpha=1 / 6, beta=0.5))
            node = onnx.helper.make_node("Mul", [node.input[0], gate], [node.output[0]])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _average_in_two(model, opset: int) -> None:
    """The mean over rows and that over columns in the place of every float AveragePool whose one window is a large image.

    onnxruntime adds up a channel pixel after pixel: of 112x112 equal ones it is off by 1.3e-4 of their value, the two by 2e-7.
    What is dequantized stays a pool: that adds integers.
    """
    import onnx

    known = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*known.input, *known.value_info)}
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "AveragePool" or node.input[0] in dequantized:
            continue
        options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        sides = [axis.dim_value for axis in shapes.get(node.input[0], ())][2:]
        whole = options["kernel_shape"] == sides and not any(options.get("pads", ()))
        if whole and sides[0] * sides[1] > _MOST_POOLED:
            rows = f"{node.output[0]}_rows"
            nodes[-1:] = [
                _mean(node.input[0], rows, 3, model.graph, opset),
                _mean(rows, node.output[0], 2, model.graph, opset),
            ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _mean(read: str, given: str, axis: int, graph, opset: int):
    """A ReduceMean over one axis, which stays."""
    import onnx

    if opset < _AXES_AS_INPUT_OPSET:
        return onnx.helper.make_node("ReduceMean", [read], [given], axes=[axis], keepdims=1)
    axes = f"{given}_axes"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([axis]), axes))
    return onnx.helper.make_node("ReduceMean", [read, axes], [given], keepdims=1)


def _rename(graph, source: Path) -> None:
    """Gives inputs and outputs the names of the signature."""
    model = flatbuffer.load(source)
    ((_, signature),) = flatbuffer.signatures(model).items()
    tensors = model.subgraphs[signature.subgraph].tensors
    wanted = {**signature.inputs, **signature.outputs}
    names = {tensors[index].name: name for name, index in wanted.items()}
    # A name that stands somewhere inside already gives way.
    inside = {name for node in graph.node for name in (*node.input, *node.output)} | {i.name for i in graph.initializer}
    names = {name: f"{name}_inside" for name in set(wanted) & inside - set(names)} | names
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


def _suit_tensorrt(graph) -> None:
    """Rewrites a QDQ graph: zero points of 0, weights as float32 behind a pair, other constants in float32."""
    import onnx

    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    weights = {node.input[1] for node in graph.node if node.op_type in WEIGHTED}
    nodes, store, symmetric = [], _storing(graph), {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            nodes.append(node)
        elif node.input[0] not in constants:
            key = tuple(node.input[1:3])
            if key not in symmetric:
                symmetric[key] = store(_symmetric_scale(*(constants[name] for name in key)))
            node.input[1:] = symmetric[key]
            nodes.append(node)
        elif node.output[0] in weights:
            nodes += _with_pair(node, constants, graph, store)
        else:
            graph.initializer.append(onnx.numpy_helper.from_array(_real(node, constants), node.output[0]))
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept = [item for item in graph.initializer if item.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _storing(graph) -> Callable[[np.ndarray], list[str]]:
    """A function that puts a scale with its zero point, 0, among the initializers, and gives both names."""
    import onnx

    def store(scale: np.ndarray) -> list[str]:
        number = len(graph.initializer)
        names = [f"dynnas_scale_{number}", f"dynnas_zero_{number}"]
        for name, value in zip(names, (np.asarray(scale, np.float32), np.zeros(scale.shape, np.int8)), strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return names

    return store


def _symmetric_scale(scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """The smallest scale with zero point 0 whose range [-127, 127] holds all that (scale, zero point) can say."""
    zero_point = zero_point.astype(np.float32)
    return scale * np.maximum(128 + zero_point, 127 - zero_point) / np.float32(_INT8_LARGEST)


def _real(node, constants: dict[str, np.ndarray]) -> np.ndarray:
    """What a DequantizeLinear makes of a constant, float32."""
    stored, scale, zero_point = (constants[name] for name in node.input)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.size > 1:
        shape = [-1 if place == axis % stored.ndim else 1 for place in range(stored.ndim)]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    return ((stored.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _with_pair(node, constants: dict[str, np.ndarray], graph, store: Callable) -> list:
    """The weights of a layer in float32, a QuantizeLinear, and the DequantizeLinear there was."""
    import onnx

    scale, zero_point = (constants[name] for name in node.input[1:])
    if np.any(zero_point):
        raise ValueError(f"weights {node.input[0]} have zero points other than 0, which no TFLite converter writes")
    name = node.output[0]
    graph.initializer.append(onnx.numpy_helper.from_array(_real(node, constants), f"{name}_real"))
    node.input[1:] = store(scale)
    quantize = onnx.helper.make_node("QuantizeLinear", [f"{name}_real", *node.input[1:]], [f"{name}_stored"])
    quantize.attribute.extend(attribute for attribute in node.attribute if attribute.name == "axis")
    node.input[0] = f"{name}_stored"
    return [quantize, node]
