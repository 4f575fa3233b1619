"""The stage that trains the teacher: the largest net by the labels of all classes, without superclass dropout."""

from __future__ import annotations

from pathlib import Path

from dynnas_jax.job import Job
from dynnas_jax.stages import network_train


def run(job: Job, folder: Path, **options) -> tuple[str, ...]:
    """The largest net, as a fixed network is trained; leaves the averaged variables with statistics of their own."""
    return network_train.run(job, folder, **options)


def check(job: Job, **options) -> None:
    """Raises ValueError for what would end a run at its first step, or long after it."""
    network_train.check(job, **options)
