"""The stage that writes, checks and times the exported files."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from dynnas_jax.data.resize import at_resolution, resized
from dynnas_jax.export.tflite import PRECISIONS
from dynnas_jax.job import Job, found_pair
from dynnas_jax.networks import big_little
from dynnas_jax.workdir import read_arrays, write_json


def run(
    job: Job,
    folder: Path,
    *,
    precisions: tuple[str, ...] = PRECISIONS,
    calibration_images: int = 256,
    threads: int = 1,
    runs: int = 1000,
    warm_up: int = 100,
) -> tuple[str, ...]:
    """The pair as TFLite files in `export/TARGET`, each checked; then the cascade over the test split, timed."""
    from dynnas_jax.export import pair as exporting

    saved = read_arrays(job.workdir.folder("evaluate") / "outputs.npz")
    predicted = saved["prediction"][np.arange(len(saved["choice"])), saved["choice"]]
    nets, resolution = _exported_nets(job)
    where, test = folder / job.target, at_resolution(job.images.test, resolution)
    files = exporting.export_pair(
        **nets,
        image_shape=test.images.shape[1:],
        folder=where,
        calibration=np.asarray(resized(job.calibration(calibration_images), resolution)),
        precisions=tuple(precisions),
    )
    measured = exporting.measure(
        where,
        files,
        test.images,
        test.labels,
        predicted,
        precisions=tuple(precisions),
        threads=threads,
        runs=runs,
        warm_up=warm_up,
    )
    write_json(where / "export.json", measured)
    return (f"{job.target}/export.json", *(f"{job.target}/{file['path']}" for file in files.values()))


def _exported_nets(job: Job) -> tuple[dict[str, Any], int]:
    """For `export_pair`: the pair's three nets as functions of float images, and what is promised and told of them.

    The second is the resolution of the images they read, in pixels.
    """
    found, pair, variables = found_pair(job)
    pair = big_little.in_form(pair, "conv")
    cost = big_little.cost(pair)

    def little(images):
        stem = big_little.run_stem(pair, variables, images)
        return big_little.after_stem(pair, "little", variables, stem), stem

    def big(images):
        return big_little.after_stem(pair, "big", variables, big_little.run_stem(pair, variables, images))

    metadata = {"labels": list(job.images.classes), "cost": list(cost.cumulative)}
    nets = {
        "little": little,
        "big_after_stem": functools.partial(big_little.after_stem, pair, "big", variables),
        "big": big,
        "metadata": {**metadata, "score": found["score"], "thresholds": found["thresholds"]},
        "macs": {"little": cost.little, "big_after_stem": cost.big - cost.stem, "big": cost.big},
    }
    return nets, pair.big.arch.resolution
