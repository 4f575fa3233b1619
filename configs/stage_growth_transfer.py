"""Depths that were found on one dataset, trained from scratch on another: 100 classes of Tiny ImageNet at 32x32 pixels.

Lineage: stage-wise architecture search (Jordao et al. 2020), its transfer from CIFAR-10, told by top-5 accuracy. The arch
file is that of any candidate of a run that grew: of residual blocks, in mode cells of cells. Rivals of uniform depth are modes
resnet110 and nasnet241, trained alike. Each mode also as MODE_tiny, or tiny: these see 16x16 pixels, as those of
stage_growth_cifar10.py do, and the title of their report says so.
    dynnas run --config=configs/stage_growth_transfer.py --config.network.arch=runs/growth/grow/candidate5.json \
        --workdir=runs/growth_at32
    dynnas run --config=configs/stage_growth_transfer.py:cells --config.network.arch=runs/growth_cells/grow/candidate5.json \
        --workdir=runs/cells_at32
    dynnas run --config=configs/stage_growth_transfer.py:resnet110 --workdir=runs/resnet110_at32
    dynnas run --config=configs/stage_growth_transfer.py:nasnet241 --workdir=runs/nasnet241_at32
    dynnas run --config=configs/stage_growth_transfer.py:tiny --config.network.arch=runs/growth_tiny/grow/candidate2.json \
        --workdir=runs/growth_at32_tiny                                                            # 2 CPU cores
Published, top-5 at 32x32 pixels of all 1,000 classes: 70.09 % against 68.89 % of ResNet-110, cells 79.39 % against 80.67 % of
NASNet-241; of Tiny ImageNet's 200 classes 72.34 against 69.94 and 79.23 against 79.20. Of the modes at 32x32 pixels none has
been run; of the tiny ones what docs/results/ tells, in the table of depths found elsewhere of study_growth_cifar10.py:tiny.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

RIVALS = {
    "": "resnet110",
    "resnet110": "resnet110",
    "cells": "nasnet241",
    "nasnet241": "nasnet241",
}  # trained alike
GROWN = {"": "cifar_resnet", "cells": "nasnet"}


def get_config(mode: str = "") -> ConfigDict:
    name, tiny = mode.removesuffix("tiny").removesuffix("_"), mode.endswith("tiny")
    if name not in RIVALS:
        raise ValueError(f"mode is {mode!r}, choose from {list(RIVALS)}, or one of them with _tiny")
    inner = RIVALS[name] + "_tiny" * tiny
    config = runpy.run_path(str(Path(__file__).with_name("stage_growth_cifar10.py")))["get_config"](inner)
    config.data.name = "imagenet100_at32"
    if name in GROWN:
        config.network = {"name": GROWN[name], "arch": placeholder(str)}
    size = config.data.get("image_size", 32)
    config.report.title = f"100 classes of ImageNet at {size}x{size}: depths found elsewhere"
    return config
