"""Exports a dynamic network, or a single net, as the files of one folder, and holds each to its promises.

Every function of the network becomes a signature: of one file that all share, or of a file of its own, as the target asks.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax import confidence
from dynnas_jax.export import engines, flatbuffer, functions, lint, metadata, onnx, onnx_file, sqnr, targets, tflite

PARITY_IMAGES = 16
TOLERANCE = 1e-4  # of a fp32 file's outputs, against JAX's
# Up to here it is also that of what one function leaves to another, and then grows with the largest value: of 70, JAX's own
# float32 is off by 7e-5, LiteRT's by 8e-5 and onnxruntime's by 1.6e-4.
PLAIN_MAGNITUDE = 10
LEAST_SQNR_DB = 20  # of an int8 ONNX file's outputs, against those of the TFLite file it was made of ...
MOST_LOST_DB = 3  # ... or, against JAX's, this much below the TFLite file's


class Promise(NamedTuple):
    """What every file of an export says, and what it is held to."""

    labels: tuple[str, ...]  # [C]
    cost: tuple[int, ...]  # [S], all MACs spent when step s answers
    macs: dict[str, int]  # of each function, counted by JAX
    thresholds: tuple[float, ...] = ()  # [S - 1]
    score: str = confidence.DEFAULT_SCORE  # or `metadata.OWN_SCORE`: each step gives its own
    central_share: float = 1.0  # of a photo's side that the data pipeline keeps


class _Plan(NamedTuple):
    network: functions.Network
    promise: Promise
    target: targets.Target
    inputs: dict[str, dict[str, np.ndarray]]  # calibration, by function and input
    expected: dict[str, list[dict[str, np.ndarray]]]  # what JAX answers to the first of them


@contextlib.contextmanager
def all_or_nothing(folder: str | Path) -> Iterator[Path]:
    """A neighbour of `folder` to write to; it takes the folder's place if the block succeeds, and vanishes if not.

    One that was left behind, since its process was killed, vanishes before.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}_unchecked_"
    for left in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        unchecked = Path(scratch) / "new"
        unchecked.mkdir()
        yield unchecked
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        unchecked.rename(folder)


def export(
    network: functions.Network,
    promise: Promise,
    folder: str | Path,
    *,
    target: str,
    calibration: np.ndarray,
    precisions: Sequence[str] = (),
    onnx_too: bool | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, dict]:
    """Writes the model files of a target to an existing folder (of `all_or_nothing`) and checks each.

    Args:
      target: of `targets.TARGETS`.
      calibration: uint8[n, h, w, c] real training images: they set the int8 scales and check the outputs.
      precisions: of `metadata.PRECISIONS`; () for the target's own.
      onnx_too: whether fp32 and int8 files are written as ONNX as well; None: as the target says.
      tolerance: the largest difference between the outputs of a fp32 file and JAX's; of what one function leaves to another a
        tenth of it, of the largest value, where that is more.

    Returns: by "{function}_{precision}", for ONNX with "_onnx" behind: `function`, `precision`, `path`, `size_bytes` (of the
      whole file), `macs`, `ops`, `max_logit_difference` from JAX, and lint's `warnings`, if there are any.
    Raises: ValueError if an argument is wrong or a file breaks a promise (operators, memory, MACs, outputs); OSError.
    """
    plan = _plan(network, promise, targets.target(target), calibration)
    folder, precisions = Path(folder), tuple(precisions) or plan.target.precisions
    signatures = {name: tflite.Signature(*f, plan.inputs[name]) for name, f in network.functions.items()}
    with tflite.saved(signatures) as traced:
        facts = {precision: _write_tflite(traced, plan, folder, precision) for precision in precisions}
    if plan.target.onnx if onnx_too is None else onnx_too:
        for precision, own in _write_onnx(signatures, plan, folder, precisions).items():
            facts[precision] |= own
    facts = {key: fact for own in facts.values() for key, fact in own.items()}
    for path in dict.fromkeys(fact["path"] for fact in facts.values()):
        models = engines.load(folder / path)
        for fact in facts.values():
            if fact["path"] == path:
                fact["max_logit_difference"] = _compare(plan, models[fact["function"]], fact, tolerance)
    return facts


def _plan(network: functions.Network, promise: Promise, target: targets.Target, calibration: np.ndarray) -> _Plan:
    """What is to be exported, with the inputs and JAX's answers to some of them. Raises ValueError where they do not fit."""
    _check_arguments(network, promise, calibration)
    inputs, expected = functions.inputs_and_outputs(network, calibration, PARITY_IMAGES)
    wanted = (1, len(promise.labels))
    for name, (first, *_) in expected.items():
        leads = name in network.routes or name in (network.router or {})
        if not leads and first[functions.LOGITS].shape != wanted:
            raise ValueError(f"{name} gives logits {first[functions.LOGITS].shape} for {wanted[1]} labels")
    return _Plan(network, promise, target, inputs, expected)


def _check_arguments(network: functions.Network, promise: Promise, calibration: np.ndarray) -> None:
    shape, steps = network.image_shape, len(metadata.choices(_order(network)))
    if calibration.dtype != np.uint8 or tuple(calibration.shape[1:]) != shape or len(calibration) == 0:
        raise ValueError(
            f"calibration is {calibration.dtype}{list(calibration.shape)}, but must be uint8 {['n', *shape]}"
        )
    if promise.score not in (*confidence.SCORES, metadata.OWN_SCORE):
        raise ValueError(f"score {promise.score!r} is unknown: use one of {', '.join(confidence.SCORES)}")
    thresholds = 0 if network.routes else steps - 1
    if len(promise.cost) != steps or len(promise.thresholds) != thresholds:
        counts = f"{len(promise.cost)} and {len(promise.thresholds)}"
        raise ValueError(f"{steps} steps have {steps} costs and {thresholds} thresholds, not {counts}")
    if missing := [name for name in network.functions if name not in promise.macs]:
        raise ValueError(f"the export's MACs lack {', '.join(missing)}")


def _write_tflite(traced: tflite.Saved, plan: _Plan, folder: Path, precision: str) -> dict[str, dict]:
    """The TFLite files of one precision, with their metadata; holds them to the target and to JAX's MACs."""
    names = list(plan.network.functions)
    files = {name: f"{'model' if plan.target.one_file else name}_{precision}.tflite" for name in names}
    about = _metadata(plan, precision, files)
    for file in dict.fromkeys(files.values()):
        inside = tuple(name for name in names if files[name] == file)
        traced.write(folder / file, precision=precision, only=inside, metadata=about)
    warnings = _held(plan, folder, files)
    facts, work = {}, {file: flatbuffer.work(folder / file) for file in dict.fromkeys(files.values())}
    for name, file in files.items():
        counted = work[file][name]
        _check_macs(folder / file, name, counted.macs, plan.promise)
        own = [w.line() for w in dict.fromkeys(warnings) if w.file == file and w.signature in (None, name)]
        facts[f"{name}_{precision}"] = {
            "function": name,
            "precision": precision,
            "path": file,
            "size_bytes": flatbuffer.size_bytes(folder / file),
            "macs": counted.macs,
            "ops": dict(counted.counts),
            **({"warnings": own} if own else {}),
        }
    return facts


def _held(plan: _Plan, folder: Path, files: dict[str, str]) -> list[lint.Finding]:
    """Holds the files of all steps to the target: what lint warns of. What runs in turn shares the memory, a whole net has it."""
    in_turn = dict.fromkeys(files[name] for name in plan.network.in_turn)
    groups = [in_turn, *([files[name]] for name in plan.network.whole)]
    return [w for group in groups for w in lint.check([folder / file for file in group], plan.target.name).warnings]


def _write_onnx(
    signatures: dict[str, tflite.Signature], plan: _Plan, folder: Path, precisions: Sequence[str]
) -> dict[str, dict[str, dict]]:
    """The ONNX files of those precisions that have any, held to the target; their facts by precision."""
    written = {precision: {} for precision in precisions if precision in onnx.PRECISIONS}
    for name, signature in signatures.items():
        with tflite.saved({name: signature}) as alone:  # of many functions each file would read all again
            for precision, own in written.items():
                own[f"{name}_{precision}_onnx"] = _write_one_onnx(alone, plan, folder, name, precision)
    for own in written.values():
        _held(plan, folder, {fact["function"]: fact["path"] for fact in own.values()})
    return written


def _write_one_onnx(traced: tflite.Saved, plan: _Plan, folder: Path, name: str, precision: str) -> dict:
    """One ONNX file by way of a TFLite file that is not kept; its facts."""
    opset = plan.target.onnx_opset or onnx.OPSET
    files = {other: f"{other}_{precision}.onnx" for other in plan.network.functions}
    with tempfile.TemporaryDirectory(prefix="dynnas_") as scratch:
        source, plain = Path(scratch) / "source.tflite", Path(scratch) / "plain.onnx"
        traced.write(source, precision=precision, only=(name,), float_outside=True)
        if precision == "int8":  # TensorRT's form rounds otherwise: what tf2onnx makes is compared before that
            onnx.convert(source, plain, opset=opset, for_tensorrt=False)
            _check_same(name, source, plain, functions.rows(plan.inputs[name], PARITY_IMAGES), plan.expected[name])
        onnx.convert(source, folder / files[name], opset=opset, metadata=_metadata(plan, precision, files))
    counted = onnx_file.macs(folder / files[name])
    _check_macs(folder / files[name], name, counted, plan.promise)
    return {
        "function": name,
        "precision": precision,
        "path": files[name],
        "size_bytes": flatbuffer.size_bytes(folder / files[name]),
        "macs": counted,
        "ops": onnx_file.op_counts(folder / files[name]),
    }


def _check_macs(path: Path, name: str, counted: int, promise: Promise) -> None:
    if counted != promise.macs[name]:
        raise ValueError(
            f"{path.name}: {name} counts {counted} MACs, the JAX network {promise.macs[name]}: they must be equal"
        )


def _metadata(plan: _Plan, precision: str, files: dict[str, str]) -> dict:
    """What every file says of the export, and of its precision."""
    signatures = {
        name: {
            "inputs": {key: list(shape) for key, shape in function.shapes.items()},
            "outputs": {key: list(value.shape) for key, value in plan.expected[name][0].items()},
        }
        for name, function in plan.network.functions.items()
    }
    content = {
        "version": metadata.VERSION,
        "precision": precision,
        "target": plan.target.name,
        "labels": list(plan.promise.labels),
        "image_shape": list(plan.network.image_shape),
        "central_share": plan.promise.central_share,
        **_order(plan.network),
        "whole": list(plan.network.whole),
        "files": files,
        "signatures": signatures,
        "macs": {name: plan.promise.macs[name] for name in signatures},
        "cost": list(plan.promise.cost),
        "policy": {"rule": _rule(plan.network), "score": plan.promise.score},
        "thresholds": [float(value) for value in plan.promise.thresholds],
    }
    return metadata.check(content, "the export")


def _rule(network: functions.Network) -> str:
    """How a step is chosen."""
    return metadata.PICKED if network.routes else metadata.ROUTED if network.router else metadata.RULE


def _order(network: functions.Network) -> dict:
    """What the metadata say of which net follows which."""
    told: dict = {"router": next(iter(network.router))} if network.router else {}
    told |= {"steps": list(network.steps), "policy": {"rule": _rule(network)}}
    return told | ({"routes": {name: list(names) for name, names in network.routes.items()}} if network.routes else {})


def _compare(plan: _Plan, model: engines.Model, fact: dict, tolerance: float) -> float:
    """The largest difference of the logits from JAX's; where there are none, of any output.

    Raises ValueError for outputs that are no numbers, and where a fp32 file's are too far off.
    """
    name, largest = fact["function"], {}
    for values, expected in zip(functions.rows(plan.inputs[name]), plan.expected[name], strict=False):
        found = model.run(values)
        for key, value in expected.items():
            difference = np.max(np.abs(found[key].reshape(value.shape) - value))
            largest[key] = float(np.maximum(largest.get(key, 0.0), difference))  # keeps nan
    most = float(np.max(list(largest.values())))
    if not np.isfinite(most):
        raise ValueError(f"{fact['path']}: outputs of {name} in {fact['precision']} are not all finite numbers")
    for key, difference in largest.items() if fact["precision"] == "fp32" else ():
        if not difference <= (allowed := tolerance * _size(key, plan.expected[name])):
            raise ValueError(
                f"{fact['path']}: outputs {key} of {name} differ from JAX's by {difference:.2g}, more than {allowed:.2g} allows"
            )
    return largest.get(functions.LOGITS, most)


def _size(key: str, answers: Sequence[dict[str, np.ndarray]]) -> float:
    """What the tolerance is multiplied with: 1 for what answers, and where no value passed on is large."""
    if key in (functions.LOGITS, functions.SCORE):
        return 1
    return max(1, *(float(np.abs(row[key]).max()) / PLAIN_MAGNITUDE for row in answers))


def _check_same(name: str, source: Path, plain: Path, rows: list[dict], expected: Sequence[dict]) -> None:
    """Holds an ONNX file to the int8 TFLite file it was made of: it is close to that one, or as close to JAX as that one is.

    Both round, each in its own way, and a deep net makes much of what its first layers round.
    """
    models = [model for file in (source, plain) for model in engines.load(file).values()]
    key = functions.LOGITS if functions.LOGITS in expected[0] else functions.SCORE
    exact = np.stack([value[key].ravel() for value in expected])
    lite, made = (np.stack([model.run(values)[key].ravel() for values in rows]) for model in models)
    near, own, others = (sqnr.decibels(*of) for of in ((lite, made), (exact, lite), (exact, made)))
    if not (near >= LEAST_SQNR_DB or others >= own - MOST_LOST_DB):
        raise ValueError(
            f"{name}_int8.onnx: onnxruntime answers otherwise than LiteRT does: tf2onnx lost something ({near:.1f} dB between "
            f"them; {others:.1f} dB to JAX, LiteRT {own:.1f} dB)"
        )
