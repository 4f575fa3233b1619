"""The stage that fits the accuracy predictor."""

from __future__ import annotations

from pathlib import Path

from dynnas_jax import records
from dynnas_jax.job import Job
from dynnas_jax.search import predictor


def run(job: Job, folder: Path, **options) -> tuple[str, ...]:
    """The accuracy predictor, fitted on the records; of subnets with two roles on what they do as big."""
    store = records.open(job.workdir.folder("collect") / "records.zarr", job.supernet.space.fingerprint)
    genomes, accuracy = store.read("genome"), store.accuracy()[:, -1]
    fitted = predictor.fit(job.supernet.space, genomes, accuracy, key=job.key(2), **options)
    predictor.save(fitted, folder)
    return "predictor.json", "params.npz"
