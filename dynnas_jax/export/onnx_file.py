"""ONNX files as data: their operators, in the order they run, their MACs, and what they hold. Nothing of them is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax.export import metadata
from dynnas_jax.export.confined import first_line

WEIGHTED = ("Conv", "MatMul", "Gemm")
_OWN = ("", "ai.onnx")  # domains of ONNX's own operators


class Operator(NamedTuple):
    """One operator; those of the body of an If or a loop follow it."""

    index: int
    name: str  # one that is not ONNX's own is called "DOMAIN::NAME"
    label: str  # what the file calls this one
    macs: int | None  # of one run; None where the shapes do not follow from the file


def load(path: str | Path):
    """The ModelProto of a file, with all shapes that follow from it.

    Raises: ValueError if the file is absent, truncated, or no valid ONNX file; if `onnx` is not installed.
    """
    path = Path(path)
    metadata.read_onnx(path)  # its fields follow each other up to the end: lengths are checked before memory is taken
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError(f'{path} needs onnx: pip install "dynnas_jax[export]" ({error})') from error
    try:
        onnx.checker.check_model(str(path))  # by its path: weights in another file are looked for beside it
        return onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"{path} is no valid ONNX file: {first_line(error)}") from error


def operators(model) -> list[Operator]:
    """The operators of a model that `load` gave."""
    return [
        Operator(index, _name(node), node.name, _macs(node, shapes))
        for index, (node, shapes) in enumerate(_nodes(model.graph, {}))
    ]


def op_counts(path: str | Path) -> dict[str, int]:
    """How often each operator occurs in a file."""
    return dict(Counter(operator.name for operator in operators(load(path))))


def macs(path: str | Path) -> int:
    """MACs of one run of a file: convolutions and dense layers; bias, activation, pooling excluded.

    Raises: ValueError where the shapes of one do not follow from the file.
    """
    found = operators(load(path))
    for operator in found:
        if operator.macs is None:
            raise ValueError(f"{Path(path).name}: {unshaped(operator)}")
    return sum(operator.macs for operator in found)


def unshaped(operator: Operator) -> str:
    """What is said of an operator without MACs."""
    return f"the shapes of {operator.name} {operator.label!r} do not follow from the file"


def parameters_bytes(model) -> int:
    """The constants of a model as it runs: initializers, and what Constant operators hold; of float weights that are quantized
    first, a byte a number: engines keep these.
    """
    quantized = {node.input[0] for node in model.graph.node if _name(node) == "QuantizeLinear"}
    return sum(
        int(np.prod(tensor.dims)) if tensor.name in quantized else len(tensor.raw_data) or tensor.ByteSize()
        for tensor in _constants(model)
    )


def elsewhere(model) -> list[str]:
    """The constants whose values stand in another file."""
    return [tensor.name for tensor in _constants(model) if tensor.data_location == tensor.EXTERNAL]


def open_inputs(model) -> list[str]:
    """The inputs that have no fixed shape."""
    held = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in held and _sizes(value) is None]


def opset(model) -> int:
    """The version of ONNX's own operators that a model asks for, 0 where it asks for none."""
    return max((entry.version for entry in model.opset_import if entry.domain in _OWN), default=0)


def _name(node) -> str:
    return node.op_type if node.domain in _OWN else f"{node.domain}::{node.op_type}"


def _nodes(graph, outer: dict[str, list[int] | None]) -> Iterator[tuple]:
    """(operator, shapes by name) of a graph and of the bodies in it."""
    shapes = outer | {item.name: list(item.dims) for item in graph.initializer}
    shapes |= {value.name: _sizes(value) for value in (*graph.input, *graph.output, *graph.value_info)}
    for node in graph.node:
        yield node, shapes
        for body in _bodies(node):
            yield from _nodes(body, shapes)


def _bodies(node) -> Iterator:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _constants(model) -> Iterator:
    graphs = [model.graph]
    for graph in graphs:  # grows as it is walked
        yield from graph.initializer
        for node in graph.node:
            graphs += _bodies(node)
            yield from (item.t for item in node.attribute if node.op_type == "Constant" and item.HasField("t"))


def _sizes(value) -> list[int] | None:
    """The shape of a value, None where it or one of its sizes is open."""
    tensor = value.type.tensor_type
    sizes = [size.dim_value for size in tensor.shape.dim]
    return sizes if tensor.HasField("shape") and 0 not in sizes else None


def _macs(node, shapes: dict[str, list[int] | None]) -> int | None:
    if _name(node) not in WEIGHTED:
        return 0
    weights, made = (shapes.get(name) for name in (node.input[1], node.output[0]))
    if not weights or made is None or 0 in weights:
        return None
    return _summed(node, weights) * int(np.prod(made))


def _summed(node, weights: list[int]) -> int:
    """How many products are added up for each number that a weighted operator makes."""
    if node.op_type == "Conv":  # out, in / groups, height, width
        return int(np.prod(weights[1:]))
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weights[-1] if turned or len(weights) == 1 else weights[-2]
