"""One table from several finished runs of the same config: a row a seed, then mean and standard deviation.

for seed in 0 1 2 3 4; do
  dynnas run --config=configs/digits.py --config.seed=$seed --workdir=runs/digits_$seed
done
python benchmarks/seeds.py runs/digits_*
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from dynnas_jax.workdir import read_json

COLUMNS = (
    "seed",
    "little %",
    "big %",
    "dynamic %",
    "gained",
    "lost",
    "MACs share %",
    "exit rate %",
    "Kendall tau",
    "LiteRT = JAX %",
    "int8 dynamic %",
    "big ms",
    "dynamic ms",
)


def row(path: Path) -> tuple[float, ...]:
    """The figures of one run, in the order of COLUMNS."""
    config, evaluation = read_json(path / "config.json"), read_json(path / "evaluate" / "evaluation.json")
    exported = read_json(path / "export" / config["target"] / "export.json")
    dynamic, cascade = evaluation["dynamic"], exported["cascade"]
    return (
        config["seed"],
        *(100 * evaluation[which]["accuracy"] for which in ("little", "big", "dynamic")),
        evaluation["paired"]["dynamic_right_big_wrong"],
        evaluation["paired"]["dynamic_wrong_big_right"],
        100 * evaluation["expected_macs_fraction"],
        100 * dynamic["exit_rate"][0],
        read_json(path / "predict" / "predictor.json")["kendall_tau"],
        100 * cascade["fp32"]["agreement_with_jax"],
        100 * cascade["int8"]["accuracy"],
        exported["files"]["big_fp32"]["latency_mean_ms"],
        cascade["fp32"]["latency_mean_ms"],
    )


def main(paths: list[str]) -> None:
    """Prints the table as Markdown."""
    rows = np.asarray([row(Path(path)) for path in paths], np.float64)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for values in rows:
        print("| " + " | ".join([f"{values[0]:.0f}", *(f"{value:.3g}" for value in values[1:])]) + " |")
    spread = rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(rows.shape[1])
    cells = (f"{mean:.4g} ± {deviation:.2g}" for mean, deviation in zip(rows.mean(axis=0), spread, strict=True))
    print("| " + " | ".join(["mean ± sd", *list(cells)[1:]]) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
