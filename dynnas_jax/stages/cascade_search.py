"""The stage that joins two finished runs by a threshold, chosen on images that neither was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynnas_jax import decisions, processes, sides
from dynnas_jax.data.resize import at_resolution
from dynnas_jax.dynamic import protocol
from dynnas_jax.dynamic.routers import Router, RouterCost
from dynnas_jax.job import NO_HELD_OUT, Job, described, save_variables
from dynnas_jax.networks import big_little
from dynnas_jax.search import pairs
from dynnas_jax.stages import routers
from dynnas_jax.workdir import write_json


def run(job: Job, folder: Path) -> tuple[str, ...]:
    """The threshold between the little and the big net; both, and how they were made, are kept beside it."""
    little, big = sides.read_both(**job.workdir.config["cascade"])
    sides.check(little, big, job.images)
    pair = big_little.Pair(little.net, big.net, stem=())
    variables = {"little": little.variables, "big": big.variables}
    held_out = at_resolution(job.images.holdout, big.net.arch.resolution)
    dynamic = protocol.confident_pair(pair, score=job.score)
    out = protocol.answers(dynamic, variables, held_out)
    targets = {key: value for key, value in job.dynamic.items() if key != "score"}
    alone = np.asarray([little.macs, big.macs])
    chosen = pairs.choose_pair(out.score.T, out.correct.T, alone, 0, big_net="largest", **targets)
    point, router, optimal = chosen.point, Router(confidence=job.score), decisions.OPTIMAL[0]
    row = routers.row(routers.Tried(router, None, RouterCost(0, 0), out.score, out.correct), point, optimal)
    found = {
        **{which: _described(side) for which, side in (("little", little), ("big", big))},
        "stem_macs": 0,
        "params": big_little.params(pair, variables),
        "score": job.score,
        "cost": list(dynamic.cost),
        "thresholds": list(point.thresholds),
        "target": {"max_macs": chosen.max_cost, "min_accuracy": chosen.min_accuracy},
        "feasible": point.feasible,
        "holdout": {
            "accuracy": point.accuracy,
            "average_macs": point.average_cost,
            "exit_rate": list(point.exit_rate),
        },
        "optimal": optimal,
        "routers": [row | {"cost": list(dynamic.cost), "spec": router.to_json()}],
    }
    if not processes.is_first():
        return ()
    save_variables(folder / "pair.msgpack", variables)
    save_variables(folder / "routers.msgpack", {})
    write_json(folder / "data.json", described(job.images))
    write_json(folder / "found.json", {"front": [], "pair": found})
    return "found.json", "pair.msgpack", "routers.msgpack", "data.json"


def _described(side: sides.Side) -> dict:
    return {"run": str(side.run), "made_of": side.made_of, "macs": side.macs, "params": side.params}


def check(job: Job) -> None:
    """Raises ValueError for runs that make no cascade on this config's images."""
    if not len(job.images.holdout):
        raise ValueError(NO_HELD_OUT)
    sides.check(*sides.read_both(**job.workdir.config["cascade"]), job.images)
