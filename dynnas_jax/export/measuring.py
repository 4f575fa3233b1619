"""What the files of an export do over a test split: accuracy, agreement with JAX, exits, latency; and which lose too much."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dynnas_jax import progress
from dynnas_jax.export import bench, engines, functions, machine, runtime, sqnr, tflite

TIMED_INPUTS = 100  # of a later step: what is passed on is large
SQNR_IMAGES = 32


class Reference(NamedTuple):
    """What JAX answers on the test split, int[m] each."""

    predictions: dict[str, np.ndarray]  # the class, of each function
    answers: np.ndarray  # the class that the network as a whole gives


class _Group(NamedTuple):
    """The files of one precision and format."""

    key: str  # "int8", "int8_onnx"
    facts: dict[str, dict]  # by function
    classifier: runtime.DynamicClassifier

    @property
    def nets(self) -> dict[str, engines.Model]:
        """What runs in turn, in order, then the nets that answer alone."""
        return {**{model.name: model for model in self.classifier.in_turn}, **self.classifier.whole}


def measure(
    folder: str | Path,
    facts: dict[str, dict],
    images: np.ndarray,
    labels: np.ndarray,
    reference: Reference,
    *,
    threads: int = 1,
    runs: int = bench.RUNS,
    warm_up: int = bench.WARM_UP,
) -> dict:
    """Runs exported files over a test split, image by image, on this machine.

    Args:
      folder, facts: of `dynamic.export`.
      images: uint8[m, h, w, c]; labels: int[m].
      threads: of LiteRT and onnxruntime; runs, warm_up: of each latency.

    Returns: the content of `export.json`: under "files" `facts`, with each one's `accuracy`, `accuracy_loss` against JAX,
      `latency_ms` (median), `latency_mean_ms` and `latency_spread_ms` (p10, p90); under "cascade" for each precision
      `accuracy`, `agreement_with_jax`, `exit_rate` [S] and the latencies of the whole decision; and what measured it. All are
      timed over the same images, drawn at random, since a cascade's mean depends on how many of them leave early.
    """
    if not len(images) == len(labels) == len(reference.answers) or len(images) == 0:
        counts = len(images), len(labels), len(reference.answers)
        raise ValueError("{} images, {} labels and {} JAX predictions: give one of each".format(*counts))
    files, cascade = {name: dict(fact) for name, fact in facts.items()}, {}
    groups = list(_groups(Path(folder), files, threads))
    timed = list(images[np.random.default_rng(0).permutation(len(images))[:runs]])
    calls = len(groups) * 2 * len(images)
    bar = tqdm(total=calls, desc="measuring the export", delay=5, disable=None)
    with bar, progress.counted("measuring", calls, "calls") as advance:

        def done_one() -> None:
            bar.update()
            advance()

        for group in groups:
            alone = group.nets if set(group.facts) & set(reference.predictions) else {}
            answers, right = _over(group, alone, images, labels, done_one)
            cascade[group.key] = _decisions(answers, labels, reference.answers, len(group.classifier.cost))
            cascade[group.key] |= _timed(group.classifier.predict, timed, runs, warm_up)
            for name, fact in group.facts.items():
                if name in reference.predictions:  # a router has none
                    accuracy, exact = right[name] / len(images), float(np.mean(reference.predictions[name] == labels))
                    fact |= {"accuracy": accuracy, "accuracy_loss": exact - accuracy}
                fact |= _timed(*bench.net_alone(group.nets[name], _inputs(group, name, timed)), runs, warm_up)
    about = {"threads": threads, "runs": runs, "warm_up": warm_up, "machine": machine.facts(), "versions": _versions()}
    return {"files": files, "cascade": cascade, **about}


def _groups(folder: Path, files: dict[str, dict], threads: int) -> Iterator[_Group]:
    """The files by what runs together: a precision, as TFLite or as ONNX."""
    for key in dict.fromkeys(name.removeprefix(f"{fact['function']}_") for name, fact in files.items()):
        own = {fact["function"]: fact for name, fact in files.items() if name == f"{fact['function']}_{key}"}
        first = folder / next(iter(own.values()))["path"]
        yield _Group(key, own, runtime.DynamicClassifier(first, threads=threads))


def _inputs(group: _Group, name: str, images: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What a net reads for these images; of one that reads what others made, fewer."""
    if set(group.nets[name].inputs) == {functions.IMAGE}:
        return [{functions.IMAGE: image} for image in images]
    return [group.classifier.inputs_of(name, image) for image in images[:TIMED_INPUTS]]


def _over(
    group: _Group, nets: dict[str, engines.Model], images: np.ndarray, labels: np.ndarray, done_one: Callable
) -> tuple[list, dict[str, int]]:
    """The network's answers to all images, and how many of them each of these nets gets right."""
    answers, right = [], dict.fromkeys(group.facts, 0)
    for image, label in zip(images, labels, strict=True):
        answers.append(group.classifier.predict(image))
        done_one()
        known = {functions.IMAGE: image}
        for name, model in nets.items():
            outputs = model.run({key: known[key] for key in model.inputs})
            if functions.LOGITS in outputs:
                right[name] += int(outputs[functions.LOGITS].argmax() == label)
            known |= outputs
        done_one()
    return answers, right


def _decisions(answers: list, labels: np.ndarray, jax_answers: np.ndarray, steps: int) -> dict:
    classes = np.array([answer.class_index for answer in answers])
    choices = np.array([answer.choice for answer in answers])
    return {
        "accuracy": float(np.mean(classes == labels)),
        "agreement_with_jax": float(np.mean(classes == jax_answers)),
        "exit_rate": [float(np.mean(choices == step)) for step in range(steps)],
    }


def _timed(call, inputs: Sequence, runs: int, warm_up: int) -> dict:
    """Median, mean and spread (p10, p90) of single calls."""
    latency = bench.timed(call, inputs, runs=runs, warm_up=warm_up)
    spread = [latency.p10_ms, latency.p90_ms]
    return {"latency_ms": latency.median_ms, "latency_mean_ms": latency.mean_ms, "latency_spread_ms": spread}


def _versions() -> dict[str, str]:
    """Of what made and what ran the files."""
    tensorflow = importlib.metadata.packages_distributions()["tensorflow"][0]  # tensorflow or tensorflow-cpu
    made = {"jax": importlib.metadata.version("jax"), "tensorflow": importlib.metadata.version(tensorflow)}
    return machine.versions() | made


class Loss(NamedTuple):
    """An int8 function that loses more accuracy than it may."""

    key: str  # in "files"
    function: str
    accuracy: float
    accuracy_loss: float


def losses(measured: dict, limit: float) -> list[Loss]:
    """The int8 functions of a `measure`d export whose accuracy is more than `limit` below JAX's, the worst first."""
    found = [
        Loss(key, fact["function"], fact["accuracy"], fact["accuracy_loss"])
        for key, fact in measured["files"].items()
        if fact["precision"] == "int8" and fact.get("accuracy_loss", 0.0) > limit
    ]
    return sorted(found, key=lambda loss: -loss.accuracy_loss)


def lossy_layers(
    network: functions.Network, names: Sequence[str], calibration: np.ndarray, images: int = SQNR_IMAGES
) -> list[sqnr.Layer]:
    """Every layer of these functions in int8, with what it loses, in running order.

    Args:
      calibration: uint8[n, h, w, c]: all set the scales, the first so many are compared.
    """
    inputs = functions.inputs(network, calibration)
    signatures = {name: tflite.Signature(*network.functions[name], inputs[name]) for name in dict.fromkeys(names)}
    with tempfile.TemporaryDirectory(prefix="dynnas_") as scratch, tflite.saved(signatures) as traced:
        files = {precision: Path(scratch) / f"{precision}.tflite" for precision in ("fp32", "int8")}
        for precision, path in files.items():
            traced.write(path, precision=precision)
        return [
            layer
            for name in signatures
            for layer in sqnr.layers(files["fp32"], files["int8"], name, functions.rows(inputs[name], images))
        ]
