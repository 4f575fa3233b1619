"""What lint says of a file, and what its rules look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import NamedTuple

from dynnas_jax.export import flatbuffer


class Finding(NamedTuple):
    """One promise that a file breaks ("error"), or what will cost more than it should ("warning")."""

    rule: str  # "operator", "version", "shape", ...
    level: str
    text: str
    file: str
    signature: str | None = None  # where the file has several
    index: int | None = None  # of the operator, in the order they run; None: the file as a whole
    op: str | None = None

    def line(self) -> str:
        """The finding in one line."""
        signature = f", signature {self.signature!r}" if self.signature is not None else ""
        where = "" if self.index is None else f": operator {self.index} {self.op}"
        return f"{self.file}{signature}{where}: {self.text}"


class File(NamedTuple):
    """What was counted in one file."""

    name: str
    size_bytes: int
    parameters_bytes: int  # weights and other constants, each once
    operators: int
    macs: int
    first_unmapped: Finding | None  # the first operator that the target does not run
    macs_after: float  # share of the MACs from that operator on, 0 to 1


def share_after(first: Finding | None, macs: Sequence[int]) -> float:
    """The share of the MACs, of operators in their order, that an operator and those behind it have; 0 for None."""
    return 0.0 if first is None else sum(macs[first.index :]) / max(sum(macs), 1)


class Step(NamedTuple):
    """One operator, with all that rules ask about it."""

    index: int
    name: str  # builtin name, or a custom operator's own
    version: int
    operator: SimpleNamespace
    graph: SimpleNamespace
    model: SimpleNamespace

    def tensors(self, which: str) -> list[SimpleNamespace]:
        """The operator's "inputs" or "outputs"; what is left out is not among them."""
        return [self.graph.tensors[n] for n in getattr(self.operator, which) if n >= 0]

    def is_constant(self, tensor: SimpleNamespace) -> bool:
        """Whether the tensor's values stand in the file (or, for a large file, behind it)."""
        buffer = self.model.buffers[tensor.buffer]
        return len(buffer.data) > 0 or buffer.offset > 1 or tensor.external_buffer > 0

    def activations(self) -> list[SimpleNamespace]:
        """What flows in and out."""
        return [t for t in (*self.tensors("inputs"), *self.tensors("outputs")) if not self.is_constant(t)]

    def constants(self) -> list[SimpleNamespace]:
        """What is fixed: weights, biases, axes."""
        return [tensor for tensor in self.tensors("inputs") if self.is_constant(tensor)]

    def values(self, position: int) -> list[int] | None:
        """The numbers of a constant int32 input, None where there is none."""
        if position >= len(self.operator.inputs) or self.operator.inputs[position] < 0:
            return None
        tensor = self.graph.tensors[self.operator.inputs[position]]
        data = self.model.buffers[tensor.buffer].data
        known = len(data) and len(data) % 4 == 0 and flatbuffer.tensor_type(tensor) == "INT32"
        return data.view("<i4").tolist() if known else None

    def option(self, name: str, default: int = 0) -> int:
        """An option of the operator, where its kind has one of that name."""
        return getattr(self.operator.builtin_options, name, default)

    @property
    def macs(self) -> int:
        """MACs of one run."""
        return flatbuffer.operator_macs(self.name, self.operator, self.graph)


def steps(model: SimpleNamespace, subgraph: int) -> Iterator[Step]:
    """The operators of one subgraph, in the order they run."""
    for index, (name, operator, graph) in enumerate(flatbuffer.operators(model, subgraph)):
        version = model.operator_codes[operator.opcode_index].version
        yield Step(index, name, version, operator, graph, model)
