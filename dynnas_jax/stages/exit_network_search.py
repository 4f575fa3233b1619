"""The stage that finds, for every target, the thresholds of a fixed network of several exits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynnas_jax.data.resize import at_resolution
from dynnas_jax.dynamic import protocol
from dynnas_jax.job import NO_HELD_OUT, Job, supernet_variables
from dynnas_jax.stages import exits
from dynnas_jax.workdir import write_json


def run(job: Job, folder: Path) -> tuple[str, ...]:
    """The best thresholds on the held-out images; the net is the same for all targets."""
    aims, net, space = exits.of_job(job), job.supernet.largest_net(), job.supernet.space
    targets, cost, nets = aims.targets, np.asarray(aims.spent(job.supernet)(space.largest)), []
    dynamic = protocol.multi_exit(net, score=job.score)
    out = protocol.answers(dynamic, supernet_variables(job), at_resolution(job.images.holdout, net.arch.resolution))
    for target in targets.costs:
        judged = exits.judged(space.largest, (out.score, out.correct), cost, target, targets.omega)
        nets.append(exits.described(job, judged, target, aims))
    write_json(folder / "found.json", exits.found(job, aims, nets))
    return ("found.json",)


def check(job: Job) -> None:
    """Raises ValueError for no held-out images, a target below the first exit's cost, or a latency table that does not serve."""
    if not len(job.images.holdout):
        raise ValueError(NO_HELD_OUT)
    exits.check(job)
