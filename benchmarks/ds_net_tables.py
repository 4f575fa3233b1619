"""Dynamic slimmable networks under other trainings, losses and gates (Tables 5, 6, 7 and 10 of arXiv 2103.13258); prints JSON.

    python benchmarks/ds_net_tables.py --workdir=runs/ds_net_tables [--config=configs/ds_net_digits.py] [--seeds=3] [--tables=5,6]

Every row is the recipe with some keys changed, one run a seed, kept in the working directory and resumed from there. Rows that
train gates alone copy the supernet of the recipe's own row.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import result

from dynnas_jax import pipeline, settings

OWN = "recipe"
SUPERNETS = {  # tables of what trains the supernet: row -> overrides
    "5": {
        "in-place distillation": ("train.bootstrapping.target=online", "train.bootstrapping.ensemble=False"),
        "EMA": ("train.bootstrapping.target=ema", "train.bootstrapping.ensemble=False"),
        "EMA and ensemble": (),
    },
    "10": {"temperature 1": (), "temperature 4": ("train.bootstrapping.temperature=4.0",)},
}
GATES = {  # of what trains the gates
    "6": {
        "complexity alone": ("gate.sparsification.sandwich=0.0",),
        "try best": (),
        "give up": ("gate.sparsification.hard=give_up",),
    },
    "7": {
        "shared, one-hot": (),
        "shared, scalar": ("slimmable.gate_head=scalar",),
        "unshared, one-hot": ("slimmable.gate_shared=False",),
    },
}
APART = ("7",)  # whose gates are of another shape, so that they need a supernet of their own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--config", default="configs/ds_net_digits.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", default="5,6")
    options = parser.parse_args()
    figures = {}
    for number in options.tables.split(","):
        rows = {**SUPERNETS, **GATES}[number]
        figures[f"table {number}"] = {
            name: spread([row(options, number, name, overrides, seed) for seed in range(options.seeds)])
            for name, overrides in rows.items()
        }
    result.show(f"rows of {options.config}, {options.seeds} seeds: mean and standard deviation", figures)


def row(options: argparse.Namespace, number: str, name: str, overrides: tuple[str, ...], seed: int) -> dict[str, float]:
    """What one run came to."""
    changed = [f"--config.{override}" for override in (f"seed={seed}", *overrides)]
    config = settings.as_dict(settings.load([f"--config={options.config}", *changed], pipeline.recipe.options))
    own = options.workdir / f"{OWN}_{seed}"
    path = options.workdir / f"{number}_{name.replace(' ', '_').replace(',', '')}_{seed}" if overrides else own
    if number in GATES and number not in APART and overrides and not path.exists():
        row(options, number, OWN, (), seed)  # the supernet that all these gates are trained on
        path.mkdir(parents=True)
        shutil.copytree(own / "train", path / "train")
        shutil.copy(own / "config.json", path)
    pipeline.run(config, path, names=("train", "gate", "evaluate"))
    told = json.loads((path / "evaluate" / "evaluation.json").read_text())
    found = {f"{end}_accuracy": told[end]["accuracy"] for end in ("smallest", "largest", "dynamic", "same_macs")}
    entropy = np.mean([gate["entropy"] for gate in told["gates"]])
    return found | {"average_macs": told["dynamic"]["macs"], "entropy": float(entropy)}


def spread(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """[mean, standard deviation] of every figure."""
    rows = {key: [run[key] for run in runs] for key in runs[0]}
    return {key: [round(float(np.mean(values)), 5), round(float(np.std(values)), 5)] for key, values in rows.items()}


if __name__ == "__main__":
    main()
