"""Exports a dynamic pair as files of one folder, holds each to its promises, and measures what they do."""

import importlib.metadata
import itertools
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from dynnas_jax import confidence
from dynnas_jax.export import flatbuffer, runtime, tflite

METADATA_VERSION = 1
POLICY = "first_above"  # the first choice whose score is strictly above its threshold answers, else the last
PARITY_IMAGES = 16
TIMED_STEMS = 100  # stem tensors are large


class _Part(NamedTuple):
    """One net to export, and real inputs of it."""

    name: str
    function: Callable  # f32[1, ...] -> logits[1, C], or (logits, stem)
    inputs: np.ndarray  # [n, ...] uint8 or float32


def export_pair(
    little: Callable,
    big_after_stem: Callable,
    big: Callable,
    *,
    image_shape: tuple[int, int, int],
    folder: str | Path,
    calibration: np.ndarray,
    metadata: dict,
    macs: dict[str, int],
    precisions: tuple[str, ...] = tflite.PRECISIONS,
    tolerance: float = 1e-4,
) -> dict[str, dict]:
    """Writes `{little,big_after_stem,big}_{precision}.tflite`, all or none, and the device's run time beside them.

    Args:
      little: images float32[1, h, w, c] in [0, 255] -> (logits[1, C], stem[1, ...]).
      big_after_stem: stem[1, ...] -> logits[1, C]; big: images -> logits[1, C]. All closed over their variables.
      image_shape: h, w, c; folder: made if it is absent.
      calibration: uint8[n, h, w, c] real training images: they set the int8 scales and check the logits.
      metadata: `labels` [C], `cost` [2] (MACs spent when choice s answers), `score` (of `confidence.SCORES`),
        `thresholds` [1]; further JSON-able entries are carried along.
      macs: of the three, by name, counted by JAX; tolerance: the largest difference between a fp32 file and JAX.

    Returns: {"little_fp32": {"path", "size_bytes", "macs", "ops", "max_logit_difference"}, ...}.
    Raises: ValueError if an argument is wrong or a file breaks a promise (operators, MACs, logits); OSError.
    """
    _check_arguments(image_shape, calibration, metadata)
    functions = {"little": little, "big_after_stem": big_after_stem, "big": big}
    inputs = {name: calibration for name in functions} | {"big_after_stem": _stems(little, calibration)}
    facts = {}
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unchecked_", dir=folder) as unchecked:
        for precision, name in itertools.product(precisions, functions):
            path, part = Path(unchecked) / f"{name}_{precision}.tflite", _Part(name, functions[name], inputs[name])
            facts[path.stem] = _export(part, path, precision, metadata, macs[name], tolerance)
        for path in Path(unchecked).iterdir():
            os.replace(path, Path(folder) / path.name)
    write_runtime(folder)
    return facts


def _check_arguments(image_shape: tuple[int, int, int], calibration: np.ndarray, metadata: dict) -> None:
    if calibration.dtype != np.uint8 or tuple(calibration.shape[1:]) != tuple(image_shape) or len(calibration) == 0:
        raise ValueError(
            f"calibration is {calibration.dtype}{list(calibration.shape)}, but must be uint8 {['n', *image_shape]}"
        )
    missing = [key for key in ("labels", "cost", "score", "thresholds") if key not in metadata]
    if missing:
        raise ValueError(f"the export's metadata lacks {', '.join(missing)}")
    if metadata["score"] not in confidence.SCORES:
        raise ValueError(f"score {metadata['score']!r} is unknown: use one of {', '.join(confidence.SCORES)}")
    if len(metadata["cost"]) != 2 or len(metadata["thresholds"]) != 1:
        raise ValueError(
            f"a pair has 2 costs and 1 threshold, not {len(metadata['cost'])} and {len(metadata['thresholds'])}"
        )


def _stems(little: Callable, images: np.ndarray) -> np.ndarray:
    """The stem's outputs, float32[n, ...], one image at a time as the device sees them."""
    with jax.default_matmul_precision("highest"):
        return np.concatenate([np.asarray(little(image[None].astype(np.float32))[1]) for image in images])


def _export(part: _Part, path: Path, precision: str, metadata: dict, macs: int, tolerance: float) -> dict:
    """Converts one part and checks the file; its facts."""
    shape = (1, *part.inputs.shape[1:])
    tflite.convert(part.function, shape, path, precision=precision, calibration=part.inputs)
    flatbuffer.check(path, macs=macs)
    tflite.add_metadata(path, _dynnas(runtime.Model(path), part.name, precision, metadata))
    difference = _largest_difference(runtime.Model(path), part.function, part.inputs[:PARITY_IMAGES])
    if precision == "fp32" and not difference["largest"] <= tolerance:
        raise ValueError(
            f"{path.name}: outputs differ from JAX's by {difference['largest']:.2g}, more than {tolerance:.2g} allows"
        )
    return {
        "path": path.name,
        "size_bytes": flatbuffer.size_bytes(path),
        "macs": macs,
        "ops": dict(flatbuffer.op_counts(path)),
        "max_logit_difference": difference["logits"],
    }


def _dynnas(model: runtime.Model, name: str, precision: str, metadata: dict) -> dict:
    """The file's metadata buffer: what every file of the pair says, and what this one is."""
    if model.output_shapes["logits"] != (1, len(metadata["labels"])):
        raise ValueError(f"{name} gives logits {model.output_shapes['logits']} for {len(metadata['labels'])} labels")
    shared = {key: value for key, value in metadata.items() if key != "score"}
    return {
        "version": METADATA_VERSION,
        "net": name,
        "precision": precision,
        "signatures": {tflite.SIGNATURE: {"input": list(model.input_shape), "outputs": sorted(model.output_scales)}},
        "policy": {"rule": POLICY, "score": metadata["score"]},
        **shared,
    }


def _largest_difference(model: runtime.Model, function: Callable, inputs: np.ndarray) -> dict[str, float]:
    """The largest absolute difference from JAX, of the logits and over all outputs."""
    named, largest = tflite.named(function), {}
    with jax.default_matmul_precision("highest"):  # TPUs and new GPUs round float32 products otherwise; LiteRT does not
        for values in inputs:
            expected = named(values[None].astype(np.float32))
            for name, found in model.run(values).items():
                difference = float(np.max(np.abs(found - np.asarray(expected[name]))))
                largest[name] = float(np.maximum(largest.get(name, 0.0), difference))  # keeps nan
    return {"logits": largest["logits"], "largest": float(np.max(list(largest.values())))}


def write_runtime(folder: str | Path) -> None:
    """Copies what a device needs beside the files: four modules and `requirements.txt`."""
    for module in (runtime, flatbuffer, flatbuffer.schema, confidence):
        shutil.copyfile(module.__file__, Path(folder) / Path(module.__file__).name)
    (Path(folder) / "requirements.txt").write_text("numpy\nPillow\nai-edge-litert\n")


def measure(
    folder: str | Path,
    facts: dict[str, dict],
    images: np.ndarray,
    labels: np.ndarray,
    jax_predictions: np.ndarray,
    *,
    precisions: tuple[str, ...] = tflite.PRECISIONS,
    threads: int = 1,
    runs: int = 1000,
    warm_up: int = 100,
) -> dict:
    """Runs the exported files over a test split, image by image, on this machine.

    Args:
      folder, facts: of `export_pair`.
      images: uint8[n, h, w, c]; labels: int[n]; jax_predictions: int[n], the class the cascade answers in JAX.
      threads: of LiteRT; runs, warm_up: of each latency.

    Returns: the content of `export.json`: `facts` with `accuracy`, `latency_ms` (median), `latency_mean_ms` and
      `latency_spread_ms` (p10, p90) of each file, and `accuracy_loss` against the fp32 file where there is one; under
      "cascade" for each precision `accuracy`, `agreement_with_jax`,
      `exit_rate` and the latencies of the whole decision; and what measured it. All are timed over the same images, drawn
      at random, since a cascade's mean depends on how many of them little answers.
    """
    if not len(images) == len(labels) == len(jax_predictions) or len(images) == 0:
        raise ValueError(
            f"{len(images)} images, {len(labels)} labels and {len(jax_predictions)} JAX predictions: give one of each"
        )
    files, cascade = {name: dict(fact) for name, fact in facts.items()}, {}
    timed = list(images[np.random.default_rng(0).permutation(len(images))[:runs]])
    with tqdm(total=len(precisions) * (len(images) * 2 + 3), desc="measuring the export", delay=5) as bar:
        for precision in precisions:
            classifier = runtime.DynamicClassifier(folder, precision, threads)
            big = runtime.Model(Path(folder) / f"big_{precision}.tflite", threads)
            cascade[precision] = _cascade(classifier, images, labels, jax_predictions, bar)
            cascade[precision] |= _timed(classifier.predict, timed, runs, warm_up)
            right = _right(classifier, big, images, labels, bar)
            stems = [classifier.little.run(image)["stem"] for image in timed[:TIMED_STEMS]]
            for name, model, inputs in (
                ("little", classifier.little, timed),
                ("big_after_stem", classifier.big, stems),
                ("big", big, timed),
            ):
                measured = {"accuracy": right[name] / len(images)} | _timed(model, inputs, runs, warm_up)
                files[f"{name}_{precision}"] |= measured
                bar.update()
    _add_losses(files)
    settings = {"threads": threads, "runs": runs, "warm_up": warm_up}
    return {"files": files, "cascade": cascade, **settings, "machine": _machine(), "versions": _versions()}


def _add_losses(files: dict[str, dict]) -> None:
    """Puts `accuracy_loss` into the facts of every file that has a fp32 one beside it."""
    for name, fact in files.items():
        exact = files.get(f"{name.rpartition('_')[0]}_fp32", fact)
        if exact is not fact:
            fact["accuracy_loss"] = exact["accuracy"] - fact["accuracy"]


def _cascade(classifier, images, labels, jax_predictions, bar: tqdm) -> dict:
    predictions = []
    for image in images:
        predictions.append(classifier.predict(image))
        bar.update()
    answers = np.array([prediction.class_index for prediction in predictions])
    choices = np.array([prediction.choice for prediction in predictions])
    return {
        "accuracy": float(np.mean(answers == labels)),
        "agreement_with_jax": float(np.mean(answers == jax_predictions)),
        "exit_rate": [float(np.mean(choices == choice)) for choice in (0, 1)],
    }


def _right(classifier, big: runtime.Model, images, labels, bar: tqdm) -> dict[str, int]:
    """How many images each of the three nets gets right alone (big_after_stem on the little net's stem)."""
    right = {"little": 0, "big_after_stem": 0, "big": 0}
    for image, label in zip(images, labels, strict=True):
        outputs = classifier.little.run(image)
        right["little"] += int(outputs["logits"].argmax() == label)
        right["big_after_stem"] += int(classifier.big.run(outputs["stem"])["logits"].argmax() == label)
        right["big"] += int(big.run(image)["logits"].argmax() == label)
        bar.update()
    return right


def _timed(target: runtime.Model | Callable, inputs: list, runs: int, warm_up: int) -> dict:
    """Median, mean and spread (p10, p90) of single calls."""
    latency = runtime.bench(target, inputs, runs=runs, warm_up=warm_up)
    spread = [latency.p10_ms, latency.p90_ms]
    return {"latency_ms": latency.median_ms, "latency_mean_ms": latency.mean_ms, "latency_spread_ms": spread}


def _machine() -> str:
    """The processor's name and its cores."""
    description = Path("/proc/cpuinfo")
    lines = description.read_text().splitlines() if description.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _versions() -> dict[str, str]:
    """Of what made and what ran the files."""
    packages = {name: importlib.metadata.version(name) for name in ("jax", "ai-edge-litert", "numpy")}
    tensorflow = importlib.metadata.packages_distributions()["tensorflow"][0]  # tensorflow or tensorflow-cpu
    return {"python": platform.python_version(), "tensorflow": importlib.metadata.version(tensorflow), **packages}
