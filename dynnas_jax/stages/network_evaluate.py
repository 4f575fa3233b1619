"""The stage that measures a fixed network on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import single
from dynnas_jax.export.functions import SINGLE
from dynnas_jax.job import Job, trained_net
from dynnas_jax.workdir import write_json


def run(job: Job, folder: Path) -> tuple[str, ...]:
    """What the net answers on the test split, which nothing before has seen; the outputs are those of one choice."""
    (net, variables), split = trained_net(job), job.images.test
    found = single.answers(net, variables, split, score=job.score)
    measured: dict[str, Any] = {"accuracy": float(found.correct.mean())}
    outputs = {"score": found.score[:, None], "correct": found.correct[:, None], "prediction": found.likeliest[:, :1]}
    if len(job.images.classes) > single.TOP:
        measured["top5_accuracy"] = float(found.among_likeliest.mean())
        outputs["among_likeliest"] = found.among_likeliest
    counted = macs.net_cost(net, split.images.shape[1:])
    measured |= {"macs": counted[0], "params": counted[1]}
    np.savez(
        folder / "outputs.npz",
        **outputs,
        choice=np.zeros(len(split), np.int32),
        label=split.labels,
        image_id=split.image_id,
    )
    write_json(folder / "evaluation.json", {"split": "test", "images": len(split), SINGLE: measured})
    return "evaluation.json", "outputs.npz"
