"""A dynamic classifier of 100 classes of Tiny ImageNet at 32x32 pixels: the recipe of CIFAR-100 on harder images.

Lineage: configs/cifar100.py (arXiv 1908.09791, 2003.11142). No stage is 1x1: the last one is 8x8 pixels.
    dynnas run --config=configs/imagenet100_at32.py --workdir=runs/imagenet100_at32            # one GPU
    dynnas run --config=configs/imagenet100_at32.py:tiny --workdir=runs/imagenet100_at32_tiny  # 2 CPU cores, under 20 minutes
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR): any TFDS dataset of 32x32 images prepared under this name as
ArrayRecord, with the splits train and validation.
Full recipe: 133 M MACs at most, 90 epochs, 9.8e15 operations (estimated: minutes on a GPU). Its result has not been measured;
the tiny one's is in docs/results/imagenet100_at32_tiny.md.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    config = runpy.run_path(str(Path(__file__).with_name("cifar100.py")))["get_config"](mode)
    config.data.name = "imagenet100_at32"
    config.report.title = "100 classes of ImageNet at 32x32: a dynamic classifier"
    if mode != "tiny":
        config.train.steps = 90 * 45_000 // 256
    return config
