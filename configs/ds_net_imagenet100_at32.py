"""A dynamic slimmable network on 100 classes of Tiny ImageNet at 32x32 pixels, which CIFAR-10 can start from.

Lineage: DS-Net (arXiv 2103.13258), Table 3, whose source is ImageNet at 224 pixels; network and training are those of
configs/ds_net_cifar10.py, whose modes transfer, gate_transfer and their tiny ones take a run of this one.
    dynnas run --config=configs/ds_net_imagenet100_at32.py --workdir=runs/ds_net_at32              # one GPU
    dynnas run --config=configs/ds_net_imagenet100_at32.py:tiny --workdir=runs/ds_net_at32_tiny    # 2 CPU cores
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR), as configs/imagenet100_at32.py says. The tiny mode's
paths are right on 5.3 to 8.0 % of the test images (docs/results/ds_net_cifar10_tiny.md); the full mode has not been run.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '' and 'tiny'")
    config = runpy.run_path(str(Path(__file__).with_name("ds_net_cifar10.py")))["get_config"](mode)
    config.data.name = "imagenet100_at32"
    config.report.title = "100 classes of ImageNet at 32x32: a dynamic slimmable network"
    return config
