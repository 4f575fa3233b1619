"""Little and big nets trained as pairs on CIFAR-10; also the same space trained apart, to compare.

Lineage: configs/cifar10.py (space, images, augmentation, batches, optimizer), the joint loss of configs/digits_coupled.py. The
threshold aims at somewhat less than half of big's MACs. Modes: "" pairs with a head each; "apart" the same space by the
sandwich rule; "tiny" and "apart_tiny" either for 2 CPU cores.
    dynnas run --config=configs/cifar10_coupled.py --workdir=runs/cifar10_coupled              # one GPU
    dynnas run --config=configs/cifar10_coupled.py:tiny --workdir=runs/cifar10_coupled_tiny    # 2 CPU cores
The result of the full recipe has not been measured. Aim: big 93.5 %, dynamic within 0.5 points of it.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

TARGET = 0.48  # the test images, of which half is wanted, differ from the held-out ones
MODES = ("", "tiny", "apart", "apart_tiny")


def get_config(mode: str = "") -> ConfigDict:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, choose from {MODES}")
    here = Path(__file__)
    config = runpy.run_path(str(here.with_name("cifar10.py")))["get_config"]("tiny" if mode.endswith("tiny") else "")
    config.dynamic.max_macs_fraction = TARGET
    apart = mode.startswith("apart")
    config.report.title = f"CIFAR-10: little and big trained {'apart' if apart else 'as pairs'}"
    return config if apart else runpy.run_path(str(here.with_name("digits_coupled.py")))["as_pairs"](config)
