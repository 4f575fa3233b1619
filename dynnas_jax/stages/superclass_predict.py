"""The stage that fits the predictors of the controls: one for each superclass (OFA-T), and one for all together (OFA-V)."""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np

from dynnas_jax import records
from dynnas_jax.job import Job
from dynnas_jax.search import predictor
from dynnas_jax.workdir import write_json

ALL = "all"


def run(job: Job, folder: Path, **options) -> tuple[str, ...]:
    """Predictors of the accuracy on a superclass by its logits alone, and of the mean over all superclasses."""
    store = records.open(job.workdir.folder("collect") / "records.zarr", job.supernet.space.fingerprint)
    genomes, targets = store.read("genome"), accuracies(job, store.read("correct")[..., -1])
    told = []
    for number, (name, accuracy) in enumerate(targets.items()):
        start = time.perf_counter()
        fitted = predictor.fit(
            job.supernet.space, genomes, accuracy, key=jax.random.fold_in(job.key(2), number), **options
        )
        entry = {"superclass": name, "seconds": time.perf_counter() - start, "rmse": fitted.rmse}
        told.append(entry | {key: getattr(fitted, key) for key in ("kendall_tau", "fitted", "held_out")})
        predictor.save(fitted, folder / place(job, name))
    write_json(folder / "predictors.json", {"subnets": len(genomes), "predictors": told})
    files = ("predictor.json", "params.npz")
    return "predictors.json", *(f"{place(job, name)}/{file}" for name in targets for file in files)


def place(job: Job, name: str) -> str:
    """The folder of a superclass's predictor, or of the one of all."""
    return name if name == ALL else f"superclass{job.superclasses.number(name)}"


def accuracies(job: Job, correct: np.ndarray) -> dict[str, np.ndarray]:
    """float64[n] by superclass, and of `ALL` their mean, of what n subnets got right: correct bool[n, m], by held-out image."""
    owner = job.superclasses.of_class[np.asarray(job.images.holdout.labels)]
    found = {
        name: correct[:, owner == number].mean(axis=1, dtype=np.float64)
        for number, name in enumerate(job.superclasses.names)
    }
    return found | {ALL: np.mean(list(found.values()), axis=0)}
