"""Times many TFLite models beside each other, in rounds that a noisy machine disturbs alike: numpy and ai-edge-litert only.

In every round each model gets one short burst of runs, in an order of its own; a disturbance then falls on one round of many
models, not on all rounds of one. Every finished round is a line of a file, from which an interrupted measurement goes on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

BURST_S = 1e-3  # what one model gets of a round
MOST = 100  # runs of a burst


class Invocation:
    """A TFLite model whose call is one run of LiteRT, on random inputs."""

    def __init__(self, content: bytes, threads: int = 1):
        """Args: content: a file of one signature; threads: of LiteRT."""
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._interpreter.allocate_tensors()
        generator = np.random.default_rng(0)
        for tensor in self._interpreter.get_input_details():
            drawn = generator.integers(-128, 128, tensor["shape"])
            values = drawn / 64 if tensor["dtype"] is np.float32 else drawn
            self._interpreter.set_tensor(tensor["index"], values.astype(tensor["dtype"]))
        self.run = self._interpreter.invoke


def burst(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Milliseconds of a call behind one that warms the caches: the median of as many as fill `BURST_S`, or of one longer one."""

    def once() -> float:
        start = clock()
        run()
        return clock() - start

    run()
    first = once()
    if first >= BURST_S:
        return first * 1e3
    return float(np.median([once() for _ in range(min(math.ceil(BURST_S / max(first, 1e-9)), MOST))])) * 1e3


def measure(
    runs: Sequence[Callable[[], object]],
    path: str | Path,
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    tick: Callable[[int], object] = lambda _: None,
) -> np.ndarray:
    """Milliseconds float64[rounds, n] of n models, one burst a round.

    Args:
      runs: one run of each model.
      path: of the finished rounds, one JSON list a line; those found there are not done again.
      tick: called with the number of bursts that are done.

    Raises:
      ValueError: if the file holds rounds of another number of models.
    """
    path = Path(path)
    done = read(path, len(runs))[:rounds]
    tick(len(done) * len(runs))
    with path.open("a") as file:
        for number in range(len(done), rounds):
            found = np.empty(len(runs))
            for index in np.random.default_rng(number).permutation(len(runs)):
                found[index] = burst(runs[index], clock)
                tick(1)
            done.append(found.tolist())
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    return np.asarray(done)


def read(path: Path, models: int) -> list[list[float]]:
    """The whole rounds of a file; a line that was cut off, and what follows, is taken out of it."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found: list[list[float]] = []
    for line in lines:
        if not line.endswith("\n"):
            path.write_text("".join(lines[: len(found)]))
            break
        found.append(json.loads(line))
    if any(len(row) != models for row in found):
        raise ValueError(f"{path} holds rounds of other models; remove it")
    return found


def typical(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lower quartile, standard deviation from the quartiles) over the rounds float64[rounds, n].

    The lower quartile, since disturbances only ever add: on a busy machine it is found again where the median is not.
    """
    low, high = np.percentile(samples, (25, 75), axis=0)
    return low, (high - low) / 1.349


def cut(content: bytes) -> dict[str, bytes]:
    """The signatures of a file by name, each as a file of its own: LiteRT runs a file's first graph with the least ado."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, found = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0)), {}
    graphs, buffers = model.subgraphs, model.buffers
    for signature in model.signatureDefs:
        graph = graphs[signature.subgraphIndex]
        used = [0, *sorted({tensor.buffer for tensor in graph.tensors} - {0})]  # buffer 0 is the empty one
        own = {old: new for new, old in enumerate(used)}
        before = [tensor.buffer for tensor in graph.tensors]
        for tensor in graph.tensors:
            tensor.buffer = own[tensor.buffer]
        signature.subgraphIndex, model.signatureDefs, model.subgraphs = 0, [signature], [graph]
        model.buffers, model.metadata = [buffers[old] for old in used], []
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        found[signature.signatureKey.decode()] = bytes(builder.Output())
        for tensor, old in zip(graph.tensors, before, strict=True):
            tensor.buffer = old
    return found
