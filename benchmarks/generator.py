"""How long a run's generator takes for 50 scenarios, after compilation, and how near its answers are to their budgets.

    python benchmarks/generator.py --workdir=runs/eas_digits

Prints one JSON object. `repaired` counts the scenarios without a sample within the budget.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
import result

from dynnas_jax import job
from dynnas_jax.stages import superclass_generator
from dynnas_jax.workdir import read_config


def measure(workdir: Path, scenarios: int, samples: int, repeats: int) -> dict:
    """Milliseconds of one pass (`result.times`), and the mean distance of the answers from the budgets."""
    supernet = job.supernet_of_run(workdir)
    trained = superclass_generator.load(workdir, supernet, read_config(workdir)["target"])
    answer = trained.answerer(supernet, samples=samples)
    count = len(trained.superclasses.names)
    members = np.eye(count, dtype=bool)[np.arange(scenarios) % count]
    budgets = np.linspace(*trained.ends, scenarios + 2, dtype=np.float32)[1:-1]
    found = jax.device_get(answer(members, budgets, jax.random.key(0)))
    taken = []
    for number in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(answer(members, budgets, jax.random.key(number)))
        taken.append(1e3 * (time.perf_counter() - start))
    cost = np.asarray([trained.table.exact(genome) for genome in found.chosen])
    told = {"scenarios": scenarios, "samples": samples, **result.times(taken, "ms", 3)}
    told |= {"mean_distance": float(np.abs(cost / budgets - 1).mean()), "above": int((cost > budgets).sum())}
    return told | {"feasible_samples": float(found.feasible.mean()), "repaired": int(found.repaired.sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--scenarios", type=int, default=50)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=100)
    known = parser.parse_args()
    found = measure(known.workdir, known.scenarios, known.samples, known.repeats)
    result.show("a generator's answers", found)


if __name__ == "__main__":
    main()
