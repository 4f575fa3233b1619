"""Depths that were found on one dataset, trained from scratch on another: 100 classes of Tiny ImageNet at 32x32 pixels.

Lineage: stage-wise architecture search (Jordao et al. 2020), its transfer from CIFAR-10, told by top-5 accuracy. The arch
file is that of any candidate of a run that grew; a rival of uniform depth takes network.depths in its place (mode resnet110).
    dynnas run --config=configs/stage_growth_transfer.py --config.network.arch=runs/growth/grow/candidate5.json \
        --workdir=runs/growth_at32
    dynnas run --config=configs/stage_growth_transfer.py:resnet110 --workdir=runs/resnet110_at32
    dynnas run --config=configs/stage_growth_transfer.py:tiny --config.network.arch=runs/growth_tiny/grow/candidate2.json \
        --workdir=runs/growth_at32_tiny                                                            # 2 CPU cores
Published, top-5 at 32x32 pixels of all 1,000 classes: 70.09 % against 68.89 % of ResNet-110. Not run here.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny", "resnet110", "resnet110_tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '', 'tiny', 'resnet110' and 'resnet110_tiny'")
    inner = "resnet110_tiny" if mode.endswith("tiny") else "resnet110"
    config = runpy.run_path(str(Path(__file__).with_name("stage_growth_cifar10.py")))["get_config"](inner)
    config.data.name = "imagenet100_at32"
    if not mode.startswith("resnet110"):
        config.network = {"name": "cifar_resnet", "arch": placeholder(str)}
    config.report.title = "100 classes of ImageNet at 32x32: depths found elsewhere"
    return config
