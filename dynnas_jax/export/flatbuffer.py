"""What a TFLite file holds, read without TensorFlow: operators, MACs, the `dynnas` metadata, the promises it keeps.

Needs numpy and ai-edge-litert only: a copy of this module lies beside `runtime.py` in every export folder.
"""

import json
import struct
from collections import Counter
from collections.abc import Collection
from pathlib import Path

METADATA_NAME = "dynnas"
IDENTIFIER = b"TFL3"

# What the converter makes of convolutions, dense layers, squeeze-and-excitation, average pooling, shortcuts and the
# input's normalisation with ReLU, ReLU6, hard-swish, swish and (hard-)sigmoid; all are LiteRT builtins.
# ReLU and ReLU6 fuse into the operator before them; they stand alone where their input has a second reader.
BUILTIN_OPS = frozenset(
    {
        "ADD",
        "AVERAGE_POOL_2D",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "HARD_SWISH",
        "LOGISTIC",
        "MUL",
        "QUANTIZE",
        "RELU",
        "RELU6",
        "RESHAPE",
        "SUB",
    }
)


def load(path: str | Path):
    """The file as a `schema_py_generated.ModelT` tree.

    Raises: ValueError if the file is absent, truncated or no TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if content[4:8] != IDENTIFIER:
        raise ValueError(f"{path} is not a TFLite file: no {IDENTIFIER.decode()} mark in its first 8 bytes")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        complete = len(model.subgraphs) > 0 and all(_names_exist(model, graph) for graph in model.subgraphs)
    except (struct.error, ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is truncated or damaged ({len(content)} bytes): export it again") from error
    if not complete:
        raise ValueError(f"{path} is truncated or damaged ({len(content)} bytes): export it again")
    return model


def _names_exist(model, graph) -> bool:
    """Whether every operator and tensor of a graph points at something inside the file."""
    tensors = len(graph.tensors)
    codes = all(operator.opcodeIndex < len(model.operatorCodes) for operator in graph.operators)
    inputs = all(index < tensors for operator in graph.operators for index in operator.inputs)
    return codes and inputs and all(tensor.buffer < len(model.buffers) for tensor in graph.tensors)


def op_list(path: str | Path) -> list[str]:
    """The operators' builtin names (`CONV_2D`, ...; a custom operator by its own name) in the order they run."""
    return [name for name, _, _ in operators(load(path))]


def op_counts(path: str | Path) -> Counter:
    """How often each operator occurs: Counter of builtin names."""
    return Counter(op_list(path))


def macs(path: str | Path) -> int:
    """MACs of one run: convolutions and dense layers from their tensor shapes; bias, activation, pooling excluded."""
    return _macs(load(path))


def operators(model):
    """Yields (name, operator, graph) for every operator of a `load`ed file, in order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files fill the deprecated field only
            name = code.customCode.decode() if code.customCode else names.get(number, f"BUILTIN_{number}")
            yield name, operator, graph


def _macs(model) -> int:
    total = 0
    for name, operator, graph in operators(model):
        if name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            continue
        weights = [int(size) for size in graph.tensors[operator.inputs[1]].shape]
        outputs = 1
        for size in graph.tensors[operator.outputs[0]].shape:
            outputs *= int(size)
        if name == "CONV_2D":  # out, height, width, in / groups
            per_output = weights[1] * weights[2] * weights[3]
        elif name == "DEPTHWISE_CONV_2D":  # 1, height, width, out
            per_output = weights[1] * weights[2]
        else:  # out, in
            per_output = weights[1]
        total += outputs * per_output
    return total


def size_bytes(path: str | Path) -> int:
    """The file's size in bytes."""
    return Path(path).stat().st_size


def read_metadata(path: str | Path) -> dict:
    """The `dynnas` metadata of a file.

    Raises: ValueError if the file is no whole TFLite file or carries no such metadata.
    """
    model = load(path)
    for entry in model.metadata or []:
        if entry.name == METADATA_NAME.encode():
            return json.loads(bytes(model.buffers[entry.buffer].data))
    raise ValueError(f"{path} carries no `{METADATA_NAME}` metadata: it was not exported by dynnas")


def pack_metadata(path: str | Path, metadata: dict) -> bytes:
    """The bytes of the file at `path` with `metadata` (JSON-able) as its one `dynnas` buffer; writes nothing."""
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model = load(path)
    data = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    entries = [entry for entry in model.metadata or [] if entry.name == METADATA_NAME.encode()]
    if entries:
        model.buffers[entries[0].buffer].data = data
    else:
        model.buffers.append(schema.BufferT(data=data))
        model.metadata = [
            *(model.metadata or []),
            schema.MetadataT(name=METADATA_NAME, buffer=len(model.buffers) - 1),
        ]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def check(path: str | Path, *, allowed_ops: Collection[str] = BUILTIN_OPS, macs: int | None = None) -> None:
    """Holds a file to what was promised of it.

    Args:
      path: a TFLite file.
      allowed_ops: the operators it may contain.
      macs: MACs counted on the JAX side; None leaves them unchecked.

    Raises: ValueError naming the first operator outside `allowed_ops` and its index, or both MACs where they differ.
    """
    model, file = load(path), Path(path).name
    for index, (name, _, _) in enumerate(operators(model)):
        if name not in allowed_ops:
            raise ValueError(
                f"{file}: operator {index} is {name}, outside the promised {', '.join(sorted(allowed_ops))}"
            )
    counted = _macs(model)
    if macs is not None and counted != macs:
        raise ValueError(f"{file}: the file counts {counted} MACs, the JAX network {macs}: they must be equal")
