"""Whether LiteRT can be trusted with a graph: what it takes for granted, and may crash of where it is not so.

A copy of this module lies in every export folder. `flatbuffer.load` has seen to it that everything points into the file.
"""

from __future__ import annotations

import importlib.util
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


# Operators whose output has the size that an input names, and which inputs those are.
_SIZES = {
    "ARG_MAX ARG_MIN BROADCAST_TO EXPAND_DIMS MEAN MIRROR_PAD MULTINOMIAL ONE_HOT PAD PADV2 REDUCE_ALL REDUCE_ANY "
    "REDUCE_MAX REDUCE_MIN REDUCE_PROD RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RFFT2D SEGMENT_SUM "
    "SPARSE_TO_DENSE SUM TILE TOPK_V2 TRANSPOSE": (1,),
    "CONV_3D_TRANSPOSE FILL RANDOM_STANDARD_NORMAL RANDOM_UNIFORM SPLIT TRANSPOSE_CONV": (0,),
    "SCATTER_ND UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_SUM": (2,),
    "BATCH_TO_SPACE_ND SLICE SPACE_TO_BATCH_ND SPLIT_V": (1, 2),
    "RANGE": (0, 1, 2),
    "STRIDED_SLICE": (1, 2, 3),
}
_SIZES = {name: places for names, places in _SIZES.items() for name in names.split()}
# And those whose output's size follows from values, or grows from step to step.
_OPEN_SIZES = {
    *("EMBEDDING_LOOKUP_SPARSE", "IF", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "READ_VARIABLE"),
    *("STABLEHLO_CASE", "UNIQUE", "WHERE", "WHILE"),
}


def problem(model: SimpleNamespace) -> str | None:
    """What is wrong with a `flatbuffer.load`ed file, in words, or None."""
    for graph in model.subgraphs:
        total = sum(flatbuffer.count(tensor.shape) for tensor in graph.tensors)
        if total > MOST_VALUES:
            return f"its tensors have {total:,} values, more than any net of a small device"
        found = _misplaced(model, graph) or _badly_scaled(model, graph)
        if found:
            return found
    return _of_open_size(model)


def _of_open_size(model: SimpleNamespace) -> str | None:
    """Every size stands in the file, so that LiteRT takes the memory of a net when it opens it, and no more as it runs."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        return None  # nothing will run
    for number, graph in enumerate(model.subgraphs):
        for place, (name, operator, _) in enumerate(flatbuffer.operators(model, number)):
            sizes = [operator.inputs[at] for at in _SIZES.get(name, ()) if at < len(operator.inputs)]
            known = all(at == -1 or len(model.buffers[graph.tensors[at].buffer].data) for at in sizes)
            if name in _OPEN_SIZES or not known:
                return f"the size of what operator {place}, {name}, gives is known only as it runs"
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
