"""The stage that fits, for every target, what predicts the reward of a net of several exits, and of single nets the accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynnas_jax import records
from dynnas_jax.job import Job
from dynnas_jax.search import exit_rewards, predictor
from dynnas_jax.stages import exits
from dynnas_jax.workdir import write_json

SINGLE = "single"  # the folder of the predictor of nets of one exit


def run(job: Job, folder: Path, *, gap_subnets: int = 16, **options) -> tuple[str, ...]:
    """A predictor of the reward for each target, and one of the accuracy of the first exits, which are ordinary nets.

    Args:
      gap_subnets: records on which the thresholds on quantiles, that rewards are told from, are compared with the best ones.
      options: of `predictor.fit`.
    """
    store, aims = _store(job), exits.of_job(job)
    targets = aims.targets
    rows = np.flatnonzero(store.done())
    genomes, cost = store.read("genome", rows), aims.of_records(job.supernet, store, rows)
    rewards = exit_rewards.of_records(store, rows, cost, targets.costs, targets.omega)
    told = {"omega": targets.omega, "cost": targets.unit, "targets": []}
    for number, (target, reward) in enumerate(zip(targets.costs, rewards, strict=True)):
        fitted = predictor.fit(job.supernet.space, genomes, reward, key=job.key(2), **options)
        predictor.save(fitted, folder / target_folder(number))
        told["targets"].append({"target": target, **_quality(fitted)})
    single = predictor.fit(job.supernet.space, genomes, store.accuracy()[rows, 0], key=job.key(2), **options)
    predictor.save(single, folder / SINGLE)
    told["single"] = _quality(single)
    few = np.linspace(0, len(rows) - 1, min(gap_subnets, len(rows))).astype(int)
    if len(few) and cost.shape[1] in (2, 3):
        told["quantile_gap"] = exit_rewards.gap(store, rows[few], cost[few], targets.costs, targets.omega)._asdict()
    write_json(folder / "predictors.json", told)
    names = [*(target_folder(number) for number in range(len(targets.costs))), SINGLE]
    return "predictors.json", *(f"{name}/{file}" for name in names for file in ("predictor.json", "params.npz"))


def target_folder(number: int) -> str:
    """Where the predictor for a target is, in the stage's folder."""
    return f"target{number}"


def _store(job: Job) -> records.Records:
    return records.open(job.workdir.folder("collect") / "records.zarr", job.supernet.space.fingerprint)


def _quality(fitted: predictor.Predictor) -> dict:
    return {
        "kendall_tau": fitted.kendall_tau,
        "rmse": fitted.rmse,
        "fitted": fitted.fitted,
        "held_out": fitted.held_out,
    }


def check(job: Job, **_) -> None:
    """Raises ValueError for a target that no net of the space can meet, or a latency table that does not serve."""
    exits.check(job)
