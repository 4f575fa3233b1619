"""The stage that trains a slimmable supernet: stage I, in which only the gates' attention heads act."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from dynnas_jax import devices, elastic, processes
from dynnas_jax.job import NO_HELD_OUT, Job, described, evaluator, save_variables, trained_file
from dynnas_jax.stages import slimmable_transfer, spent, train
from dynnas_jax.train import bootstrapping
from dynnas_jax.workdir import write_json


def run(
    job: Job,
    folder: Path,
    *,
    bootstrapping: dict | None = None,
    calibration_images: int = 1024,
    transfer_from: str | None = None,
    power_w: float | None = None,
    **options,
) -> tuple[str, ...]:
    """The supernet, by in-place ensemble bootstrapping; leaves checkpoints, metrics, the averaged variables, and what it took.

    Args:
      bootstrapping: keyword arguments of `train.bootstrapping.rule`.
      calibration_images: training images that the statistics of held-out accuracies are taken from.
      transfer_from: a run's working directory, whose trained supernet of the same paths this one starts from; what was
        taken, and what is drawn anew, is listed in `transferred.json`.
      power_w: see `spent.metered`.
      options: see `train.fitted`.
    """
    evaluate = evaluator(job, calibration_images, 2)
    ends = np.stack([job.supernet.space.smallest, job.supernet.space.largest])

    def held_out(variables):
        smallest, largest = evaluate(variables, ends).correct.mean(axis=1)
        return {"holdout_accuracy_smallest": float(smallest), "holdout_accuracy_largest": float(largest)}

    start = None if transfer_from is None else _transferred(job, transfer_from)
    initial = None if start is None else start.variables
    with spent.metered(folder, power_w):
        final = train.fitted(job, folder, _rule(bootstrapping), initial=initial, evaluate=held_out, **options)
    file = trained_file(job.kind)
    if processes.is_first():
        save_variables(folder / file, devices.on_host(final.averaged))
        write_json(folder / "data.json", described(job.images))
        if start is not None:
            write_json(folder / "transferred.json", start.listed)
    return file, "data.json", *(() if start is None else ("transferred.json",))


def _rule(options: dict | None) -> bootstrapping.Rule:
    return bootstrapping.rule(**(options or {}))


def _transferred(job: Job, path: str) -> slimmable_transfer.Transferred:
    shape = job.images.train.images.shape[1:]
    fresh = jax.tree.map(np.asarray, elastic.init_supernet(job.supernet, job.key(6), shape))
    return slimmable_transfer.supernet(job, path, fresh)


def check(job: Job, *, bootstrapping: dict | None = None, transfer_from: str | None = None, **options) -> None:
    """Raises ValueError for what would end a run at its first step, or long after it."""
    _rule(bootstrapping)
    if not len(job.images.holdout):
        raise ValueError(NO_HELD_OUT)
    train.check_setting(job, **options)
    if transfer_from is not None:
        slimmable_transfer.source(job, transfer_from, "train")
