"""A dynamic classifier of CIFAR-100: the recipe of CIFAR-10 with a larger head, label smoothing and more epochs.

Lineage: configs/cifar10.py (arXiv 1908.09791, 2003.11142).
    dynnas run --config=configs/cifar100.py --workdir=runs/cifar100              # one GPU
    dynnas run --config=configs/cifar100.py:tiny --workdir=runs/cifar100_tiny    # 2 CPU cores, under 20 minutes
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR), prepared once with
    python -c "import tensorflow_datasets as t; t.builder('cifar100', file_format='array_record').download_and_prepare()"
Full recipe: 133 M MACs at most, 100 epochs, 1.1e16 operations (estimated: minutes on a GPU).
Its result has not been measured; the tiny one has been run to its report on stand-in images only.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    config = runpy.run_path(str(Path(__file__).with_name("cifar10.py")))["get_config"](mode)
    config.data.name = "cifar100"
    config.train.sandwich_rule.label_smoothing = 0.1
    config.report.title = "CIFAR-100: a dynamic classifier"
    if mode == "tiny":
        config.supernet.head = 160
    else:
        config.supernet.head = 512
        config.train.steps = 100 * 45_000 // 256
    return config
