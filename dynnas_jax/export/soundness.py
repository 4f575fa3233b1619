"""Whether LiteRT can be trusted with a graph: what it takes for granted, and may crash of where it is not so.

A copy of this module lies in every export folder. `flatbuffer.load` has seen to it that everything points into the file.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

if __package__:
    from dynnas_jax.export import flatbuffer
else:  # lying alone in an export folder
    import flatbuffer

MOST_VALUES = 2**28  # in all tensors of one net: 1 GiB in float32
_WEIGHTED = (3, 4, 9)  # CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED
# The kernels write the ratio of scales as an integer and a shift, and abort the process where it does not fit.
_LARGEST_RATIO, _LARGEST_WEIGHTED_RATIO = 2.0**18, 2.0**29


def problem(model: SimpleNamespace) -> str | None:
    """What is wrong with a `flatbuffer.load`ed file, in words, or None."""
    for graph in model.subgraphs:
        total = sum(flatbuffer.count(tensor.shape) for tensor in graph.tensors)
        if total > MOST_VALUES:
            return f"its tensors have {total:,} values, more than any net of a small device"
        found = _misplaced(model, graph) or _badly_scaled(model, graph)
        if found:
            return found
    return None


def _misplaced(model: SimpleNamespace, graph: SimpleNamespace) -> str | None:
    """Every tensor is a constant, an input, or written once by an operator; and it is there before it is read."""
    constants = {i for i, tensor in enumerate(graph.tensors) if len(model.buffers[tensor.buffer].data)}
    known = constants | set(graph.inputs.tolist())
    if constants & set(graph.inputs.tolist()):
        return "an input is a constant"
    for place, operator in enumerate(graph.operators):
        for tensor in operator.inputs.tolist():
            if tensor != -1 and tensor not in known:
                return f"operator {place} reads tensor {tensor} before it is written"
        for tensor in operator.outputs.tolist():
            if tensor in known:
                return f"operator {place} overwrites tensor {tensor}"
            known.add(tensor)
    missing = [tensor for tensor in graph.outputs.tolist() if tensor not in known]
    return f"nothing writes its output {missing[0]}" if missing else None


def _badly_scaled(model: SimpleNamespace, graph: SimpleNamespace) -> str | None:
    """Every int8 tensor has scales that are numbers, and those of an operator fit each other."""
    for tensor in graph.tensors:
        if flatbuffer.tensor_type(tensor) == "INT8" and not _has_scale(tensor):
            return f"int8 tensor {tensor.name!r} has no scale"
    for place, operator in enumerate(graph.operators):
        code = model.operator_codes[operator.opcode_index]
        weighted = max(code.builtin_code, code.deprecated_builtin_code) in _WEIGHTED
        tensors = [graph.tensors[index] for index in operator.inputs.tolist() if index != -1]
        scales = [_largest_scale(tensor) for tensor in tensors if flatbuffer.tensor_type(tensor) == "INT8"]
        for output in operator.outputs.tolist():
            if not scales or flatbuffer.tensor_type(graph.tensors[output]) != "INT8":
                continue
            ratio = max([math.prod(scales), *([] if weighted else scales)]) / _largest_scale(graph.tensors[output])
            if not ratio <= (_LARGEST_WEIGHTED_RATIO if weighted else _LARGEST_RATIO):
                return f"the scales of operator {place} are {ratio:.3g} apart"
    return None


def _has_scale(tensor: SimpleNamespace) -> bool:
    if tensor.quantization is None or not len(tensor.quantization.scale):
        return False
    scales, zero_points = tensor.quantization.scale.tolist(), tensor.quantization.zero_point.tolist()
    sound = all(0 < scale < math.inf for scale in scales) and all(-128 <= point <= 127 for point in zero_points)
    return sound and len(zero_points) in (0, len(scales))


def _largest_scale(tensor: SimpleNamespace) -> float:
    return max(tensor.quantization.scale.tolist())
