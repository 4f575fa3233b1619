"""What the stages of nets of several exits share: their targets, and how one net of a search is chosen and described."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dynnas_jax.dynamic import exit_targets, metric, thresholds
from dynnas_jax.job import Job
from dynnas_jax.networks import exits as exit_nets
from dynnas_jax.search import exit_rewards


def targets(job: Job) -> exit_targets.Targets:
    """What the config's section `dynamic` asks for."""
    options = {key: value for key, value in job.dynamic.items() if key != "score"}
    return exit_targets.asked(largest_macs(job), **options)


def largest_macs(job: Job) -> int:
    """All MACs spent when the last exit of the largest net answers."""
    return exit_nets.costs(job.supernet.largest_net()).macs[-1]


def check_targets(job: Job, least_macs: int) -> None:
    """Raises ValueError for a target below the cheapest answer's cost."""
    exit_targets.check_reachable(targets(job), least_macs)


class Judged(NamedTuple):
    """A net of S exits on the held-out images, with its best thresholds for a target."""

    genome: np.ndarray
    point: thresholds.OperatingPoint
    reward: float
    score: np.ndarray  # float32[m, S]
    correct: np.ndarray  # bool[m, S]


def judged(genome: np.ndarray, answers: tuple, cost: np.ndarray, target: float, omega: float) -> Judged:
    """The net with its best thresholds, from its answers (score, correct) [m, S] and cost [S]."""
    point = exit_rewards.best(*answers, cost, target, omega)
    return Judged(genome, point, exit_rewards.worth(point, target, omega), *answers)


def described(job: Job, one: Judged, target: float) -> dict[str, Any]:
    """What `found.json` says of a net."""
    space, arch = job.supernet.space, job.supernet.arch(one.genome)
    costs = exit_nets.costs(job.supernet.net(arch))
    entry = {
        "target_macs": target,
        "genome": space.to_json(one.genome),
        "macs": list(costs.macs),
        "params": list(costs.params),
        "thresholds": list(one.point.thresholds),
        "reward": one.reward,
        "holdout": measured(one.score, one.correct, costs.macs, one.point.thresholds),
    }
    return entry | ({"arch": job.supernet.arch.file(one.genome)} if space.genes else {})


def found(job: Job, targets: exit_targets.Targets, nets: list[dict]) -> dict[str, Any]:
    """The content of `found.json`, from the nets as `described`."""
    content = {"space": job.supernet.space.fingerprint, "score": job.score, "omega": targets.omega}
    return content | {"deployed": targets.deployed, "largest_macs": largest_macs(job), "nets": nets}


def measured(score: np.ndarray, correct: np.ndarray, cost: Any, limits: Any) -> dict[str, Any]:
    """What a net does on images at its thresholds: on average, and of each exit the share of the images and its accuracy.

    The averages are those of `metric.averages`. An exit that answers no image has no accuracy.
    """
    point = thresholds.evaluate(score, correct, cost, limits)
    choice = thresholds.choices(score, limits)
    right = [correct[choice == exit, exit] for exit in range(len(cost))]
    accuracy = np.asarray([part.mean() if len(part) else 0.0 for part in right])
    average = metric.averages(np.asarray(point.exit_rate), accuracy, np.asarray(cost, np.float64))
    return {
        "images": len(correct),
        "accuracy": float(average.accuracy),
        "average_macs": float(average.cost),
        "exit_rate": list(point.exit_rate),
        "exit_accuracy": [float(value) if len(part) else None for value, part in zip(accuracy, right, strict=True)],
        "all_images_accuracy": correct.mean(axis=0).tolist(),  # of each exit, had it answered every image
    }
