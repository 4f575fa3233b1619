"""Whether ONNX files keep what a target promises of them: operators and their version, fixed shapes, weights inside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dynnas_jax.export import flatbuffer, onnx_file, targets
from dynnas_jax.export.findings import File, Finding, share_after


def of_file(path: Path, file: str, target: targets.Target) -> tuple[File, list[Finding]]:
    """What is counted and found in the file at `path`, which findings call `file`.

    Raises: ValueError for a target that runs no ONNX files, or a file that is absent, damaged or none of ONNX.
    """
    if target.name == "edgetpu":
        raise ValueError(f"{path}: the Edge TPU runs TFLite files alone")
    model = onnx_file.load(path)
    operators = onnx_file.operators(model)
    found = [Finding(rule, "error", text, file) for rule, text in _of_model(model, target)]
    if not target.onnx:
        text = f"exports for {target.name} are TFLite files: which operators of ONNX run there is not known"
        found.append(Finding("runtime", "warning", text, file))
    for operator in operators:
        for rule, text in _of_operator(operator, target):
            found.append(Finding(rule, "error", text, file, None, operator.index, operator.name))
    first = next((finding for finding in found if finding.index is not None), None)
    macs = [operator.macs or 0 for operator in operators]
    parameters_bytes = onnx_file.parameters_bytes(model)
    size_bytes = flatbuffer.size_bytes(path)
    after = share_after(first, macs)
    return File(file, size_bytes, parameters_bytes, len(operators), sum(macs), first, after), found


def _of_model(model, target: targets.Target) -> Iterator[tuple[str, str]]:
    """(rule, what is wrong) with a file as a whole."""
    asked = onnx_file.opset(model)
    if target.onnx_opset is not None and asked > target.onnx_opset:
        yield "version", f"opset {asked} is too new: {target.runtime} reads up to {target.onnx_opset}"
    for name in onnx_file.open_inputs(model):
        yield "shape", f"input {name} has no fixed shape"
    if names := onnx_file.elsewhere(model):
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        yield "weights", f"{names[0]}{more} stands in another file"


def _of_operator(operator: onnx_file.Operator, target: targets.Target) -> Iterator[tuple[str, str]]:
    """(rule, what is wrong) with one operator."""
    if target.onnx_ops is not None and operator.name not in target.onnx_ops:
        yield "operator", f"{target.runtime} reads no such one"
    elif operator.macs is None:
        yield "shape", onnx_file.unshaped(operator)
