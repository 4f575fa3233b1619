"""Ways to train one supernet, side by side: accuracy of its smallest, median and largest subnet on the test split.

python benchmarks/training_variants.py --config=configs/digits.py --workdir=runs/variants --seeds=3

Every variant trains the recipe's supernet on the same data with the same steps, augmentation and optimizer; nothing is tuned to
any of them. A run that is done is not done again. Median: the subnet of median MACs among 65 random ones, the same in every run;
the mean is over all of these.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import jax
import numpy as np
import result

from dynnas_jax import job, pipeline, sections, settings
from dynnas_jax.costs import macs
from dynnas_jax.search import collect
from dynnas_jax.workdir import Workdir, read_json, write_json

SUBNETS = 65
TEACHER = "largest first"
# Of each variant: what it changes in the config's section `train`, and in `supernet`.
VARIANTS = {
    "sandwich": ({}, {}),
    "progressive shrinking": ({"progressive_shrinking": {}}, {}),
    "shrinking, one schedule": ({"progressive_shrinking": {"restart": False}}, {}),
    "kernel transforms": ({}, {"kernel_transforms": True}),
    # The largest net trained alone for nine tenths of the steps: also the trained teacher.
    TEACHER: ({"progressive_shrinking": {"largest_share": 0.9, "restart": False}}, {}),
    "teacher: ema": ({"sandwich_rule": {"teacher": "ema"}}, {}),
    "teacher: trained": ({"sandwich_rule": {"teacher": "trained"}, "teacher": TEACHER}, {}),
}
COLUMNS = ("smallest", "median", "largest", "mean of random")


def configured(config: dict, folder: Path, variant: str, seed: int) -> dict:
    """The recipe with what a variant changes."""
    config = copy.deepcopy(config)
    train, supernet = VARIANTS[variant]
    rule = {**config["train"].get("sandwich_rule", {}), **train.get("sandwich_rule", {})}
    config["train"] |= {**train, "sandwich_rule": rule}
    if "teacher" in train:
        config["train"]["teacher"] = str(path_of(folder, train["teacher"], seed))
    config["supernet"] |= supernet
    config["seed"] = seed
    return config


def path_of(folder: Path, variant: str, seed: int) -> Path:
    """The working directory of one run."""
    return folder / f"{variant.replace(': ', '_').replace(', ', '_').replace(' ', '_')}_{seed}"


def measure(config: dict, path: Path) -> dict:
    """Trains one variant where that is not done, and evaluates its subnets on the test split."""
    result = path / "variants.json"
    if result.is_file():
        return read_json(result)
    pipeline.run(config, path, names=("train",))
    prepared = job.prepare(Workdir(path, pipeline.STAGES, config, {}), config)
    space = prepared.supernet.space
    genomes = collect.distinct(space, jax.random.key(0), SUBNETS + 2)
    evaluate = collect.Evaluator(
        prepared.supernet, prepared.calibration(1024), prepared.images.test, chunk=len(genomes)
    )
    accuracy = 100 * evaluate(job.supernet_variables(prepared), genomes).correct.mean(axis=1)
    cost = np.asarray(macs.table(prepared.supernet)(genomes))
    middle = 2 + int(np.argsort(cost[2:])[SUBNETS // 2])  # the first two are the smallest and the largest
    values = (accuracy[0], accuracy[middle], accuracy[1], accuracy[2:].mean())
    found = {name: float(value) for name, value in zip(COLUMNS, values, strict=True)}
    found["macs"] = [int(cost[index]) for index in (0, middle, 1)]
    write_json(result, found)
    return found


def held_out(path: Path) -> list[float]:
    """Held-out accuracy (%) of the smallest and the largest subnet at the end of training, statistics recalibrated."""
    last = json.loads((path / "train" / "metrics.jsonl").read_text().splitlines()[-1])
    return [100 * last[f"holdout_accuracy_{which}"] for which in ("smallest", "largest")]


def main() -> None:
    """Prints the table as Markdown, mean and deviation over the seeds, the held-out accuracies last; then all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    known, rest = parser.parse_known_args()
    config = settings.as_dict(settings.load(rest, sections.options))
    found = {}
    for seed in range(known.seeds):
        for variant in VARIANTS:
            path = path_of(known.workdir, variant, seed)
            found[variant, seed] = measure(configured(config, known.workdir, variant, seed), path)
    print("| variant | " + " | ".join(f"{name} %" for name in COLUMNS) + " | held-out smallest, largest % |")
    print("|---" * (2 + len(COLUMNS)) + "|")
    for variant in VARIANTS:
        rows = np.asarray([[found[variant, seed][name] for name in COLUMNS] for seed in range(known.seeds)])
        spread = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(len(COLUMNS))
        cells = (f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in zip(rows.mean(axis=0), spread, strict=True))
        held = np.mean([held_out(path_of(known.workdir, variant, seed)) for seed in range(known.seeds)], axis=0)
        print(f"| {variant} | " + " | ".join(cells) + f" | {held[0]:.1f}, {held[1]:.1f} |")
    accuracies = {f"{variant}, seed {seed}": values for (variant, seed), values in found.items()}
    result.show("ways to train one supernet", {"n": known.seeds, "results": accuracies})


if __name__ == "__main__":
    main()
