"""The stage that measures every net of a stage-wise growth on the test split, and the candidates together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dynnas_jax import kinds, sides
from dynnas_jax.data.splits import in_batches, parts
from dynnas_jax.dynamic import protocol, quality, single
from dynnas_jax.export.functions import SINGLE
from dynnas_jax.finished import net_of
from dynnas_jax.job import Job, described, facts_of, grown_net, growth_found, load_variables, trained_net
from dynnas_jax.search.stage_growth import CANDIDATE
from dynnas_jax.stages import evaluate, growth_nets
from dynnas_jax.workdir import write_json

_COSTS = ("depth", "macs", "params", "params_with_statistics", "memory_bytes")


class Member(NamedTuple):
    """A net of an ensemble."""

    name: str
    net: nn.Module
    variables: dict
    facts: dict  # of `growth.json`; of another run's net what it costs


def run(
    job: Job, folder: Path, *, also: tuple[str, ...] = (), together: tuple[int, ...] | None = None
) -> tuple[str, ...]:
    """What each net answers on the test split, which nothing before has seen; the outputs are those of the last candidate.

    Where nets were trained further, their accuracy before that is told too (`scored_test_accuracy`).

    Args:
      also: directories of other runs that grew, or of fixed networks, whose nets answer together with the candidates.
      together: iterations whose candidates answer together, of this run and of others; None: all. The paper's are 1, 3 and 5.
    """
    growth, split, classes = growth_found(job.workdir.path), job.images.test, len(job.images.classes)
    members, others = own_members(job), other_members(job, also, together)
    probabilities = {one.name: answered(one.net, one.variables, split) for one in (*members, *others)}
    rows = [
        {**_row(one), **judged(probabilities[one.name], split.labels, classes), **_before(job, one, split)}
        for one in members
    ]
    last = growth["candidates"][-1]["name"]
    own = [one for one in members if one.facts["role"] == CANDIDATE and _chosen(one.facts["iteration"], together)]
    joint = functools.partial(_ensemble, probabilities, labels=split.labels, classes=classes)
    summary = {
        "split": "test",
        "images": len(split),
        "networks": rows,
        "ensemble": joint(own),
        **_last(job, folder, rows[[row["name"] for row in rows].index(last)]),
    }
    if others:
        summary["joint_ensemble"] = joint([*own, *others])
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


def _chosen(iteration: int, together: Sequence[int] | None) -> bool:
    return together is None or iteration in together


def other_members(job: Job, also: Sequence[str], together: Sequence[int] | None = None) -> list[Member]:
    """The candidates of other runs that grew, of these iterations or all, and the nets of runs of fixed networks.

    Raises:
      ValueError: for a run of another kind, unfinished, without these iterations, or tested on other images.
    """
    found, mine = [], described(job.images)
    for path in also:
        folder = Path(str(path)).expanduser()
        nets = list(enumerate(sides.nets_of_run("evaluate.also", folder), 1))
        if kinds.of_run(folder) is kinds.GROWTH:
            nets = [(number, side) for number, side in nets if _chosen(number, together)]
        if not nets:
            raise ValueError(
                f"evaluate.also: {folder} has none of the iterations in evaluate.together, {tuple(together)}"
            )
        for number, side in nets:
            data = side.made_of["data"]
            if data["classes"] != mine["classes"] or data["splits"]["test"] != mine["splits"]["test"]:
                raise ValueError(f"evaluate.also: {folder} has other test images or classes than this run")
            costs = {"macs": side.macs, "params_with_statistics": _held(side.variables)}
            found.append(Member(f"{path} {number}", net_of(side.made_of), side.variables, costs))
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


def _before(job: Job, one: Member, split) -> dict[str, float]:
    """The accuracy that a net had before it was trained further; {} where it was not."""
    if job.workdir.config["grow"].get("further") is None:
        return {}
    file = (job.workdir.path / one.facts["variables"]).with_name(growth_nets.SCORED)
    right = answered(one.net, load_variables(file), split).argmax(axis=1) == np.asarray(split.labels)
    return {"scored_test_accuracy": float(right.mean())}


def _row(one: Member) -> dict:
    """What is known of a net beside its answers."""
    keys = ("name", "role", "iteration", "depths", *_COSTS, "holdout_accuracy", "training")
    return {key: one.facts[key] for key in keys}


def _ensemble(probabilities: dict, members: Sequence[Member], *, labels: np.ndarray, classes: int) -> dict:
    """Nets together: the mean of their probabilities, and what all of them cost."""
    names = [one.name for one in members]
    told = judged(np.mean([probabilities[name] for name in names], axis=0), labels, classes)
    costs = {key: int(sum(one.facts[key] for one in members)) for key in ("macs", "params_with_statistics")}
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


def check(job: Job, *, also: tuple[str, ...] = (), together: tuple[int, ...] | None = None) -> None:
    """Raises ValueError for other runs that cannot answer together with this one's, or an iteration that it does not have."""
    iterations = range(1, growth_nets.Options(**job.workdir.config["grow"]).iterations + 1)
    if isinstance(also, str) or not isinstance(also, Sequence):
        raise ValueError(f"evaluate.also is {also!r}, must be a tuple of working directories")
    if together is not None and not (isinstance(together, Sequence) and together and set(together) <= set(iterations)):
        raise ValueError(f"evaluate.together is {together!r}, must be iterations of 1 to {iterations[-1]}, in a tuple")
    other_members(job, also, together)
