"""The stage that measures a gated network on the test split: its answers, its choices, every path alone, and the clock."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax import devices
from dynnas_jax.confidence import max_softmax
from dynnas_jax.dynamic import gates, protocol, quality
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import Job
from dynnas_jax.networks import gated, gated_parts
from dynnas_jax.networks.gated_parts import Cut, Part
from dynnas_jax.search.collect import Evaluator
from dynnas_jax.stages import evaluate, slimmable
from dynnas_jax.workdir import write_json

SHOWN = 8  # images of each end that the report shows
# Of more paths than both together those are measured that lie evenly by cost, and those nearest to the gated network's MACs.
EVENLY, NEAREST = 64, 32
_SINGLES = 32  # images that are timed alone, at least; of each path that images take the same number
_CHUNKS = (16, 32, 64, 128)  # images that the widest path is timed on at once, beside the whole batch
# What one and the same network may differ by where it is computed in another order; accelerators multiply in fewer bits.
_ROUNDING, _COARSE = {"cpu": 1e-4}, 1e-2


def run(
    job: Job,
    folder: Path,
    *,
    calibration_images: int = 1024,
    timed_batches: int = 5,
    one_by_one_images: int | None = None,
    batch: int | None = None,
    capacity: int | None = None,
) -> tuple[str, ...]:
    """What the gated network does on images not seen before.

    Args:
      calibration_images: training images for the statistics of each path alone.
      timed_batches: repetitions of what is timed; the median counts.
      one_by_one_images: test images that also run alone, through the switch, and must answer as in the batch; None: all.
      batch: images that are answered at once, and timed; by default `slimmable.default_batch()`.
      capacity: images of a chunk behind a gate; by default as `gates.capacities` says.

    Raises: RuntimeError for images that do not.
    """
    supernet, variables, split = job.supernet, slimmable.trained(job), job.images.test
    cut = jax.jit(functools.partial(gated_parts.cut, supernet))(variables)
    answering = slimmable.Answering(supernet, batch=batch, capacity=capacity)
    switched = jax.jit(gates.switched(supernet))
    answers, classes = answering(cut, split.images), len(job.images.classes)
    out, cost = _outputs(answers.logits, split.labels), np.asarray(gates.cost(supernet), np.float64)
    spent = cost[choice := gates.number_of(supernet, answers.path).astype(np.int32)]
    average = float(spent.mean())
    paths = _paths(job, cost, measured_paths(cost, average), calibration_images)
    summary = {
        "split": "test",
        "images": len(split),
        "gates": _spread(supernet, answers, split, classes),
        "dynamic": evaluate.measured(out, classes) | {"macs": average},
        "paths": paths,
        "paths_in_all": len(cost),
        "smallest": paths[0],
        "largest": paths[-1],
        "same_macs": {"macs": average, "accuracy": interpolated(paths, average)},
        "one_by_one": one_by_one(supernet, switched, cut, split.images, answers, one_by_one_images),
        "seconds": _timed(answering, switched, supernet, (variables, cut), (split.images, answers.path), timed_batches),
        "calibration": evaluate.calibration({"dynamic": out}),
        "by_class": quality.by_group(np.asarray(split.labels), classes, dynamic=out.correct),
    }
    write_json(folder / "evaluation.json", summary)
    return "evaluation.json", *_saved(folder, split, answers, out, choice, spent)


def check(job: Job, *, batch: int | None = None, capacity: int | None = None, **_) -> None:
    """Raises ValueError for a batch or a chunk that is no whole number of images."""
    for name, value in (("batch", batch), ("capacity", capacity)):
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"evaluate.{name} is {value!r}, must be a whole number of images from 1")


def _saved(
    folder: Path, split: Any, answers: gates.Answers, out: protocol.Outputs, choice: np.ndarray, spent: np.ndarray
) -> tuple[str, ...]:
    """What the network answers to each image at what cost, and some images of the least and of the most.

    Leaves have one column, that of the path which is the choice.
    """
    kept = {name: leaf[:, None] for name, leaf in out._asdict().items()} | {"logits": answers.logits}
    about = {"label": split.labels, "image_id": split.image_id, "path": answers.path, "macs": spent}
    np.savez(folder / "outputs.npz", **kept, **about, choice=choice)
    order = np.argsort(spent, kind="stable")
    rows = np.unique(np.concatenate([order[:SHOWN], order[-SHOWN:]]))
    np.savez(folder / "samples.npz", row=rows, image=split.images[rows])
    return "outputs.npz", "samples.npz"


def _outputs(logits: np.ndarray, labels: np.ndarray) -> protocol.Outputs:
    """Leaves [m]."""
    logits = jnp.asarray(logits)[None]
    found = jax.jit(lambda x, y: protocol.told(x, max_softmax(x), y))(logits, jnp.asarray(labels, jnp.int32))
    return protocol.Outputs(*(np.asarray(leaf)[0] for leaf in found))


def _spread(supernet: Supernet, answers: gates.Answers, split: Any, classes: int) -> list[dict]:
    """Of each gate how its choices are spread, over all images and those of each class."""
    rows = []
    for index, gene in enumerate(supernet.space.genes):
        choice = answers.path[:, index]
        whole = gates.Spread.of(choice, len(gene.choices))
        by_class = [
            gates.Spread.of(choice[split.labels == label], len(gene.choices)).share.tolist() for label in range(classes)
        ]
        row = {"gate": gene.name, "ratios": list(gene.choices), "share": whole.share.tolist(), "entropy": whole.entropy}
        rows.append(row | {"largest_entropy": whole.largest_entropy, "by_class": by_class})
    return rows


def measured_paths(cost: np.ndarray, average: float) -> np.ndarray:
    """int[m]: the paths whose accuracy is measured, the cheapest first; both ends are among them.

    Args:
      cost: MACs of every path; average: of the gated network.
    """
    order = np.argsort(cost, kind="stable")
    if len(order) <= EVENLY + NEAREST:
        return order
    evenly = np.linspace(0, len(order) - 1, EVENLY).round().astype(int)
    nearest = np.argsort(np.abs(cost[order] - average), kind="stable")[:NEAREST]
    return order[np.union1d(evenly, nearest)]


def _paths(job: Job, cost: np.ndarray, chosen: np.ndarray, calibration_images: int) -> list[dict]:
    """Accuracy and MACs of the chosen paths, each alone."""
    every = gates.paths(job.supernet)
    # The first of several processes evaluates alone.
    here = devices.local_mesh()
    measure = Evaluator(job.supernet, job.calibration(calibration_images), job.images.test, chunk=8, mesh=here)
    variables = {name: leaves for name, leaves in slimmable.trained(job).items() if name != gated.PATHS}
    right = measure(variables, every[chosen]).correct.mean(axis=1)
    return [
        {"path": every[row].tolist(), "macs": int(cost[row]), "accuracy": float(accuracy)}
        for row, accuracy in zip(chosen, right, strict=True)
    ]


def interpolated(paths: list[dict], macs_wanted: float) -> float:
    """The accuracy of the supernet's paths at some MACs: on the line through the best path up to each cost."""
    cost = np.asarray([row["macs"] for row in paths], np.float64)
    best = np.maximum.accumulate([row["accuracy"] for row in paths])
    return float(np.interp(macs_wanted, cost, best))


def one_by_one(
    supernet: Supernet, switched: Callable, cut: Cut, images: Any, answers: gates.Answers, most: int | None = None
) -> dict[str, Any]:
    """How many images run alone pick the same path as in the batch, how many have a tie, and how far logits lie apart.

    Raises:
      RuntimeError: for an image with another path and no tie, or logits that differ by more than rounding.
    """
    count = min(len(images), most or len(images))
    allowed = _ROUNDING.get(jax.default_backend(), _COARSE)
    alone = [switched(cut, images[row : row + 1]) for row in range(count)]
    path, logits = (np.concatenate([np.asarray(getattr(one, name)) for one in alone]) for name in ("path", "logits"))
    batch = gates.Answers(answers.logits[:count], answers.path[:count])
    same = (path == batch.path).all(axis=1)
    ties = [
        row for row in np.flatnonzero(~same) if _gap(supernet, cut, images[row], path[row], batch.path[row]) <= allowed
    ]
    apart = np.abs(logits - batch.logits)[same].max(initial=0.0)
    if same.sum() + len(ties) < count or apart > allowed * max(1.0, np.abs(logits).max()):
        raise RuntimeError(
            f"evaluate: {count - same.sum() - len(ties)} of {count} images that ran alone took another path than in a batch, and "
            f"logits of the same path differ by up to {apart:.2g}: the two ways to run the network disagree"
        )
    return {
        "images": count,
        "same_path": int(same.sum()),
        "ties": len(ties),
        "largest_logit_difference": float(apart),
    }


def _gap(supernet: Supernet, cut: Cut, image: np.ndarray, path: np.ndarray, other: np.ndarray) -> float:
    """How far the scores of two paths lie apart where they part, as a share of the largest if that is above 1."""
    ran, before = gated_parts.run(supernet, cut, Part(0), jnp.asarray(image[None])), 0
    for number, (own, its) in enumerate(zip(path.tolist(), other.tolist(), strict=True), 1):
        told = np.asarray(ran.scores)[0]
        if own != its:
            return float(abs(told[own] - told[its]) / max(1.0, np.abs(told).max()))
        ran, before = gated_parts.run(supernet, cut, Part(number, before, own), ran.carry), own
    return 0.0


def _timed(
    answering: slimmable.Answering,
    switched: Callable,
    supernet: Supernet,
    variables: tuple[dict, Cut],
    split: tuple[Any, np.ndarray],
    runs: int,
) -> dict[str, Any]:
    """Seconds an image, gated and the widest path, in a batch and one by one: of each the median of some runs, in turns.

    The widest path is timed in chunks of several sizes, since convolutions may slow down with the batch; the fastest counts.
    What runs alone is weighed as `_alone` says.

    Args:
      split: images, and the path that each of them took.
    """
    (whole, cut), (images, path) = variables, (part[: answering.batch] for part in split)
    net, own = gated.path(supernet, whole, supernet.space.largest)
    own = jax.device_put(own)  # as `cut` is: arrays of NumPy would be copied there at every call
    widest, batch = (lambda v, x: net.apply(v, x)[0]), jnp.asarray(images)
    chunks = sorted({min(size, len(batch)) for size in (*_CHUNKS, len(batch))})
    singles, weights, paths = _alone(supernet, *split)
    alone = _in_turns({"gated_alone": (switched, cut), "largest_alone": (jax.jit(widest), own)}, singles, runs)
    ways = {"gated": (answering.run, cut)} | {f"largest_{size}": (_in_chunks(widest, size), own) for size in chunks}
    found = {name: float(of_batch) for name, (of_batch,) in _in_turns(ways, [batch], runs).items()}
    by_chunk = {size: found.pop(f"largest_{size}") for size in chunks}
    best = min(by_chunk, key=lambda size: by_chunk[size])
    rows = gates.rows(supernet, path, answering.capacity)
    return {
        **found,
        **{name: float(weights @ seconds) for name, seconds in alone.items()},
        "alone_images": len(singles),
        "alone_paths": paths,
        "batch": len(batch),
        "largest": by_chunk[best],
        "largest_chunk": best,
        "largest_by_chunk": {str(size): value for size, value in by_chunk.items()},
        "gated_chunks": gates.capacities(supernet, len(batch), answering.capacity),
        "gated_rows": [count / len(batch) for count in rows],
    }


def _alone(supernet: Supernet, images: Any, path: np.ndarray) -> tuple[list[jax.Array], np.ndarray, int]:
    """Images to run alone, what each weighs, and the number of paths: as many of each path, which weigh its share together.

    A path costs what it costs, whatever the image: a few drawn from the whole split would tell the shares of a few.
    """
    number = gates.number_of(supernet, path)
    taken, counts = np.unique(number, return_counts=True)
    rows = [np.flatnonzero(number == own)[: -(-_SINGLES // len(taken))] for own in taken]
    weights = [np.full(len(own), count / len(number) / len(own)) for own, count in zip(rows, counts, strict=True)]
    singles = [jnp.asarray(images[row : row + 1]) for row in np.concatenate(rows)]
    return singles, np.concatenate(weights), len(taken)


def _in_chunks(function: Callable, size: int) -> Callable:
    """(variables, images[B, ...]) -> function's [B, ...], so many images at once; the first fill up the last chunk; jitted."""

    def run(variables: Any, images: jax.Array) -> jax.Array:
        if size == len(images):
            return function(variables, images)
        chunks = jnp.concatenate([images, images[: -len(images) % size]]).reshape(-1, size, *images.shape[1:])
        found = jax.lax.map(functools.partial(function, variables), chunks)
        return found.reshape(-1, *found.shape[2:])[: len(images)]

    return jax.jit(run)


def _in_turns(ways: dict[str, tuple], batches: list[jax.Array], runs: int) -> dict[str, np.ndarray]:
    """float[batches] of every way: the median of the seconds an image of each batch, every way once a turn."""
    for run, own in ways.values():
        jax.block_until_ready(run(own, batches[0]))
    taken: dict[str, list] = {name: [] for name in ways}
    for _ in range(runs):
        for name, (run, own) in ways.items():
            taken[name].append([_clocked(run, own, images) for images in batches])
    return {name: np.median(values, axis=0) for name, values in taken.items()}


def _clocked(run: Callable, variables: Any, images: jax.Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(variables, images))
    return (time.perf_counter() - start) / len(images)
