"""Whether TFLite and ONNX files keep what a target promises: operators and their versions, memory, the Edge TPU's own rules.

Reads the file alone: neither TensorFlow nor a compiler is needed, for ONNX files its own package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from dynnas_jax.export import edgetpu, flatbuffer, onnx_lint, targets
from dynnas_jax.export.findings import File, Finding, Step, share_after, steps

_ACTIVATIONS = {"HARD_SWISH": "hswish"}  # that LiteRT has an operator for, by the name a space knows them by


class Findings(NamedTuple):
    """What lint found in files that are to run together on a target."""

    target: targets.Target
    files: tuple[File, ...]
    found: tuple[Finding, ...]  # by file, then in the order the operators run

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The promises that are broken."""
        return tuple(finding for finding in self.found if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What will run, but not well."""
        return tuple(finding for finding in self.found if finding.level == "warning")

    def insist(self) -> None:
        """Raises ValueError with the first broken promise, in one line, and how many follow."""
        if self.errors:
            more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
            raise ValueError(f"target {self.target.name}: {self.errors[0].line()}{more}")

    def facts(self) -> dict:
        """All of it, JSON-able."""
        files = [
            file._replace(first_unmapped=file.first_unmapped and file.first_unmapped._asdict())._asdict()
            for file in self.files
        ]
        return {"target": self.target.name, "files": files, "findings": [finding._asdict() for finding in self.found]}

    def text(self) -> str:
        """The findings as lines to read, file by file."""
        lines = [f"target {self.target.name}: {self.target.device}; {self.target.runtime}"]
        for file in self.files:
            lines += ["", *_lines(file, [finding for finding in self.found if finding.file == file.name])]
        total = sum(file.parameters_bytes for file in self.files)
        if len(self.files) > 1:
            lines += ["", *(finding.line() for finding in self.found if finding.file == _together(self.files))]
        if self.target.memory_bytes is not None:
            lines.append(f"parameters: {_size(total)} of {_size(self.target.memory_bytes)}")
        lines.append(f"{_count(self.errors, 'error')}, {_count(self.warnings, 'warning')}")
        return "\n".join(lines)


def _lines(file: File, found: list[Finding]) -> Iterator[str]:
    yield f"{file.name}: {file.operators} operators, {file.macs:,} MACs, {_size(file.parameters_bytes)} of parameters"
    for finding in found:
        where = "" if finding.index is None else f"operator {finding.index} {finding.op}: "
        signature = "" if finding.signature is None else f"signature {finding.signature!r}, "
        yield f"  {finding.level:<7} [{finding.rule}] {signature}{where}{finding.text}"
    if file.first_unmapped is not None:
        first = f"operator {file.first_unmapped.index} {file.first_unmapped.op}"
        yield f"  the first that does not run there is {first}; with it and behind it are {file.macs_after:.1%} of the MACs"


def _count(findings: tuple[Finding, ...], what: str) -> str:
    return f"{len(findings)} {what}{'' if len(findings) == 1 else 's'}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.1f} KiB" if size_bytes < targets.MIB else f"{size_bytes / targets.MIB:.2f} MiB"


def lint(paths: str | Path | Iterable[str | Path], target: str) -> Findings:
    """Holds files to a target's promises.

    Args:
      paths: a file, or several that run together (a co-compiled pair): they share the target's memory.
      target: a name of `targets.TARGETS`.

    Raises: ValueError for an unknown target, or a file that is absent, damaged or none of TFLite or ONNX; an ONNX
      file for a target that runs none.
    """
    wanted = targets.target(target)
    paths = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    files, found = [], []
    for path in paths:
        alone = sum(path.name == other.name for other in paths) == 1
        file, own = _lint_file(path, path.name if alone else str(path), wanted)
        files.append(file)
        found += own
    return Findings(wanted, tuple(files), (*found, *_memory(wanted, files)))


def check(paths: str | Path | Iterable[str | Path], target: str) -> Findings:
    """As `lint`. Raises ValueError for the first broken promise too."""
    found = lint(paths, target)
    found.insist()
    return found


def _lint_file(path: Path, file: str, target: targets.Target) -> tuple[File, list[Finding]]:
    """What is counted and found in the file at `path`, which findings call `file`."""
    if path.suffix == ".onnx":
        return onnx_lint.of_file(path, file, target)
    model = flatbuffer.load(path)
    of_file, of_step = (edgetpu.of_file, edgetpu.of_step) if target.name == "edgetpu" else (_any_file, _any_step)
    found = [Finding(rule, "error", text, file) for rule, text in of_file(model)]
    names = {signature.subgraph: name for name, signature in flatbuffer.signatures(model).items()}
    every, first, macs_after = [], None, 0.0
    for number in range(len(model.subgraphs)):
        name = names.get(number, str(number)) if len(model.subgraphs) > 1 else None
        chain = list(steps(model, number))
        own = [finding for step in chain for finding in _of_step(step, (file, name), of_step, target)]
        broken = [finding for finding in own if finding.level == "error"]
        if broken and first is None:
            first, macs_after = broken[0], share_after(broken[0], [step.macs for step in chain])
        every += chain
        found += own
    counted = (flatbuffer.size_bytes(path), _parameters_bytes(every), len(every), sum(step.macs for step in every))
    return File(file, *counted, first, macs_after), found


def _of_step(step: Step, place: tuple, rules: Callable, target: targets.Target) -> Iterator[Finding]:
    """What is said of one operator: of each rule the first it breaks; how to be faster only where it breaks none."""
    level, found = "error", list(rules(step, target))
    if not found:
        level, found = "warning", list(_advice(step, target))
    firsts = dict(reversed(found))
    for rule in dict(found):
        yield Finding(rule, level, firsts[rule], *place, step.index, step.name)


def _any_file(model: SimpleNamespace) -> Iterator[tuple[str, str]]:
    """Targets other than the Edge TPU take any number of subgraphs and any type."""
    return iter(())


def _any_step(step: Step, target: targets.Target) -> Iterator[tuple[str, str]]:
    """(rule, what is wrong) with one operator, where the target's table alone decides."""
    newest = (target.ops or targets.LITERT_OPS).get(step.name)
    if newest is None:
        yield "operator", f"LiteRT has no such operator on {target.name}"
    elif step.version > newest:
        yield "version", f"version {step.version} is too new: LiteRT on {target.name} knows {newest}"


def _advice(step: Step, target: targets.Target) -> Iterator[tuple[str, str]]:
    """(rule, what will be slow) of one operator."""
    space = target.advice or target.space
    if step.name == "DEPTHWISE_CONV_2D" and space.kernels and len(step.tensors("inputs")) > 1:
        sides = step.tensors("inputs")[1].shape.tolist()[1:3]
        if any(side > max(space.kernels) for side in sides):
            kernel = "x".join(map(str, sides))
            yield "kernel", f"a {kernel} depthwise convolution is slow there: use {_either(space.kernels)}"
    activation = _ACTIVATIONS.get(step.name)
    quantized = any(flatbuffer.tensor_type(tensor) == "INT8" for tensor in step.activations())
    if activation and quantized and space.activations and activation not in space.activations:
        yield "activation", f"{activation} is slow there in int8: use {_either(space.activations)}"


def _either(choices: tuple) -> str:
    return " or ".join(str(choice) for choice in choices)


def _parameters_bytes(every: list[Step]) -> int:
    """The constants that operators read; what several of them share counts once."""
    sizes = {}
    for step in every:
        for tensor in step.constants():
            buffer = step.model.buffers[tensor.buffer]
            sizes[tensor.buffer, tensor.external_buffer] = max(len(buffer.data), buffer.size)
    return sum(sizes.values())


def _memory(target: targets.Target, files: list[File]) -> Iterator[Finding]:
    total, limit = sum(file.parameters_bytes for file in files), target.memory_bytes
    together = " together" if len(files) > 1 else ""
    if limit is not None and total > limit:
        text = f"{_size(total)} of parameters{together} do not fit in {_size(limit)}"
        if target.name == "edgetpu":
            text += ": the Edge TPU would fetch the rest from the host at every run"
        yield Finding("memory", "error", text, _together(files))
    elif target.name == "edgetpu" and total > edgetpu.ROOMY_BYTES:
        text = f"{_size(total)} of parameters{together} come near the cache's {_size(limit)}, of which the compiler needs a part"
        yield Finding("memory", "warning", text, _together(files))


def _together(files: Sequence[File]) -> str:
    return ", ".join(file.name for file in files)
