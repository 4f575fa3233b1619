"""What the stages of nets of several exits share: their targets, and how one net of a search is chosen and described."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import exit_targets, metric, thresholds
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import Job
from dynnas_jax.networks import exits as exit_nets
from dynnas_jax.networks import multi_costs
from dynnas_jax.records import Records
from dynnas_jax.search import exit_rewards
from dynnas_jax.stages import cost_tables


class Aims(NamedTuple):
    """What a run's nets are to cost, and what any genome does, in every unit that is known."""

    targets: exit_targets.Targets
    tables: dict[str, tuple[macs.CostTable, ...]]  # of each exit, by unit

    @property
    def own(self) -> tuple[macs.CostTable, ...]:
        """The tables in the unit of the targets."""
        return self.tables[self.targets.unit]

    def spent(self, supernet: Supernet) -> Callable[[np.ndarray], list[float]]:
        """genome -> what is spent up to each exit, in the unit of the targets."""
        return multi_costs.spent(supernet, self.own)

    def of_records(self, supernet: Supernet, store: Records, rows: np.ndarray) -> np.ndarray:
        """[n, S]: what is spent up to each exit of these records."""
        if self.targets.unit == exit_targets.MACS:
            return store.read("cost", rows)
        spent = self.spent(supernet)
        return np.asarray([spent(genome) for genome in store.read("genome", rows)])

    def others(self, supernet: Supernet, genome: np.ndarray) -> dict[str, list[float]]:
        """What is spent up to each exit in units other than MACs."""
        return {
            unit: multi_costs.spent(supernet, tables)(genome)
            for unit, tables in self.tables.items()
            if unit != exit_targets.MACS
        }


def aims(supernet: Supernet, dynamic: dict, target: str) -> Aims:
    """What a config's section `dynamic` asks for.

    Raises:
      ValueError: for a target that no net of the space can meet, or a latency table of another space or target.
    """
    options, known = {key: value for key, value in dynamic.items() if key != "score"}, {exit_targets.MACS: None}
    if file := options.get("latency_table"):
        known[exit_targets.LATENCY] = cost_tables.read_latency_table(file, supernet, target).of(supernet)
    tables = {unit: multi_costs.exit_tables(supernet, whole) for unit, whole in known.items()}
    most = {unit: multi_costs.spent(supernet, of)(supernet.space.largest)[-1] for unit, of in tables.items()}
    targets = exit_targets.asked(most, **options)
    exit_targets.check_reachable(targets, multi_costs.least(supernet, tables[targets.unit][0]))
    return Aims(targets, tables)


def of_job(job: Job) -> Aims:
    """The aims of a run."""
    return aims(job.supernet, job.dynamic, job.target)


def check(job: Job) -> None:
    """Raises ValueError where a run's aims cannot be met, as `aims` does; says what a latency table makes of them."""
    of_job(job)
    if file := job.dynamic.get("latency_table"):
        cost_tables.tell_doubts(cost_tables.read_latency_table(file, job.supernet, job.target), job.workdir.config)


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


def described(job: Job, one: Judged, target: float, aims: Aims) -> dict[str, Any]:
    """What `found.json` says of a net."""
    space, arch = job.supernet.space, job.supernet.arch(one.genome)
    costs = exit_nets.costs(job.supernet.net(arch))
    spent = {exit_targets.MACS: list(costs.macs), **aims.others(job.supernet, one.genome)}
    entry = {
        "target": target,
        "genome": space.to_json(one.genome),
        **spent,
        "params": list(costs.params),
        "thresholds": list(one.point.thresholds),
        "reward": one.reward,
        "holdout": measured(one.score, one.correct, spent, one.point.thresholds),
    }
    return entry | ({"arch": job.supernet.arch.file(one.genome)} if space.genes else {})


def found(job: Job, aims: Aims, nets: list[dict]) -> dict[str, Any]:
    """The content of `found.json`, from the nets as `described`."""
    targets, largest = aims.targets, job.supernet.space.largest
    content = {"space": job.supernet.space.fingerprint, "score": job.score, "omega": targets.omega}
    content |= {"cost": targets.unit}
    for unit, tables in aims.tables.items():
        content[f"largest_{unit}"] = multi_costs.spent(job.supernet, tables)(largest)[-1]
    return content | {"nets": nets}


def spent_of(entry: dict) -> dict[str, list[float]]:
    """What a net of `found.json` costs up to each exit, by unit."""
    return {unit: entry[unit] for unit in (exit_targets.MACS, exit_targets.LATENCY) if unit in entry}


def measured(score: np.ndarray, correct: np.ndarray, spent: dict[str, list], limits: Any) -> dict[str, Any]:
    """What a net does on images at its thresholds: on average, and of each exit the share of the images and its accuracy.

    The averages are those of `metric.averages`. An exit that answers no image has no accuracy.

    Args:
      spent: what the net costs up to each exit, by unit; averages are told as `average_` and the unit.
    """
    cost = spent[exit_targets.MACS]
    point = thresholds.evaluate(score, correct, cost, limits)
    choice = thresholds.choices(score, limits)
    right = [correct[choice == exit, exit] for exit in range(len(cost))]
    accuracy = np.asarray([part.mean() if len(part) else 0.0 for part in right])
    average = {
        unit: metric.averages(np.asarray(point.exit_rate), accuracy, np.asarray(each, np.float64))
        for unit, each in spent.items()
    }
    return {
        "images": len(correct),
        "accuracy": float(average[exit_targets.MACS].accuracy),
        **{f"average_{unit}": float(each.cost) for unit, each in average.items()},
        "exit_rate": list(point.exit_rate),
        "exit_accuracy": [float(value) if len(part) else None for value, part in zip(accuracy, right, strict=True)],
        "all_images_accuracy": correct.mean(axis=0).tolist(),  # of each exit, had it answered every image
    }
