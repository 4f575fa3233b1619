"""The stage that trains a fixed network: the supernet's trainer, with the labels for its only lesson."""

from __future__ import annotations

from pathlib import Path

from dynnas_jax import devices, kinds, processes
from dynnas_jax.job import Job, described, evaluator, save_variables, trained_file
from dynnas_jax.stages import train
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
      start_from, new_classifier: see `train.starting_variables`.
      options: see `train.fitted`.
    """
    initial = train.starting_variables(job, start_from=start_from, new_classifier=new_classifier)
    only = job.supernet.space.largest
    evaluate = evaluator(job, calibration_images, 1) if len(job.images.holdout) else None

    def held_out(variables):
        return {"holdout_accuracy": float(evaluate(variables, only[None]).correct.mean())}

    rule = plain.rule(label_smoothing=label_smoothing)
    final = train.fitted(job, folder, rule, initial=initial, evaluate=held_out if evaluate else None, **options)
    if processes.is_first():
        images = job.calibration_batches(calibration_images)
        own = calibration.extract_calibrated(job.supernet, devices.on_host(final.averaged), only, images)[1]
        save_variables(folder / trained_file(kinds.NETWORK), own)
        write_json(folder / "data.json", described(job.images))
    return trained_file(kinds.NETWORK), "data.json"


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
    train.starting_variables(job, start_from=start_from, new_classifier=new_classifier)
