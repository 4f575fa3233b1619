"""The stage that measures the chosen network on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynnas_jax import decisions
from dynnas_jax.data.resize import at_resolution
from dynnas_jax.dynamic import protocol, quality, thresholds
from dynnas_jax.dynamic.routers import RouterCost, policy
from dynnas_jax.finished import FoundPair, found_pair
from dynnas_jax.job import Job, load_variables
from dynnas_jax.stages import routers
from dynnas_jax.workdir import write_json


def run(job: Job, folder: Path) -> tuple[str, ...]:
    """Little, big and dynamic on the test split, which nothing before has seen."""
    from dynnas_jax.reports import routing_sections

    whole = found_pair(job)
    split = at_resolution(job.images.test, whole.pair.big.arch.resolution)
    dynamic = whole.dynamic()
    out = protocol.answers(dynamic, whole.variables, split)
    tested = Tested(whole.found, dynamic.cost, out, np.asarray(split.labels), len(job.images.classes))
    np.savez(
        folder / "outputs.npz",
        **out._asdict(),
        choice=tested.choice,
        label=split.labels,
        image_id=split.image_id,
    )
    told = summary(tested)
    told["routers"] = _routers(job, whole, split, out)
    write_json(folder / "evaluation.json", told)
    rows = routing_sections.shown_rows(out.score, out.correct, tested.choice, tested.optimal)
    np.savez(folder / "samples.npz", row=rows, image=split.images[rows])
    return "evaluation.json", "outputs.npz", "samples.npz"


class Tested(NamedTuple):
    """What a pair answered on the test split."""

    found: dict  # the pair, as the search describes it
    cost: tuple[int, ...]  # [2], all MACs spent when little, when big answers
    out: protocol.Outputs  # leaves [m, 2]
    label: np.ndarray  # int[m]
    classes: int

    @property
    def optimal(self) -> str:
        """The best decision, of `decisions.OPTIMAL`, that a router is judged by."""
        return self.found.get("optimal", decisions.OPTIMAL[0])

    @property
    def choice(self) -> np.ndarray:
        """int32[m]: which net answers, at the threshold of the search."""
        return self.choice_at(self.found["thresholds"])

    def choice_at(self, limits: Any) -> np.ndarray:
        """int32[m]: which net answers at other thresholds."""
        return policy(self.out.score.T, np.asarray(limits, np.float32))

    def answers(self) -> dict[str, protocol.Outputs]:
        """What little, big and dynamic answer, leaves [m]."""
        return {name: self.out.taken(which) for name, which in (("little", 0), ("big", 1), ("dynamic", self.choice))}


def summary(tested: Tested) -> dict[str, Any]:
    """`evaluation.json`, all but the rows of the routers."""
    found, answers = tested.found, tested.answers()
    point = thresholds.evaluate(tested.out.score, tested.out.correct, tested.cost, found["thresholds"])
    costs = {which: {key: found[which][key] for key in ("macs", "params")} for which in ("little", "big")}
    costs["dynamic"] = {
        "macs": point.average_cost,
        "params": found["params"],
        "exit_rate": list(point.exit_rate),
        "thresholds": list(point.thresholds),
    }
    dynamic, big = answers["dynamic"].correct, answers["big"].correct
    return {
        "split": "test",
        "images": len(tested.label),
        **{name: measured(one, tested.classes) | costs[name] for name, one in answers.items()},
        "paired": {
            "dynamic_right_big_wrong": int((dynamic & ~big).sum()),
            "dynamic_wrong_big_right": int((~dynamic & big).sum()),
        },
        "expected_macs_fraction": point.average_cost / found["big"]["macs"],
        "operating_points": operating_points(tested),
        "oracle": [_oracle(tested, optimal) for optimal in decisions.OPTIMAL],
        "calibration": calibration(answers),
        **_groups(tested, answers),
    }


def measured(answers: protocol.Outputs, classes: int) -> dict[str, float]:
    """`quality.measured` of answers with leaves [m]."""
    return quality.measured(answers.correct, answers.probability, answers.among_likeliest, classes)


def calibration(answers: dict[str, protocol.Outputs]) -> dict[str, dict[str, list]]:
    """The bins of a reliability diagram for each net's answers, with leaves [m]."""
    found = {name: quality.reliability(one.probability, one.correct) for name, one in answers.items()}
    return {name: {key: quality.listed(of) for key, of in one._asdict().items()} for name, one in found.items()}


def operating_points(tested: Tested) -> list[dict]:
    """Dynamic at every one of `quality.THRESHOLDS`, and last at its own threshold."""
    rows = []
    for threshold in (*quality.THRESHOLDS, *tested.found["thresholds"]):
        choice = tested.choice_at([threshold])
        row = {"threshold": threshold, "chosen": len(rows) == len(quality.THRESHOLDS)}
        row |= measured(tested.out.taken(choice), tested.classes)
        row["macs"] = float(np.asarray(tested.cost, np.float64)[choice].mean())
        rows.append(row | {"exit_rate": float(np.mean(choice == 0))})
    return rows


def _oracle(tested: Tested, optimal: str) -> dict:
    found = quality.oracle(tested.out.correct, np.asarray(tested.cost), optimal)
    return {"optimal": optimal, "accuracy": found.accuracy, "macs": found.average_cost, "exit_rate": found.exit_rate}


def _groups(tested: Tested, answers: dict[str, protocol.Outputs]) -> dict[str, dict]:
    """What the nets do, and the share of images that little answers, by class, by difficulty, and by how an image was routed."""
    right, little = {name: one.correct for name, one in answers.items()}, tested.choice == 0
    hardness = quality.difficulty(answers["big"].label_log_odds)
    case = quality.cases(tested.choice, decisions.best(*tested.out.correct.T, tested.optimal))
    by_difficulty = quality.by_group(hardness, len(quality.DIFFICULTIES), **right, exit_rate=little)
    by_case = quality.by_group(case, len(quality.CASES), **right)
    return {
        "by_class": quality.by_group(tested.label, tested.classes, **right, exit_rate=little),
        "by_difficulty": {"names": list(quality.DIFFICULTIES), **by_difficulty},
        "by_case": {"names": list(quality.CASES), "optimal": tested.optimal, **by_case},
    }


def _routers(job: Job, whole: FoundPair, split: Any, out: protocol.Outputs) -> list[dict]:
    """The rows of the routers; of a cascade, and a run from before there were others, that of little's confidence alone."""
    found = whole.found
    if "routers" in found:
        params = load_variables(job.workdir.folder("search") / "routers.msgpack")
        return routers.tested(whole.pair, whole.variables, found, params, split, out.score, out.correct)
    (threshold,) = found["thresholds"]
    point = thresholds.evaluate(out.score, out.correct, found["cost"], [threshold])
    tried = routers.Tried(whole.router, None, RouterCost(0, 0), out.score, out.correct)
    row = routers.row(tried, point, decisions.OPTIMAL[0])
    return [row | {"average_macs": point.average_cost, "auroc_holdout": None}]
