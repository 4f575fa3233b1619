"""The stage that trains a fixed network: the supernet's trainer, with the labels for its only lesson."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax

from dynnas_jax import devices, processes
from dynnas_jax.dynamic import protocol, single
from dynnas_jax.job import Job, described, save_variables, trained_file
from dynnas_jax.stages import starting, train
from dynnas_jax.train import calibration, plain
from dynnas_jax.workdir import write_json


def run(
    job: Job,
    folder: Path,
    *,
    label_smoothing: float = 0.0,
    calibration_images: int = 1024,
    start_from: str | None = None,
    new_classifier: bool = False,
    **options,
) -> tuple[str, ...]:
    """The net, by cross-entropy; leaves checkpoints, metrics, and the averaged variables with statistics of their own.

    Args:
      label_smoothing: see `plain.rule`.
      calibration_images: training images that the statistics are taken from.
      start_from, new_classifier: see `starting.of_file`.
      options: see `train.fitted`.
    """
    initial = starting.of_file(job, start_from=start_from, new_classifier=new_classifier)
    recalibrated = _recalibrated(job, calibration_images)
    evaluate = _held_out(job, recalibrated) if len(job.images.holdout) else None
    rule = plain.rule(label_smoothing=label_smoothing)
    final = train.fitted(job, folder, rule, initial=initial, evaluate=evaluate, **options)
    averaged = devices.on_host(final.averaged)
    if processes.is_first():
        save_variables(folder / trained_file(job.kind), recalibrated(averaged))
        write_json(folder / "data.json", described(job.images))
    return trained_file(job.kind), "data.json"


def _recalibrated(job: Job, count: int) -> Callable[[dict], dict]:
    """Variables -> the same with statistics of so many training images."""
    run = jax.jit(functools.partial(calibration.recalibrate, job.supernet.largest_net()))
    images = job.calibration_batches(count)
    return lambda variables: run(variables, images)


def _held_out(job: Job, recalibrated: Callable[[dict], dict]) -> Callable[[dict], dict[str, float]]:
    """What a training measures of its variables on the way, every process by itself."""
    answer = protocol.answering(functools.partial(single.outputs, job.supernet.largest_net()))

    def measure(variables: dict) -> dict[str, float]:
        found = answer(recalibrated(devices.on_host(variables)), job.images.holdout)
        return {"holdout_accuracy": float(found.correct.mean())}

    return measure


def check(
    job: Job,
    *,
    label_smoothing: float = 0.0,
    start_from: str | None = None,
    new_classifier: bool = False,
    **options,
) -> None:
    """Raises ValueError for what would end a run at its first step, or long after it."""
    plain.rule(label_smoothing=label_smoothing)
    train.check_setting(job, **options)
    starting.of_file(job, start_from=start_from, new_classifier=new_classifier)
