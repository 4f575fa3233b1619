"""The stage that measures a fixed network on the test split."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import protocol, quality, single
from dynnas_jax.export.functions import SINGLE
from dynnas_jax.job import Job, trained_net
from dynnas_jax.stages import evaluate
from dynnas_jax.workdir import write_json


def run(job: Job, folder: Path) -> tuple[str, ...]:
    """What the net answers on the test split, which nothing before has seen; the outputs are those of one choice."""
    (net, variables), split, classes = trained_net(job), job.images.test, len(job.images.classes)
    out = protocol.answering(functools.partial(single.outputs, net, score=job.score))(variables, split)
    np.savez(
        folder / "outputs.npz",
        **out._asdict(),
        choice=np.zeros(len(split), np.int32),
        label=split.labels,
        image_id=split.image_id,
    )
    found = out.taken(0)
    costs = dict(zip(("macs", "params"), macs.net_cost(net, split.images.shape[1:]), strict=True))
    summary = {
        "split": "test",
        "images": len(split),
        SINGLE: evaluate.measured(found, classes) | costs,
        "calibration": evaluate.calibration({SINGLE: found}),
        "by_class": quality.by_group(np.asarray(split.labels), classes, **{SINGLE: found.correct}),
    }
    write_json(folder / "evaluation.json", summary)
    return "evaluation.json", "outputs.npz"
