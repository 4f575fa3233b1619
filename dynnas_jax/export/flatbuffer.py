"""What a TFLite file holds, read without TensorFlow and checked as a whole: operators, MACs, signatures, `dynnas` metadata.

Files are data, and may be damaged or hostile: nothing in them is trusted, nothing executed. Needs numpy and ai-edge-litert only:
a copy of this module lies beside `runtime.py` in every export folder.
"""

from __future__ import annotations

import json
import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

if __package__:
    from dynnas_jax.export import schema
else:  # lying alone in an export folder
    import schema

METADATA_NAME = "dynnas"
IDENTIFIER = b"TFL3"
MAX_FILE_BYTES = 2**31  # offsets are of 32 bits
MAX_TENSOR_BYTES = 2**30  # of one activation; LiteRT takes them all at once
TYPES = ["FLOAT32", "FLOAT16", "INT32", "UINT8", "INT64", "STRING", "BOOL", "INT16", "COMPLEX64", "INT8", "FLOAT64"]
_ITEM_BYTES = {"FLOAT32": 4, "FLOAT16": 2, "INT32": 4, "UINT8": 1, "INT64": 8, "BOOL": 1, "INT16": 2, "INT8": 1}


def load(path: str | Path) -> SimpleNamespace:
    """The file as a tree of namespaces, named as in the schema; vectors of numbers are views of the file.

    Raises: ValueError if the file is absent, truncated, damaged or no TFLite file.
    """
    content = _content(Path(path))
    try:
        reader = schema.Content(content)
        model = reader.table("Model", reader.number("u32", 0))
        _check(model)
    except schema.DamagedError as error:
        raise ValueError(f"{path} is truncated or damaged ({len(content)} bytes; {error}): export it again") from error
    return model


def _content(path: Path) -> mmap.mmap:
    """The file's bytes, of which only those that are looked at come into memory."""
    try:
        with path.open("rb") as file:
            if file.read(8)[4:] != IDENTIFIER:
                raise ValueError(f"{path} is not a TFLite file: no {IDENTIFIER.decode()} mark in its first 8 bytes")
            if size_bytes(path) > MAX_FILE_BYTES:
                raise ValueError(f"{path} is not a TFLite file: those have at most {MAX_FILE_BYTES} bytes")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _check(model: SimpleNamespace) -> None:
    """Whether everything points at something inside the file, and tensors have sizes that can be."""
    if not model.subgraphs:
        raise schema.DamagedError("it has no subgraph")
    for graph in model.subgraphs:
        for operator in graph.operators:
            _inside([operator.opcode_index], model.operator_codes, "operator code")
            _inside([n for n in operator.inputs.tolist() if n != -1], graph.tensors, "tensor")  # -1: left out
            _inside([n for n in operator.intermediates.tolist() if n != -1], graph.tensors, "tensor")
            _inside(operator.outputs.tolist(), graph.tensors, "tensor")
        _inside([*graph.inputs.tolist(), *graph.outputs.tolist()], graph.tensors, "tensor")
        for tensor in graph.tensors:
            _check_tensor(model, tensor)
    _inside([entry.buffer for entry in model.metadata], model.buffers, "buffer")
    for signature in model.signature_defs:
        _inside([signature.subgraph_index], model.subgraphs, "subgraph")
        names = [*signature.inputs, *signature.outputs]
        _inside([name.tensor_index for name in names], model.subgraphs[signature.subgraph_index].tensors, "tensor")


def _inside(numbers: list[int], things: list, what: str) -> None:
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(things):
        raise schema.DamagedError(f"there is no {what} {max(numbers, key=abs)}")


def _check_tensor(model: SimpleNamespace, tensor: SimpleNamespace) -> None:
    _inside([tensor.buffer], model.buffers, "buffer")
    shape, item_bytes = tensor.shape.tolist(), _ITEM_BYTES.get(tensor_type(tensor))
    if len(shape) > 8 or min(shape, default=0) < -1:
        raise schema.DamagedError(f"the shape {shape[:9]} of tensor {tensor.name!r}")
    size, data = item_bytes and item_bytes * count(shape), model.buffers[tensor.buffer].data
    if size is not None and (size > MAX_TENSOR_BYTES or (len(data) and not tensor.sparsity and len(data) != size)):
        raise schema.DamagedError(f"tensor {tensor.name!r} has {size} bytes")
    scales = tensor.quantization.scale if tensor.quantization else ()
    axis = tensor.quantization.quantized_dimension if len(scales) > 1 else None
    if axis is not None and (not 0 <= axis < len(shape) or len(scales) != shape[axis]):
        raise schema.DamagedError(f"tensor {tensor.name!r} has {len(scales)} scales along axis {axis}")


def count(shape) -> int:
    """The elements of a shape; a size that is open (-1) counts once."""
    total = 1
    for size in shape:
        total *= abs(int(size))
    return total


def tensor_type(tensor: SimpleNamespace) -> str:
    """The name of a tensor's type: `FLOAT32`, `INT8`, ..."""
    return TYPES[tensor.type] if 0 <= tensor.type < len(TYPES) else f"TYPE_{tensor.type}"


class Signature(NamedTuple):
    """What a signature runs."""

    subgraph: int
    inputs: dict[str, int]  # index of the tensor, by name
    outputs: dict[str, int]


def signatures(model: SimpleNamespace) -> dict[str, Signature]:
    """The signatures of a `load`ed file by name, in the file's order; a file need not have any."""
    found = {}
    for entry in model.signature_defs:
        inputs, outputs = ({name.name: name.tensor_index for name in names} for names in (entry.inputs, entry.outputs))
        found[entry.signature_key] = Signature(entry.subgraph_index, inputs, outputs)
    return found


def operators(
    model: SimpleNamespace, subgraph: int | None = None
) -> Iterator[tuple[str, SimpleNamespace, SimpleNamespace]]:
    """Yields (builtin name or custom code, operator, graph) for every operator of a `load`ed file, or of one subgraph."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    names = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
    for graph in model.subgraphs if subgraph is None else [model.subgraphs[subgraph]]:
        for operator in graph.operators:
            code = model.operator_codes[operator.opcode_index]
            number = max(code.builtin_code, code.deprecated_builtin_code)  # old files fill the deprecated field only
            custom = code.custom_code if code.custom_code.isprintable() else repr(code.custom_code)
            yield custom or names.get(number, f"BUILTIN_{number}"), operator, graph


class Work(NamedTuple):
    """What one run of a signature takes."""

    macs: int  # of convolutions and dense layers; bias, activation, pooling excluded
    operators: tuple[str, ...]  # builtin names (`CONV_2D`, ...; a custom one by its own name) in running order

    @property
    def counts(self) -> Counter:
        """How often each operator occurs."""
        return Counter(self.operators)


def work(path: str | Path) -> dict[str, Work]:
    """Of every signature of a file, which is read once."""
    model, found = load(path), {}
    for name, signature in signatures(model).items():
        rows = list(operators(model, signature.subgraph))
        found[name] = Work(sum(operator_macs(*row) for row in rows), tuple(row[0] for row in rows))
    return found


def operator_macs(name: str, operator: SimpleNamespace, graph: SimpleNamespace) -> int:
    """MACs of one operator, from the shapes of its weights and its output."""
    ranks = {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 2}
    if name not in ranks or len(operator.inputs) < 2 or not len(operator.outputs) or operator.inputs[1] < 0:
        return 0
    weights = graph.tensors[operator.inputs[1]].shape.tolist()
    if len(weights) != ranks[name]:
        return 0
    # out, height, width, in / groups; 1, height, width, out; out, in
    used = weights[1:3] if name == "DEPTHWISE_CONV_2D" else weights[1:]
    return count(used) * count(graph.tensors[operator.outputs[0]].shape)


def size_bytes(path: str | Path) -> int:
    """The file's size in bytes."""
    return Path(path).stat().st_size


def read_metadata(path: str | Path) -> dict:
    """The `dynnas` metadata of a file.

    Raises: ValueError if the file is no whole TFLite file or carries no such metadata.
    """
    model = load(path)
    for entry in model.metadata:
        if entry.name == METADATA_NAME:
            try:
                return json.loads(model.buffers[entry.buffer].data.tobytes())
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: its `{METADATA_NAME}` metadata is damaged: export it again") from error
    raise ValueError(f"{path} carries no `{METADATA_NAME}` metadata: it was not exported by dynnas")


def pack_metadata(path: str | Path, metadata: dict) -> bytes:
    """The bytes of the file at `path` with `metadata` (JSON-able) as its one `dynnas` buffer; writes nothing."""
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as objects

    load(path)  # whole, so that what follows takes no more memory than it should
    model = objects.ModelT.InitFromObj(objects.Model.GetRootAsModel(Path(path).read_bytes(), 0))
    data = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    entries = [entry for entry in model.metadata or [] if entry.name == METADATA_NAME.encode()]
    if entries:
        model.buffers[entries[0].buffer].data = data
    else:
        model.buffers.append(objects.BufferT(data=data))
        model.metadata = [
            *(model.metadata or []),
            objects.MetadataT(name=METADATA_NAME, buffer=len(model.buffers) - 1),
        ]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())
