"""The stage that trains a fixed network: the supernet's trainer, with the labels for its only lesson."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax

from dynnas_jax import devices, processes
from dynnas_jax.dynamic import protocol, single
from dynnas_jax.job import Job, described, save_variables, trained_file
from dynnas_jax.stages import spent, starting, train
from dynnas_jax.train import calibration, plain
from dynnas_jax.workdir import write_json

CALIBRATION_IMAGES = 1024


def run(
    job: Job,
    folder: Path,
    *,
    label_smoothing: float = 0.0,
    calibration_images: int = CALIBRATION_IMAGES,
    start_from: str | None = None,
    new_classifier: bool = False,
    power_w: float | None = None,
    **options,
) -> tuple[str, ...]:
    """The net, by cross-entropy; leaves checkpoints, metrics, the averaged variables with their statistics, and what it took.

    Args:
      label_smoothing: see `plain.rule`.
      calibration_images: training images that the statistics are taken from.
      start_from, new_classifier: see `starting.of_file`.
      power_w: see `spent.metered`.
      options: see `train.fitted`.
    """
    initial = starting.of_file(job, start_from=start_from, new_classifier=new_classifier)
    rule = {"label_smoothing": label_smoothing, "calibration_images": calibration_images}
    with spent.metered(folder, power_w):
        variables = fitted(job, folder, initial=initial, **rule, **options)
    if processes.is_first():
        save_variables(folder / trained_file(job.kind), variables)
        write_json(folder / "data.json", described(job.images))
    return trained_file(job.kind), "data.json", spent.FILE


def fitted(
    job: Job,
    folder: Path,
    *,
    initial: dict | None = None,
    seed: int | None = None,
    label_smoothing: float = 0.0,
    calibration_images: int = CALIBRATION_IMAGES,
    **options,
) -> dict:
    """The averaged variables of a job's fixed net, trained in `folder`, with statistics of their own.

    Args:
      initial: variables to start from, None for random ones.
      seed: of this training, where it is not the job's.
      label_smoothing, calibration_images, options: see `run`.
    """
    recalibrate = recalibrated(job, calibration_images)
    evaluate = _held_out(job, recalibrate) if len(job.images.holdout) else None
    rule = plain.rule(label_smoothing=label_smoothing)
    own = job if seed is None else job._replace(seed=seed)
    final = train.fitted(own, folder, rule, initial=initial, evaluate=evaluate, **options)
    return recalibrate(devices.on_host(final.averaged))


def recalibrated(job: Job, count: int) -> Callable[[dict], dict]:
    """Variables -> the same with statistics of so many training images."""
    run = jax.jit(functools.partial(calibration.recalibrate, job.supernet.largest_net()))
    images = job.calibration_batches(count)
    return lambda variables: run(variables, images)


def _held_out(job: Job, recalibrate: Callable[[dict], dict]) -> Callable[[dict], dict[str, float]]:
    """What a training measures of its variables on the way, every process by itself."""
    answer = protocol.answering(functools.partial(single.outputs, job.supernet.largest_net()))

    def measure(variables: dict) -> dict[str, float]:
        found = answer(recalibrate(devices.on_host(variables)), job.images.holdout)
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
