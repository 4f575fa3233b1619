"""Coral's Edge TPU: what its compiler wants of a file, found without it; the compiler itself, where there is one; its log.

Sources: "TensorFlow models on the Edge TPU" and "Edge TPU Compiler" (coral.ai/docs/edgetpu), compiler 16.0.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from dynnas_jax.export import flatbuffer, targets
from dynnas_jax.export.findings import Step

COMPILER = "edgetpu_compiler"
COMPILED_OP = "edgetpu-custom-op"  # what the compiler puts in the place of all it maps
ROOMY_BYTES = 6 * targets.MIB  # of the cache; the compiler needs some of the rest for itself
INSTALL = "coral.ai/docs/edgetpu/compiler says how to install it, on a 64-bit x86 Debian or Ubuntu"
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_INSTEAD = {
    "HARD_SWISH": "use ReLU6",
    "DEQUANTIZE": "export with int8 input and output",
    "GELU": "use ReLU6",
    "IF": "export each branch into a file of its own",
}

# Rules. What one of them finds wrong with an operator keeps it, and all behind it, off the Edge TPU.


def of_file(model: SimpleNamespace) -> Iterator[tuple[str, str]]:
    """(rule, what is wrong) with the file as a whole."""
    if len(model.subgraphs) != 1:
        names = ", ".join(flatbuffer.signatures(model)) or "without names"
        yield "subgraphs", f"it has {len(model.subgraphs)} subgraphs ({names}): export each into a file of its own"
        return
    graph = model.subgraphs[0]
    named = next(iter(flatbuffer.signatures(model).values()), flatbuffer.Signature(0, {}, {}))
    for what, indices, names in (("input", graph.inputs, named.inputs), ("output", graph.outputs, named.outputs)):
        names = {index: name for name, index in names.items()}
        for index in indices.tolist():
            kind = flatbuffer.tensor_type(graph.tensors[index])
            if kind != "INT8":
                name = names.get(index, graph.tensors[index].name)
                yield what, f"{what} {name!r} is {kind}, must be INT8: convert to full int8"


def of_step(step: Step, target: targets.Target) -> Iterator[tuple[str, str]]:
    """(rule, what is wrong) with one operator."""
    if step.name == COMPILED_OP:
        return
    yield from _types(step)
    yield from _shapes(step)
    yield from _operator(step, target)
    for rule in (_per_channel, _fused, _limits, _inside):
        yield from rule(step)


def _types(step: Step) -> Iterator[tuple[str, str]]:
    for tensor in step.activations():
        kind = flatbuffer.tensor_type(tensor)
        if kind != "INT8":
            yield "type", f"{tensor.name!r} is {kind}, must be INT8: everything that flows must be quantized"
    for tensor in step.constants():
        kind = flatbuffer.tensor_type(tensor)
        if kind not in ("INT8", "INT32"):
            yield "constant", f"the constant {tensor.name!r} is {kind}: weights must be INT8, biases INT32"


def _shapes(step: Step) -> Iterator[tuple[str, str]]:
    weights = step.tensors("inputs")[1:2] if step.name in _WEIGHTED else []
    for tensor in (*step.tensors("inputs"), *step.tensors("outputs")):
        shape = tensor.shape.tolist()
        if -1 in shape or -1 in tensor.shape_signature.tolist():
            open_shape = tensor.shape_signature.tolist() or shape
            yield "shape", f"the shape {open_shape} of {tensor.name!r} is open: export with a batch of 1"
        elif any(size > 1 for size in shape[:-3]) and not any(tensor is other for other in weights):
            yield "rank", f"{tensor.name!r} is {shape}: only the three inner sizes may be above 1"


def _operator(step: Step, target: targets.Target) -> Iterator[tuple[str, str]]:
    newest = target.ops.get(step.name)
    if newest is None:
        remedy = _INSTEAD.get(step.name)
        yield "operator", "the Edge TPU has no such operator" + (f": {remedy}" if remedy else "")
    elif step.version > newest:
        yield "version", f"version {step.version} is too new, the compiler knows {newest}: it will refuse the file"


def _per_channel(step: Step) -> Iterator[tuple[str, str]]:
    if step.name != "FULLY_CONNECTED":
        return
    for tensor in step.constants():
        scales = len(tensor.quantization.scale) if tensor.quantization else 0
        if scales > 1:
            yield "per_channel", f"{tensor.name!r} has {scales} scales, one per channel: a dense layer must have one"


def _fused(step: Step) -> Iterator[tuple[str, str]]:
    if step.name in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION") and step.option("activation"):
        yield "fused", "it has an activation fused into it: the activation must be an operator of its own"


def _limits(step: Step) -> Iterator[tuple[str, str]]:
    """What single operators may not do."""
    dilation = step.option("dilation_h", 1), step.option("dilation_w", 1)
    if step.name == "DEPTHWISE_CONV_2D" and dilation != (1, 1):
        yield "limit", f"a depthwise convolution dilated by {dilation}"
    if step.name == "CONV_2D" and dilation[0] != dilation[1]:
        yield "limit", f"a convolution dilated by {dilation}: both must be equal"
    if step.name == "FULLY_CONNECTED" and step.option("weights_format"):
        yield "limit", "its weights are in another order than the default one"
    numbers = step.values(1) if step.name in ("MEAN", "PAD") else None
    if step.name == "MEAN" and numbers is not None and not {axis % 4 for axis in numbers} <= {1, 2}:
        yield "limit", f"a mean over the axes {numbers}: only height and width (1, 2) can be reduced"
    if step.name == "PAD" and numbers is not None and any(numbers[:2] + numbers[6:]):
        yield "limit", f"padding by {numbers}: only height and width can be padded"


def _inside(step: Step) -> Iterator[tuple[str, str]]:
    for tensor in step.constants():
        if step.model.buffers[tensor.buffer].offset > 1 or tensor.external_buffer:
            yield "outside", f"the weights {tensor.name!r} are not inside the flatbuffer"


# The compiler.


class Compiled(NamedTuple):
    """What the compiler says of one model."""

    input: str  # a path in a log, a name of what `run_compiler` made
    output: str
    on_chip_bytes: int  # of parameters, cached
    free_bytes: int  # left of the cache
    off_chip_bytes: int  # of parameters, fetched from the host at every run
    subgraphs: int
    mapped: int  # operators on the Edge TPU
    unmapped: int  # operators on the CPU
    operators: tuple[tuple[str, int, str], ...]  # name, count, status; empty where the log does not show them


def command(paths: list[Path], folder: Path) -> str:
    """The command that compiles files together, so that they share the cache, into a folder."""
    return shlex.join(_arguments(paths, folder))


def _arguments(paths: list[Path], folder: Path) -> list[str]:
    return [COMPILER, "--show_operations", "--out_dir", str(folder), *map(str, paths)]


def is_installed() -> bool:
    """Whether the compiler is on the PATH."""
    return shutil.which(COMPILER) is not None


def run_compiler(paths: list[Path], folder: Path, *, timeout_s: float = 600) -> tuple[Compiled, ...]:
    """Compiles files together into `NAME_edgetpu.tflite` of an existing folder, all or none.

    Raises: ValueError if there is no compiler, with the command to run elsewhere; or if it refuses, with its reason.
    """
    if not is_installed():
        raise _absent(paths, folder)
    with tempfile.TemporaryDirectory(prefix=".compiling_", dir=folder) as scratch:
        try:
            done = subprocess.run(
                _arguments(paths, Path(scratch)),
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=timeout_s,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ValueError(f"{COMPILER} did not finish: {error}") from error
        outputs = [Path(scratch) / f"{Path(path).stem}_edgetpu.tflite" for path in paths]
        log = done.stdout + done.stderr
        if done.returncode or not all(output.is_file() for output in outputs):
            raise ValueError(f"{COMPILER} refuses {', '.join(Path(path).name for path in paths)}: {_reason(log)}")
        # The log has paths of the scratch folder.
        compiled = tuple(
            model._replace(input=Path(model.input).name, output=Path(model.output).name) for model in parse_log(log)
        )
        for output in outputs:
            flatbuffer.load(output)
        for output in outputs:
            os.replace(output, Path(folder) / output.name)
    return compiled


def _absent(paths: list[Path], folder: Path) -> ValueError:
    return ValueError(f"there is no {COMPILER} on the PATH; {INSTALL}; then run: {command(paths, folder)}")


def is_compiled(path: str | Path) -> bool:
    """Whether a file is what the compiler made. Raises ValueError for one that is damaged or none of TFLite."""
    return any(code.custom_code == COMPILED_OP for code in flatbuffer.load(path).operator_codes)


def compiled_or_command(paths: list[Path], *, must: bool = False) -> str:
    """What the compiler makes of files together, in lines to read and kept nowhere; without it, how to run it.

    Files that it made already are left out.

    Raises: ValueError if it refuses them, or leaves operators to the CPU; if it `must` be here, where it is not.
    """
    paths = [path for path in paths if not is_compiled(path)]
    if not paths:
        return f"nothing is left for {COMPILER} to do"
    if not is_installed():
        if must:
            raise _absent(paths, Path(paths[0]).parent)
        return f"there is no {COMPILER} here ({INSTALL}); then run\n  {command(paths, Path(paths[0]).parent)}"
    with tempfile.TemporaryDirectory() as folder:
        compiled = run_compiler(paths, Path(folder))
    insist(compiled)
    return "\n".join(
        f"{COMPILER}: {Path(model.input).name}: {model.mapped} operators mapped, parameters "
        f"{model.on_chip_bytes} bytes on chip, {model.off_chip_bytes} off chip"
        for model in compiled
    )


def insist(compiled: Sequence[Compiled]) -> None:
    """Raises ValueError where the compiler left operators to the CPU."""
    if any(model.unmapped for model in compiled):
        raise ValueError(
            f"{COMPILER} leaves {sum(model.unmapped for model in compiled)} operators to the CPU: {', '.join(unmapped(compiled))}"
        )


def unmapped(compiled: Sequence[Compiled]) -> list[str]:
    """The operators left to the CPU, each with why."""
    return [f"{name} ({status})" for model in compiled for name, _, status in model.operators if "Mapped" not in status]


_REASON = re.compile(r"^(ERROR|Compilation failed|Internal compiler error|Invalid model|Model not quantized).*", re.M)


def _reason(log: str) -> str:
    """The line of a log that says most of why nothing came out."""
    found = _REASON.search(log)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return found.group(0).strip() if found else (lines[-1] if lines else "it says nothing")


_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MODEL = re.compile(r"^Input(?: model)?: (.+)$", re.M)
_ROW = re.compile(r"^([A-Za-z0-9_-]+) {2,}(\d+) {2,}(\S.*?)\s*$", re.M)


def parse_log(log: str) -> tuple[Compiled, ...]:
    """The facts of each model in what the compiler prints, or in the operation log it writes beside a model.

    Raises: ValueError for a text that describes no model.
    """
    starts = [found.start() for found in _MODEL.finditer(log)]
    if not starts:
        raise ValueError(f"this is no log of {COMPILER}: it names no input model")
    return tuple(_parse(log[start:end]) for start, end in zip(starts, [*starts[1:], len(log)], strict=True))


def _parse(section: str) -> Compiled:
    rows = tuple((name, int(count), status) for name, count, status in _ROW.findall(section))
    total = int(_entry(section, "Total number of operations", sum(count for _, count, _ in rows)))
    in_rows = sum(count for _, count, status in rows if status.startswith("Mapped"))
    mapped = int(_entry(section, "Number of operations that will run on Edge TPU", in_rows if rows else total))
    return Compiled(
        input=_entry(section, r"Input(?: model)?", ""),
        output=_entry(section, r"Output(?: model)?", ""),
        on_chip_bytes=_size(_entry(section, "On-chip memory used for caching model parameters", "0.00B")),
        free_bytes=_size(_entry(section, "On-chip memory remaining for caching model parameters", "0.00B")),
        off_chip_bytes=_size(_entry(section, "Off-chip memory used for streaming uncached model parameters", "0.00B")),
        subgraphs=int(_entry(section, "Number of Edge TPU subgraphs", 0)),
        mapped=mapped,
        unmapped=int(_entry(section, "Number of operations that will run on CPU", total - mapped)),
        operators=rows,
    )


def _entry(section: str, name: str, default: str | int) -> str:
    found = re.search(rf"^{name}: *(.+?) *$", section, re.M)
    return found.group(1) if found else str(default)


def _size(text: str) -> int:
    """ "1.92MiB" in bytes."""
    found = re.fullmatch(r"([\d.]+) ?([KMG]i)?B", text)
    if not found:
        raise ValueError(f"{COMPILER}'s log has the size {text!r}, which is none")
    return round(float(found.group(1)) * _UNITS[(found.group(2) or "") + "B"])
