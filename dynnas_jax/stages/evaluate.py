"""The stage that measures the chosen network on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dynnas_jax.data.resize import at_resolution
from dynnas_jax.dynamic import protocol, thresholds
from dynnas_jax.job import Job, found_pair, load_variables
from dynnas_jax.stages import routers
from dynnas_jax.workdir import write_json


def run(job: Job, folder: Path) -> tuple[str, ...]:
    """Little, big and dynamic on the test split, which nothing before has seen."""
    from dynnas_jax.reports.sections import sample_rows

    whole = found_pair(job)
    found, pair, variables = whole
    split = at_resolution(job.images.test, pair.big.arch.resolution)
    dynamic = whole.dynamic()
    out = protocol.answers(dynamic, variables, split)
    point = thresholds.evaluate(out.score, out.correct, np.asarray(dynamic.cost), found["thresholds"])
    choice = dynamic.policy(out.score.T, np.asarray(found["thresholds"], np.float32))
    right = out.correct[np.arange(len(split)), choice]
    np.savez(
        folder / "outputs.npz",
        score=out.score,
        correct=out.correct,
        prediction=out.prediction,
        choice=choice,
        label=split.labels,
        image_id=split.image_id,
    )
    summary: dict[str, Any] = {"split": "test", "images": len(split)}
    for s, which in enumerate(("little", "big")):
        summary[which] = {"accuracy": float(out.correct[:, s].mean())} | {
            k: found[which][k] for k in ("macs", "params")
        }
    summary["dynamic"] = {
        "accuracy": point.accuracy,
        "macs": point.average_cost,
        "params": found["params"],
        "exit_rate": list(point.exit_rate),
        "thresholds": list(point.thresholds),
    }
    summary["paired"] = {
        "dynamic_right_big_wrong": int((right & ~out.correct[:, 1]).sum()),
        "dynamic_wrong_big_right": int((~right & out.correct[:, 1]).sum()),
    }
    if "routers" in found:
        params = load_variables(job.workdir.folder("search") / "routers.msgpack")
        summary["routers"] = routers.tested(pair, variables, found, params, split, out.score, out.correct)
    summary["expected_macs_fraction"] = point.average_cost / found["big"]["macs"]
    write_json(folder / "evaluation.json", summary)
    rows = np.unique(np.concatenate(list(sample_rows(out.score, choice).values())))
    np.savez(folder / "samples.npz", row=rows, image=split.images[rows])
    return "evaluation.json", "outputs.npz", "samples.npz"
