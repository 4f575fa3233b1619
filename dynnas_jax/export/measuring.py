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
from dynnas_jax.workdir import write_json

TIMED_INPUTS = 100  # of a later step: what is passed on is large
SQNR_IMAGES = 32
LAYERS_FILE = "int8_layers.json"  # which layers lose most, where int8 loses too much
_LINES = 3  # layers that a message names
DECISION = "decision"  # the network as a whole, among what loses too much
# A routing has collapsed where more than this part of what it saves in JAX is lost, and no small number of images is to blame.
MOST_SAVING_LOST, LEAST_LOST = 0.5, 0.01  # the second as a part of the dearest choice


class Reference(NamedTuple):
    """What JAX answers on the test split, int[m] each."""

    predictions: dict[str, np.ndarray]  # the class, of each function
    answers: np.ndarray  # the class that the network as a whole gives
    macs: float | None = None  # what that costs an image, on average; None: the files are not held to it


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
      `latency_ms` (median), `latency_p95_ms`, `latency_mean_ms` and `latency_spread_ms` (p10, p90); under "cascade" for each
      precision `accuracy`, `accuracy_loss`, `agreement_with_jax`, `exit_rate` [S], `macs` of an image on average, `macs_in_jax`,
      `most_macs` (of the dearest choice) and the latencies of the whole decision; and what measured it. All are timed over the
      same images, drawn at random, since a cascade's mean depends on how many of them leave early.
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
            cascade[group.key] = _decisions(answers, labels, reference, group.classifier.cost)
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


def _decisions(answers: list, labels: np.ndarray, reference: Reference, cost: Sequence[int]) -> dict:
    classes = np.array([answer.class_index for answer in answers])
    choices = np.array([answer.choice for answer in answers])
    accuracy = float(np.mean(classes == labels))
    return {
        "accuracy": accuracy,
        "accuracy_loss": float(np.mean(reference.answers == labels)) - accuracy,
        "agreement_with_jax": float(np.mean(classes == reference.answers)),
        "exit_rate": [float(np.mean(choices == step)) for step in range(len(cost))],
        "macs": float(np.mean(np.asarray(cost, np.float64)[choices])),
        "macs_in_jax": reference.macs,
        "most_macs": max(cost),
    }


def _timed(call, inputs: Sequence, runs: int, warm_up: int) -> dict:
    """Median, 95th percentile, mean and spread (p10, p90) of single calls."""
    latency = bench.timed(call, inputs, runs=runs, warm_up=warm_up)
    spread = [latency.p10_ms, latency.p90_ms]
    middle = {"latency_ms": latency.median_ms, "latency_p95_ms": latency.p95_ms, "latency_mean_ms": latency.mean_ms}
    return {**middle, "latency_spread_ms": spread}


def _versions() -> dict[str, str]:
    """Of what made and what ran the files."""
    tensorflow = importlib.metadata.packages_distributions()["tensorflow"][0]  # tensorflow or tensorflow-cpu
    made = {"jax": importlib.metadata.version("jax"), "tensorflow": importlib.metadata.version(tensorflow)}
    return machine.versions() | made


class Loss(NamedTuple):
    """A function, or the network as a whole, that loses more than it may."""

    key: str  # in "files"; of the network as a whole in "cascade"
    function: str  # or `DECISION`
    precision: str
    accuracy: float
    accuracy_loss: float
    text: str  # what it loses, in words


def losses(measured: dict, limit: float) -> list[Loss]:
    """What of a `measure`d export loses more against JAX than it may: functions, the worst first, then whole decisions.

    Of every precision but fp32, whose outputs are compared one by one, the functions' accuracy may be `limit` lower than JAX's.
    So may that of the whole decision, which the thresholds and the routing make, in every precision; and it may not lose most
    of the MACs that it saves in JAX, as a router does whose score has collapsed. A `limit` of 1 lets everything pass.
    """
    found = [
        _lost(key, fact["function"], fact["precision"], fact, key)
        for key, fact in measured["files"].items()
        if fact["precision"] != "fp32" and fact.get("accuracy_loss", 0.0) > limit
    ]
    decisions = {key: cascade for key, cascade in measured["cascade"].items() if len(cascade["exit_rate"]) > 1}
    lossy, spending = [], []
    for key, cascade in decisions.items():
        precision, words = key.removesuffix("_onnx"), f"the whole decision in {key}"
        if cascade["accuracy_loss"] > limit:
            lossy.append(_lost(key, DECISION, precision, cascade, words))
        elif limit < 1 and _has_collapsed(cascade):
            spending.append(_spent(key, precision, cascade, words))
    return [*sorted(found, key=_worst), *sorted(lossy, key=_worst), *spending]


def _worst(loss: Loss) -> float:
    return -loss.accuracy_loss


def _lost(key: str, function: str, precision: str, fact: dict, words: str) -> Loss:
    points = f"{words} loses {100 * fact['accuracy_loss']:.2f} points of accuracy on the test split"
    return Loss(key, function, precision, fact["accuracy"], fact["accuracy_loss"], points)


def _has_collapsed(cascade: dict) -> bool:
    if cascade["macs_in_jax"] is None:
        return False
    lost, saved = (cascade[key] - cascade["macs_in_jax"] for key in ("macs", "most_macs"))
    return lost > MOST_SAVING_LOST * saved and lost > LEAST_LOST * cascade["most_macs"]


def _spent(key: str, precision: str, cascade: dict, words: str) -> Loss:
    spent, exact, most = (cascade[name] / 1e6 for name in ("macs", "macs_in_jax", "most_macs"))
    text = (
        f"{words} costs {spent:.3f} M MACs an image, {exact:.3f} M in JAX and {most:.3f} M at most: most of what it should "
        "save is lost"
    )
    return Loss(key, DECISION, precision, cascade["accuracy"], cascade["accuracy_loss"], text)


def insist(
    measured: dict, limit: float, network: functions.Network, calibration: np.ndarray, where: Path, *, of: str = ""
) -> None:
    """Raises ValueError for what loses more than it may (see `losses`), in one line that begins with `of`.

    Where that is in int8, the table of what its layers add goes to `where`, the folder in which the files would have stood.
    """
    lossy = losses(measured, limit)
    if not lossy:
        return
    first, more = lossy[0], f" (as {len(lossy) - 1} more do)" if len(lossy) > 1 else ""
    allowed = f", more than export.max_accuracy_loss={limit} allows" if first.accuracy_loss > limit else ""
    parts = [tuple(network.in_turn) if loss.function == DECISION else (loss.function,) for loss in lossy]
    blamed = [name for loss, names in zip(lossy, parts, strict=True) if loss.precision == "int8" for name in names]
    if not blamed:
        raise ValueError(f"{of}{first.text}{more}{allowed}; leave {first.precision} out of export.precisions")
    layers, found = lossy_layers(network, blamed, calibration), [loss._asdict() for loss in lossy]
    write_json(where / LAYERS_FILE, {"max_accuracy_loss": limit, "files": found, "layers": sqnr.facts(layers)})
    noisiest = "; ".join(map(sqnr.line, sqnr.worst(layers, _LINES)))
    raise ValueError(
        f"{of}{first.text}{more}{allowed}; in int8 most noise is added by {noisiest}; all layers: {where / LAYERS_FILE}"
    )


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
