"""The stage that finds, for every target, the thresholds of a fixed network of several exits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynnas_jax.data.resize import at_resolution
from dynnas_jax.dynamic import protocol
from dynnas_jax.job import NO_HELD_OUT, Job, supernet_variables
from dynnas_jax.networks import exits as exit_nets
from dynnas_jax.stages import exits
from dynnas_jax.workdir import write_json


def run(job: Job, folder: Path) -> tuple[str, ...]:
    """The best thresholds on the held-out images; the net is the same for all targets."""
    targets, net, space = exits.targets(job), job.supernet.largest_net(), job.supernet.space
    dynamic = protocol.multi_exit(net, score=job.score)
    out = protocol.answers(dynamic, supernet_variables(job), at_resolution(job.images.holdout, net.arch.resolution))
    cost, nets = np.asarray(dynamic.cost), []
    for target in targets.macs:
        judged = exits.judged(space.largest, (out.score, out.correct), cost, target, targets.omega)
        nets.append(exits.described(job, judged, target))
    write_json(folder / "found.json", exits.found(job, targets, nets))
    return ("found.json",)


def check(job: Job) -> None:
    """Raises ValueError for no held-out images, or a target below the first exit's cost."""
    if not len(job.images.holdout):
        raise ValueError(NO_HELD_OUT)
    exits.check_targets(job, exit_nets.costs(job.supernet.largest_net()).macs[0])
