"""The study of coupled little and big nets on CIFAR-10: the main table, and independent against co-trained.

Lineage: the rows `main`, `baselines` and `training` of configs/study_digits.py, with runs of configs/cifar10_coupled.py and
configs/baselines.py; every training takes the epochs of configs/cifar10.py, the independent pair at equal steps half of them
for each of its two. Full: three seeds, published networks at their own widths. Tiny: one seed, 0.35 times as wide.
No row has been run.
    dynnas study --config=configs/study_cifar10.py --workdir=runs/study_cifar10                   # one GPU
    dynnas study --config=configs/study_cifar10.py:tiny --workdir=runs/study_cifar10_tiny         # 2 CPU cores
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

TABLES = ("main", "training", "behaviour")
LITTLE = ("supernet.depths=(1, 2)", "supernet.expands=(1, 2)")  # the space of a little net that is searched by itself


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '' and 'tiny'")
    digits, recipe = (
        runpy.run_path(str(Path(__file__).with_name(name))) for name in ("study_digits.py", "cifar10_coupled.py")
    )
    coupled, apart = ("cifar10_coupled.py:" + name for name in (("tiny", "apart_tiny") if mode else ("", "apart")))
    dataset, steps = "cifar10" + (mode and "_tiny"), int(recipe["get_config"](mode).train.steps)
    widths = dict.fromkeys(digits["LABELS"], 0.35) if mode else {}
    rows = (
        *digits["main"](coupled.removesuffix(":"), dataset, widths),
        *digits["baselines"](apart, dataset, widths),
        *digits["training"](coupled.removesuffix(":"), apart, dataset, steps, LITTLE),
    )
    config = ConfigDict()
    config.title = "Coupled little and big networks on CIFAR-10" + (mode and ", tiny")
    config.seeds = (0,) if mode else (0, 1, 2)
    aim = f"dynamic.max_macs_fraction={recipe['TARGET']}"  # of the cascades too, whose recipe has another
    config.rows = tuple(
        shown(digits["with_common"](aimed(row, aim) if row["recipe"].endswith(",cascade") else row, steps))
        for row in rows
    )
    return config


def aimed(row: dict, aim: str) -> dict:
    """A row with one override more."""
    return {**row, "overrides": (*row["overrides"], aim)}


def shown(row: dict) -> dict:
    """A row in the tables that this study has."""
    return {**row, "tables": {name: label for name, label in row.get("tables", {}).items() if name in TABLES}}
