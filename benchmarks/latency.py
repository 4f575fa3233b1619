"""Predicted against measured latency of random subnets: python benchmarks/latency.py --table=FILE --config=configs/cifar10.py.

The table is one that `dynnas table` made on this machine from the same config. Subnets that its fit has not seen are drawn,
spread evenly over the logarithm of the predicted latency, converted in the table's precision and timed in interleaved rounds.
Prints one JSON object; beside the table stands what MACs alone would tell.
"""

import argparse
import os
import tempfile
from pathlib import Path

import jax
import numpy as np
import result
from scipy.stats import kendalltau

from dynnas_jax import __main__ as command
from dynnas_jax.costs import latency, macs
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import latency_table, rounds, targets
from dynnas_jax.networks import multi_costs
from dynnas_jax.stages import table


def errors(predicted: np.ndarray, measured: np.ndarray) -> dict:
    """How far predictions [n] are off."""
    relative = np.abs(predicted / measured - 1)
    return {
        "median_relative_error": float(np.median(relative)),
        "p90_relative_error": float(np.quantile(relative, 0.9)),
        "largest_relative_error": float(relative.max()),
        "kendall_tau": float(kendalltau(predicted, measured).statistic),
    }


def by_macs(count: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """The best straight line through the measured latencies over MACs, by relative errors."""
    columns = np.stack([np.ones(len(count)), count], axis=1) / measured[:, None]
    return np.stack([np.ones(len(count)), count], axis=1) @ np.linalg.lstsq(columns, np.ones(len(count)))[0]


def calls(supernet: Supernet, whole: macs.CostTable, genome: np.ndarray) -> list[float]:
    """What each call that a device makes of a subnet costs: one, or one for each exit."""
    if not supernet.exits:
        return [whole.exact(genome)]
    spent = multi_costs.spent(supernet, multi_costs.exit_tables(supernet, whole))(genome)
    return np.diff([0.0, *spent]).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--nets", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--core", type=int, help="pin this process to a core")
    known, rest = parser.parse_known_args()
    if known.core is not None:
        os.sched_setaffinity(0, {known.core})
    found = latency.load(known.table)
    supernet = table.supernet_of(command._config(rest))
    cost, counted = found.of(supernet), macs.table(supernet)
    genomes = table.stratified(supernet, cost, known.nets, jax.random.key(1))
    form = targets.target(found.target).depthwise
    parts = [part for genome in genomes for part in table.net_parts(supernet, genome, form)]
    with tempfile.TemporaryDirectory() as folder:
        samples = latency_table.timed(
            parts,
            Path(folder) / "nets",
            plan={},
            precision=found.device["precision"],
            runtime=latency_table.JAX if found.device["runtime"].startswith("JAX") else latency_table.LITERT,
            threads=found.device["threads"],
            rounds=known.rounds,
        )
    measured, spread = rounds.typical(samples)
    predicted, count = (
        np.asarray([spent for genome in genomes for spent in calls(supernet, whole, genome)], float)
        for whole in (cost, counted)
    )
    halves = [rounds.typical(samples[half::2])[0] for half in (0, 1)]
    report = {
        "table": {"device": found.device, "fit": found.fit, "rows": len(found.rows), "overhead_ms": found.overhead_ms},
        "range_ms": [float(measured.min()), float(measured.max())],
        "range": float(measured.max() / measured.min()),
        **errors(predicted, measured),
        "macs_alone": errors(by_macs(count, measured), measured),
        "noise": {
            "between_halves": float(np.median(np.abs(halves[0] / halves[1] - 1))),
            "between_rounds": float(np.median(spread / measured)),
        },
        "nets": [
            {"macs": int(m), "predicted_ms": float(p), "measured_ms": float(t)}
            for m, p, t in zip(count, predicted, measured, strict=True)
        ],
    }
    what = f"predicted against measured latency of {len(genomes)} subnets, {found.device['precision']}"
    result.show(what, report | {"n": known.rounds}, packages=("ai-edge-litert",))


if __name__ == "__main__":
    main()
