"""The stage that records what sampled subnets answer."""

from __future__ import annotations

from pathlib import Path

from dynnas_jax import processes
from dynnas_jax.costs import macs
from dynnas_jax.job import Job, evaluator, supernet_variables
from dynnas_jax.networks import multi_costs
from dynnas_jax.search import collect
from dynnas_jax.search import width as width_of
from dynnas_jax.workdir import write_json


def run(
    job: Job,
    folder: Path,
    *,
    subnets: int = 1000,
    calibration_images: int = 1024,
    chunk: int = 16,
    form: str = "auto",
    width: int = 0,
) -> tuple[str, ...]:
    """Records of sampled subnets on the held-out images; the speed, beside them, is for the curious: no later stage reads it."""
    genomes = collect.distinct(job.supernet.space, job.key(1), subnets, pairs=bool(job.supernet.coupling))
    evaluate = evaluator(job, calibration_images, chunk, form=form, width=width)
    cost = multi_costs.spent(job.supernet) if job.supernet.exits else macs.table(job.supernet).exact
    collect.run(evaluate, supernet_variables(job), genomes, cost, folder / "records.zarr")
    if processes.is_first():
        speed = {"subnets_per_s": evaluate.subnets_per_s, "devices": evaluate.mesh.size, "width": evaluate.width}
        write_json(folder / "speed.json", speed | {"size_bytes": sum(path.stat().st_size for path in _files(folder))})
    return tuple(sorted(str(path.relative_to(folder)) for path in _files(folder)))


def _files(folder: Path) -> list[Path]:
    """Of the store."""
    return [path for path in (folder / "records.zarr").rglob("*") if path.is_file()]


def check(job: Job, *, form: str = "auto", width: int = 0, **_) -> None:
    """Raises ValueError for a form and a width that do not fit, before anything is trained."""
    try:
        width_of.check(form, width)
    except ValueError as error:
        raise ValueError(f"collect.{error}") from error
