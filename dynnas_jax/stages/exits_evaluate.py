"""The stage that measures nets of several exits on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dynnas_jax.data.resize import at_resolution
from dynnas_jax.dynamic import protocol, thresholds
from dynnas_jax.finished import FoundExits, found_exits
from dynnas_jax.job import Job, load_variables
from dynnas_jax.networks.exits import ExitNet
from dynnas_jax.stages import evaluate, exits
from dynnas_jax.stages.exits_predict import SINGLE
from dynnas_jax.stages.exits_search import first_alone
from dynnas_jax.workdir import write_json

SHOWN = 8  # images of each exit that the report shows


def run(job: Job, folder: Path) -> tuple[str, ...]:
    """Every target's net at its thresholds, its exits each alone, and the single net of its cost, on images not seen before."""
    whole, outputs = found_exits(job), {}
    nets = []
    for number, entry in enumerate(whole.found["nets"]):
        key = str(entry["genome"])
        if key not in outputs:
            outputs[key] = _answers(whole, number, job)
        nets.append(_tested(job, entry, outputs[key], number))
    number = whole.deployed
    entry = whole.found["nets"][number]
    out, split = outputs[str(entry["genome"])], job.images.test
    choice = thresholds.choices(out.score, entry["thresholds"])
    np.savez(folder / "outputs.npz", **out._asdict(), choice=choice, label=split.labels, image_id=split.image_id)
    told = {"split": "test", "images": len(split), "deployed": number, "cost": whole.found["cost"], "nets": nets}
    told["calibration"] = evaluate.calibration({"dynamic": out.taken(choice)})
    write_json(folder / "evaluation.json", told)
    rows = shown_rows(choice, len(entry["macs"]))
    images = at_resolution(split, whole.nets[number].arch.resolution).images
    np.savez(folder / "samples.npz", row=rows, image=images[rows])
    return "evaluation.json", "outputs.npz", "samples.npz"


def _answers(whole: FoundExits, number: int, job: Job) -> protocol.Outputs:
    split = at_resolution(job.images.test, whole.nets[number].arch.resolution)
    return protocol.answers(whole.dynamic(number), whole.variables[number], split)


def _tested(job: Job, entry: dict, out: protocol.Outputs, number: int) -> dict[str, Any]:
    """A row of `evaluation.json`."""
    spent = exits.spent_of(entry)
    told = exits.measured(out.score, out.correct, spent, entry["thresholds"])
    choice = thresholds.choices(out.score, entry["thresholds"])
    told |= {"target": entry["target"], **spent, "thresholds": entry["thresholds"]}
    told["dynamic"] = evaluate.measured(out.taken(choice), len(job.images.classes))
    if single := entry.get("single"):
        told["single"] = {unit: single[unit] for unit in spent} | _single(job, single, number)
        told["single"]["feasible"] = single["feasible"]
    return told


def _single(job: Job, single: dict, number: int) -> dict[str, float]:
    supernet = job.supernet
    net: ExitNet = supernet.net(first_alone(supernet.arch(supernet.space.from_json(single["genome"]))))
    variables = load_variables(job.workdir.folder("search") / "nets.msgpack")[f"{SINGLE}{number}"]
    split = at_resolution(job.images.test, net.arch.resolution)
    out = protocol.answers(protocol.multi_exit(net), variables, split)
    return evaluate.measured(out.taken(0), len(job.images.classes))


def shown_rows(choice: np.ndarray, count: int) -> np.ndarray:
    """int[n]: at most `SHOWN` images that leave at each of so many exits, the first ones of the split."""
    return np.concatenate([np.flatnonzero(choice == exit)[:SHOWN] for exit in range(count)])
