"""The stage that measures every net of a stage-wise growth on the test split, and the candidates together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dynnas_jax import sides
from dynnas_jax.data.splits import in_batches, parts
from dynnas_jax.dynamic import protocol, quality, single
from dynnas_jax.export.functions import SINGLE
from dynnas_jax.finished import net_of
from dynnas_jax.job import Job, described, facts_of, grown_net, growth_found, load_variables, trained_net
from dynnas_jax.stages import evaluate
from dynnas_jax.workdir import write_json

_COSTS = ("depth", "macs", "params", "params_with_statistics", "memory_bytes")


class Member(NamedTuple):
    """A net of an ensemble."""

    name: str
    net: nn.Module
    variables: dict
    facts: dict  # of `growth.json`; of a fixed network's run none


def run(job: Job, folder: Path, *, also: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What each net answers on the test split, which nothing before has seen; the outputs are those of the last candidate.

    Args:
      also: directories of other runs that grew, or of fixed networks, whose nets answer together with the candidates.
    """
    growth, split, classes = growth_found(job.workdir.path), job.images.test, len(job.images.classes)
    members, others = own_members(job), other_members(job, also)
    probabilities = {one.name: answered(one.net, one.variables, split) for one in (*members, *others)}
    rows = [{**_row(one), **judged(probabilities[one.name], split.labels, classes)} for one in members]
    candidates = [entry["name"] for entry in growth["candidates"]]
    summary = {
        "split": "test",
        "images": len(split),
        "networks": rows,
        "ensemble": _ensemble(probabilities, candidates, split.labels, classes, growth),
        **_last(job, folder, rows[[row["name"] for row in rows].index(candidates[-1])]),
    }
    if others:
        names = [*candidates, *(one.name for one in others)]
        told = judged(np.mean([probabilities[name] for name in names], axis=0), split.labels, classes)
        held = [one.facts.get("params_with_statistics") or _held(one.variables) for one in others]
        held += [entry["params_with_statistics"] for entry in growth["candidates"]]
        summary["joint_ensemble"] = {"networks": names, "params_with_statistics": int(sum(held)), **told}
    write_json(folder / "evaluation.json", summary)
    return "evaluation.json", "outputs.npz"


def own_members(job: Job) -> list[Member]:
    """The initial net, the candidates and the controls, in this order."""
    growth = growth_found(job.workdir.path)
    entries = [growth["initial"], *growth["candidates"], *growth["controls"]]
    facts = facts_of(job.images)
    return [
        Member(entry["name"], grown_net(entry, facts), load_variables(job.workdir.path / entry["variables"]), entry)
        for entry in entries
    ]


def other_members(job: Job, also: Sequence[str]) -> list[Member]:
    """The candidates of other runs that grew, and the nets of runs of fixed networks.

    Raises:
      ValueError: for a run of another kind, unfinished, or tested on other images.
    """
    found, mine = [], described(job.images)
    for path in also:
        folder = Path(str(path)).expanduser()
        for number, side in enumerate(sides.nets_of_run("evaluate.also", folder), 1):
            data = side.made_of["data"]
            if data["classes"] != mine["classes"] or data["splits"]["test"] != mine["splits"]["test"]:
                raise ValueError(f"evaluate.also: {folder} has other test images or classes than this run")
            found.append(Member(f"{folder.name} {number}", net_of(side.made_of), side.variables, {}))
    return found


def answered(net: nn.Module, variables: dict, split) -> np.ndarray:
    """float32[m, C]: the probabilities that a net gives the images of a split."""

    @jax.jit
    def run(variables, images):
        answer = functools.partial(single.outputs, net)
        return jax.lax.map(lambda batch: jax.nn.softmax(answer(variables, batch)[0][0]), images)

    found = []
    for part in parts(split, protocol.AT_ONCE):
        images, _ = in_batches(part, min(256, len(split)))
        told = np.asarray(run(variables, images))
        found.append(told.reshape(-1, told.shape[-1])[: len(part)])
    return np.concatenate(found)


def judged(probabilities: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    """`quality.measured` of probabilities float[m, C]."""
    labels = np.asarray(labels)
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, : quality.TOP]
    among = (likeliest == labels[:, None]).any(axis=1)
    return quality.measured(likeliest[:, 0] == labels, probabilities.max(axis=1).clip(0, 1), among, classes)


def _row(one: Member) -> dict:
    """What is known of a net beside its answers."""
    keys = ("name", "role", "iteration", "depths", *_COSTS, "holdout_accuracy", "training")
    return {key: one.facts[key] for key in keys}


def _ensemble(probabilities: dict, names: list[str], labels: np.ndarray, classes: int, growth: dict) -> dict:
    """All candidates together: the mean of their probabilities."""
    told = judged(np.mean([probabilities[name] for name in names], axis=0), labels, classes)
    costs = {key: int(sum(entry[key] for entry in growth["candidates"])) for key in ("macs", "params_with_statistics")}
    return {"networks": names, **costs, **told}


def _held(variables: dict) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(variables))


def _last(job: Job, folder: Path, row: dict) -> dict:
    """What is told of a run with one net: its answers, their calibration, and the classes one by one."""
    (net, variables), split, classes = trained_net(job), job.images.test, len(job.images.classes)
    out = protocol.answering(functools.partial(single.outputs, net, score=job.score))(variables, split)
    choice = np.zeros(len(split), np.int32)
    np.savez(folder / "outputs.npz", **out._asdict(), choice=choice, label=split.labels, image_id=split.image_id)
    found = out.taken(0)
    return {
        SINGLE: evaluate.measured(found, classes) | {key: row[key] for key in ("macs", "params")},
        "calibration": evaluate.calibration({SINGLE: found}),
        "by_class": quality.by_group(np.asarray(split.labels), classes, **{SINGLE: found.correct}),
    }


def check(job: Job, *, also: tuple[str, ...] = ()) -> None:
    """Raises ValueError for other runs that cannot answer together with this one's."""
    other_members(job, also)
