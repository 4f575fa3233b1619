"""Dynamic slimmable networks under other trainings, losses and gates (Tables 5, 6, 7, 9, 10 of arXiv 2103.13258); prints JSON.

    python benchmarks/ds_net_tables.py --workdir=runs/ds_net_tables [--config=configs/ds_net_digits.py] [--seeds=3] [--tables=5,6]

Every row is the recipe with some keys changed, one run a seed, kept in the working directory: what is done is not done again, and
a run that was cut off goes on. Rows that change the gates alone take the supernet of the same seed from `supernet_SEED`. The rows
of Tables 6 and 7 want no average MACs, as in the paper, so that the losses decide what an image costs. --figures=FOLDER draws the
curves of Table 5 (figure 6) and the rows of the others against their MACs (figure 7), of Table 9 the supernet's paths too.

Accuracies, those of the curves too, are of the averaged weights, as the recipe keeps them; in-place distillation, the row without
an average, keeps those of its last step (`train.ema_decay=0`). The gates are averaged in all rows.

Each row of Table 5 differs from the one before by one thing. "in-place distillation, averaged weights" is trained as in-place
distillation is and only keeps the average: these two show what averaging does to what is measured. It and "EMA" show what the
averaged target does, all else alike; "EMA" and "EMA and ensemble" show the ensemble.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import result

from dynnas_jax import job, pipeline, sections, settings
from dynnas_jax.costs import macs
from dynnas_jax.workdir import read_json

STAGES = ("train", "gate", "evaluate")
CHEAP = ("evaluate.one_by_one_images=1", "evaluate.timed_batches=1")  # the tables tell no times


class Table(NamedTuple):
    """Rows of overrides of the recipe, by their names."""

    rows: dict[str, tuple[str, ...]]
    shared: tuple[str, ...] = ()  # of all rows


def losses(classification: float, complexity: float, sandwich: float, *also: str) -> tuple[str, ...]:
    """Overrides that weigh the three losses of the gates."""
    weights = {"classification": classification, "complexity": complexity, "sandwich": sandwich}
    return (*(f"gate.sparsification.{name}={float(value)}" for name, value in weights.items()), *also)


FREE = ("dynamic.target_macs=None", "dynamic.target_macs_fraction=None")
TABLES = {
    "5": Table(
        {
            "in-place distillation": (
                "train.bootstrapping.target=online",
                "train.bootstrapping.ensemble=False",
                "train.ema_decay=0.0",
            ),
            "in-place distillation, averaged weights": (
                "train.bootstrapping.target=online",
                "train.bootstrapping.ensemble=False",
            ),
            "EMA": ("train.bootstrapping.ensemble=False",),
            "EMA and ensemble": (),
        }
    ),
    "6": Table(
        {
            "labels": losses(1, 0, 0),
            "complexity": losses(0, 0.5, 0),
            "give up": losses(0, 0, 1, "gate.sparsification.hard=give_up"),
            "try best": losses(0, 0, 1),
            "labels, complexity": losses(1, 0.5, 0),
            "complexity, try best": losses(0, 0.5, 1),
            "labels, complexity, try best": losses(1, 0.5, 1),
        },
        FREE,
    ),
    "7": Table(
        {
            "shared, scalar": ("slimmable.gate_head=scalar",),
            "unshared, one-hot": ("slimmable.gate_shared=False",),
            "shared, one-hot": (),
        },
        (*FREE, *losses(0, 0, 1)),
    ),
    "9": Table({"a quarter of the span": (), "half": (), "three quarters": ()}),
    "10": Table({"temperature 1": (), "temperature 4": ("train.bootstrapping.temperature=4.0",)}),
}

SPAN = {
    "a quarter of the span": 0.25,
    "half": 0.5,
    "three quarters": 0.75,
}  # of Table 9: average MACs between both ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--config", default="configs/ds_net_digits.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", default="5,6", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--figures", type=Path)
    options = parser.parse_args()
    figures = {}
    for number in options.tables.split(","):
        with contextlib.redirect_stdout(sys.stderr):  # what the runs say is no part of the JSON
            runs = {
                name: [run(options, number, name, seed) for seed in range(options.seeds)]
                for name in TABLES[number].rows
            }
        figures[f"table {number}"] = {name: summary(own) for name, own in runs.items()}
    if options.figures:
        draw(options.figures, figures)
    result.show(f"rows of {options.config}, {options.seeds} seeds: mean and standard deviation", figures)


def run(options: argparse.Namespace, number: str, name: str, seed: int) -> Path:
    """The working directory of one row's run, which is done afterwards."""
    table = TABLES[number]
    overrides, path = (*table.shared, *table.rows[name]), options.workdir / f"{number}_{slug(name)}_{seed}"
    if any(key.startswith(("train.", "slimmable.")) for key in overrides):
        config = configured(options, seed, overrides)
    else:
        supernet = options.workdir / f"supernet_{seed}"
        pipeline.run(configured(options, seed, ()), supernet, names=("train",))
        config = configured(options, seed, (*overrides, *(target(supernet, SPAN[name]) if number == "9" else ())))
        pipeline.opened(config, path).take_over("train", supernet)
    pipeline.run(config, path, names=STAGES)
    return path


def target(supernet: Path, part: float) -> tuple[str, ...]:
    """Overrides that ask for average MACs this far from the narrowest path to the widest."""
    found = job.supernet_of_run(supernet)
    least, most = (macs.table(found).exact(end) for end in (found.space.smallest, found.space.largest))
    return *FREE[1:], f"dynamic.target_macs={least + part * (most - least)}"


def configured(options: argparse.Namespace, seed: int, overrides: tuple[str, ...]) -> dict:
    changed = [f"--config.{override}" for override in (f"seed={seed}", *CHEAP, *overrides)]
    return settings.as_dict(settings.load([f"--config={options.config}", *changed], sections.options))


def slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


def figures_of(path: Path) -> dict[str, float]:
    """What one run came to on the test images; accuracies in percent."""
    told = read_json(path / "evaluate" / "evaluation.json")
    ends = {
        f"{end}_accuracy": 100 * told[key]["accuracy"]
        for end, key in (("narrowest", "smallest"), ("widest", "largest"))
    }
    gated, paths = told["dynamic"], told["same_macs"]
    return ends | {
        "gated_accuracy": 100 * gated["accuracy"],
        "paths_of_its_macs_accuracy": 100 * paths["accuracy"],
        "gain_over_paths_of_its_macs": 100 * (gated["accuracy"] - paths["accuracy"]),
        "average_macs": gated["macs"],
        "macs_share": gated["macs"] / told["largest"]["macs"],
        "entropy": float(np.mean([gate["entropy"] for gate in told["gates"]])),
    }


def curve_of(path: Path) -> dict[int, float]:
    """Held-out accuracy of the narrowest path in percent, by the step of the supernet's training."""
    lines = [json.loads(line) for line in (path / "train" / "metrics.jsonl").read_text().splitlines()]
    key = "holdout_accuracy_smallest"
    return {line["step"]: 100 * line[key] for line in lines if key in line}


def summary(paths: list[Path]) -> dict:
    """[mean, standard deviation] of every figure over the seeds, and the mean curve of the training."""
    runs, curves = [figures_of(path) for path in paths], [curve_of(path) for path in paths]
    found = {key: spread([own[key] for own in runs]) for key in runs[0]}
    held_out = {step: round(float(np.mean([own[step] for own in curves])), 3) for step in curves[0]}
    return found | {"n": len(runs), "held_out_narrowest_by_step": held_out}


def spread(values: list[float]) -> tuple[float, float | None]:
    """Mean and standard deviation, which one value has none of."""
    return round(float(np.mean(values)), 4), round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None


def draw(folder: Path, figures: dict) -> None:
    """A picture of each table."""
    from dynnas_jax.reports import gate_plots, plots

    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in figures.items():
        if name in ("table 5", "table 10"):
            made = gate_plots.curves({row: told["held_out_narrowest_by_step"] for row, told in rows.items()})
        else:
            made = gate_plots.rows(points(rows, paths_too=name == "table 9"))
        (folder / f"ds_net_{name.replace(' ', '_')}.png").write_bytes(plots.png(made))


def points(rows: dict, *, paths_too: bool) -> dict[str, tuple]:
    """(average MACs, accuracy) of every row by its name, and where asked for of the supernet's paths of the same MACs."""
    found = {}
    for row, told in rows.items():
        found[f"{row}, gated" if paths_too else row] = told["average_macs"], told["gated_accuracy"]
        if paths_too:
            found[f"{row}, paths"] = told["average_macs"], told["paths_of_its_macs_accuracy"]
    return found


if __name__ == "__main__":
    main()
