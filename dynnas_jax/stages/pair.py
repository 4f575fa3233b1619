"""What a little and a big net cost together and do on the held-out images, as the search's answers tell it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import thresholds
from dynnas_jax.elastic import Supernet
from dynnas_jax.networks import big_little
from dynnas_jax.search import pairs


class Costs(NamedTuple):
    """What the candidates for a pair cost, in one unit."""

    little: np.ndarray  # [k], each alone
    big: np.ndarray  # [n], each alone
    stem: np.ndarray  # [n], of that the blocks that a pair shares

    def spent(self, little: int, big: int) -> list:
        """What is spent when little, and when big answers."""
        first = self.little[little].item()
        return [first, first + self.big[big].item() - self.stem[big].item()]


def costs(supernet: Supernet, tables: dict[str, macs.CostTable], littles: np.ndarray, bigs: np.ndarray) -> dict:
    """`Costs` by unit (but params) of the candidates int32[k, genes] for little and int32[n, genes] for big."""
    stem = big_little.build(supernet, bigs[0], bigs[0]).stem
    return {
        unit: Costs(*(_exact(*of) for of in ((table, littles), (table, bigs), (table.only(stem), bigs))))
        for unit, table in tables.items()
        if unit != "params"
    }


def _exact(table: macs.CostTable, genomes: np.ndarray) -> np.ndarray:
    return np.asarray([table.exact(genome) for genome in genomes])


def described(supernet: Supernet, tables: dict[str, macs.CostTable], genome: np.ndarray) -> dict:
    """A subnet as an answer has it."""
    exact = {name: table.exact(genome) for name, table in tables.items()}
    return {"genome": supernet.space.to_json(genome), "arch": supernet.arch.file(genome), **exact}


def spent(
    chosen: pairs.ChosenPair, units: dict[str, Costs], *, router_macs: int = 0, before_little: bool = False
) -> dict[str, list]:
    """By unit, what is spent when little, and when big answers. Latency tables know nothing of routers.

    Args:
      before_little: whether the router comes first, so that big answers without little.
    """
    found = {name: costs.spent(chosen.little, chosen.big) for name, costs in units.items()}
    if before_little:
        found = {name: [cost[0], units[name].big[chosen.big].item()] for name, cost in found.items()}
    return {**found, "macs": [cost + router_macs for cost in found["macs"]]}


def described_point(
    chosen: pairs.ChosenPair, unit: str, spent: dict[str, list], score: np.ndarray, correct: np.ndarray
) -> dict:
    """How a pair runs: what it costs, its threshold, its target, and, from its score and correct [m, 2], what it does."""
    point = chosen.point
    average = {
        f"average_{name}": thresholds.evaluate(score, correct, cost, point.thresholds).average_cost
        for name, cost in spent.items()
    }
    return {
        "cost": spent["macs"],
        **{name: cost for name, cost in spent.items() if name != "macs"},
        "thresholds": list(point.thresholds),
        "target": {f"max_{unit}": chosen.max_cost, "min_accuracy": chosen.min_accuracy},
        "feasible": point.feasible,
        "holdout": {"accuracy": point.accuracy, **average, "exit_rate": list(point.exit_rate)},
    }
