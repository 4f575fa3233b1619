"""Which layers of an int8 file lose most: its activations against those of the fp32 file, layer by layer.

    SQNR = 10 log10(sum x^2 / sum (x - y)^2) dB,  x in fp32, y in int8 times its scale

The noise at a layer is its own and what came in with its inputs; what it adds is the difference, as a share of the signal.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax.export import flatbuffer
from dynnas_jax.export.engines import Tensor

# Only these stand in an int8 file and not in its fp32 twin.
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


class Layer(NamedTuple):
    """One operator of a signature."""

    signature: str
    index: int  # in the order the operators run
    operator: str  # builtin name
    name: str  # of its output
    sqnr_db: float  # inf where nothing is lost
    added_noise: float  # noise over signal behind the operator, less that of its noisiest input


class _Graph(NamedTuple):
    """A signature's operators, and an interpreter that keeps all of its tensors."""

    interpreter: object
    runner: object
    subgraph: int
    operators: list  # (builtin name, operator)
    tensors: list


def layers(exact: str | Path, rounded: str | Path, signature: str, inputs: Sequence[dict]) -> list[Layer]:
    """The layers of a signature in the order they run, pooled over all inputs.

    Args:
      exact, rounded: the same signature converted as fp32 and as int8.
      inputs: real inputs, each by input name: uint8 or float32, with or without the batch (1).

    Raises: ValueError if a file is damaged or lacks the signature, or if they are not of one network.
    """
    if not inputs:
        raise ValueError(f"{signature}: comparing layers needs at least one input")
    graphs = _graph(Path(exact), signature), _graph(Path(rounded), signature)
    pairs = list(_twins(*graphs))
    sums = np.zeros((len(graphs[1].tensors), 2))  # signal, noise of each tensor of the int8 graph
    for values in inputs:
        for graph in graphs:
            _run(graph, values)
        for mine, twin in pairs:
            real = _values(graphs[0], twin)
            sums[mine] += np.square(real).sum(), np.square(real - _values(graphs[1], mine)).sum()
    noise = np.divide(sums[:, 1], sums[:, 0], out=np.zeros(len(sums)), where=sums[:, 0] > 0)
    return list(_layers(graphs[1], noise, signature, {mine for mine, _ in pairs}))


def _layers(graph: _Graph, noise: np.ndarray, signature: str, known: set[int]) -> Iterator[Layer]:
    for index, (name, operator) in enumerate(graph.operators):
        output = int(operator.outputs[0])
        if output in known:
            before = max((noise[i] for i in operator.inputs if i in known), default=0.0)
            decibels = -10 * np.log10(noise[output]) if noise[output] > 0 else np.inf
            label = graph.tensors[output].name
            yield Layer(signature, index, name, label, float(decibels), float(noise[output] - before))


def decibels(signal: np.ndarray, other: np.ndarray) -> float:
    """10 log10 of the signal's power over that of the difference; no number where either holds none."""
    return float(10 * np.log10(np.square(signal).sum() / max(np.square(signal - other).sum(), 1e-30)))


def worst(found: Sequence[Layer], count: int = 3) -> list[Layer]:
    """The layers that add most noise, the worst first."""
    return sorted(found, key=lambda layer: -layer.added_noise)[:count]


def line(layer: Layer) -> str:
    """A layer in a few words."""
    return f"{layer.signature} operator {layer.index} {layer.operator}{_place(layer.name)}: SQNR {layer.sqnr_db:.1f} dB"


def _place(name: str) -> str:
    """The modules that an operator's output comes from, where its name tells them."""
    paths = [
        path.split("/") for path in name.split(";")
    ]  # what was fused into one operator, each with its primitive last
    modules = max((path[1:-1] for path in paths), key=len)
    return f" ({'/'.join(modules)})" if modules else ""


def facts(found: Sequence[Layer]) -> list[dict]:
    """The layers, JSON-able: an SQNR without noise is None."""
    return [layer._asdict() | {"sqnr_db": layer.sqnr_db if np.isfinite(layer.sqnr_db) else None} for layer in found]


def _graph(path: Path, signature: str) -> _Graph:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    model = flatbuffer.load(path)
    known = flatbuffer.signatures(model)
    if signature not in known:
        raise ValueError(f"{path.name} has no signature {signature!r}, choose from {list(known)}")
    subgraph = known[signature].subgraph
    interpreter = Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=True,
        # XNNPACK keeps what happens inside to itself.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    operators = [(name, operator) for name, operator, _ in flatbuffer.operators(model, subgraph)]
    runner = interpreter.get_signature_runner(signature)
    return _Graph(interpreter, runner, subgraph, operators, model.subgraphs[subgraph].tensors)


def _twins(exact: _Graph, rounded: _Graph) -> Iterator[tuple[int, int]]:
    """(tensor of the int8 graph, the same of the fp32 one): the inputs, then the operators' outputs in running order."""
    mine, twin = ([row for row in graph.operators if row[0] not in _CONVERSIONS] for graph in (rounded, exact))
    if [name for name, _ in mine] != [name for name, _ in twin]:
        raise ValueError("the fp32 and the int8 file do not run the same operators: convert both from one network")
    for name, details in rounded.runner.get_input_details().items():
        yield details["index"], exact.runner.get_input_details()[name]["index"]
    for (_, first), (_, second) in zip(mine, twin, strict=True):
        yield int(first.outputs[0]), int(second.outputs[0])


def _run(graph: _Graph, values: dict) -> None:
    stored = {}
    for name, details in graph.runner.get_input_details().items():
        real = np.asarray(values[name], np.float32).reshape(details["shape"])
        scale, zero_point = details["quantization"]
        stored[name] = Tensor((), "int8", scale, zero_point).quantise(real) if scale else real
    graph.runner(**stored)


def _values(graph: _Graph, index: int) -> np.ndarray:
    """A tensor's real values, float64, in which sums of many squares are exact enough."""
    stored = graph.interpreter.get_tensor(index, graph.subgraph).astype(np.float64)
    quantization = graph.tensors[index].quantization
    if quantization is None or not len(quantization.scale):
        return stored
    return (stored - float(quantization.zero_point[0])) * float(quantization.scale[0])
