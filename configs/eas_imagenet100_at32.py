"""A network for one of ten superclasses of Tiny ImageNet at 32x32 pixels and a budget, in milliseconds.

Lineage: EAS (arXiv 2108.01224): a supernet trained with superclass dropout and progressive shrinking from a teacher that was
trained apart, and a generator of its subnets; on the space and the images of configs/imagenet100_at32.py, of one width.
    dynnas run --config=configs/eas_imagenet100_at32.py --workdir=runs/eas_imagenet100_at32            # one GPU
    dynnas run --config=configs/eas_imagenet100_at32.py:tiny --workdir=runs/eas_imagenet100_at32_tiny  # 2 CPU cores
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR), as configs/imagenet100_at32.py says.
Full recipe: 60 epochs of the teacher and 60 of the supernet, estimated at minutes on a GPU. Its result has not been measured.
Tiny: 20 minutes on 2 shared cores, 31 % on average over superclasses and budgets (docs/results/eas_imagenet100_at32_tiny.md).
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

IMAGES, BATCH = 45_000, 256


def get_config(mode: str = "") -> ConfigDict:
    base = runpy.run_path(str(Path(__file__).with_name("imagenet100_at32.py")))["get_config"](mode)
    config = ConfigDict({name: base[name] for name in ("seed", "target", "data", "predict")})
    config.superclasses = {"known": "imagenet100_at32"}
    config.eas = base.supernet
    config.eas.widths = (1.0,)
    steps = 60 * IMAGES // BATCH
    shared = {"batch_size": BATCH, "ema_decay": 0.999, "checkpoint_every": 500, "log_every": 50}
    learning = {"weight_decay": 2e-4, "warm_up": 0.05}
    config.teacher = {"steps": steps, **shared, "label_smoothing": 0.1}
    config.teacher.optimizer = {"learning_rate": 0.4, **learning}
    config.train = {
        **{"steps": steps, **shared, "superclass_dropout": 0.6, "evaluate_every": 1000},
        "optimizer": {"learning_rate": 0.2, **learning},
        "sandwich_rule": {"random_subnets": 2, "temperature": 1.0},
        "progressive_shrinking": {"largest_share": 0.0, "order": ("kernel", "depth", "expand"), "restart": False},
    }
    config.collect = {"subnets": 2000, "calibration_images": 2048}
    # 90 epochs of 5,000 held-out images, as in the paper; costs of many more scenarios are learned beside.
    config.generator = {"steps": 90 * 5000 // BATCH, "batch_size": BATCH, "cost_scenarios": 63}
    config.search = {"budgets": 5, "population": 100, "generations": 500, "calibration_images": 2048}
    config.evaluate = {"calibration_images": 2048}
    config.export = {"precisions": ("fp32",), "runs": 500, "warm_up": 50}
    config.report = {"title": "100 classes of ImageNet at 32x32: a network for these classes and this budget"}
    if mode == "tiny":
        tiny(config)
    return config


def tiny(config: ConfigDict) -> None:
    """For 2 CPU cores: the smaller space of the other tiny recipes, and a few epochs."""
    short = {"batch_size": 128, "checkpoint_every": 200, "log_every": 20, "ema_decay": 0.99}
    config.teacher.update({"steps": 600, **short})
    config.train.update({"steps": 600, "evaluate_every": 0, **short})
    config.train.sandwich_rule.random_subnets = 1
    config.collect.update({"subnets": 100, "calibration_images": 512})
    config.generator.update({"steps": 400, "batch_size": 64, "learning_rate": 3e-3})
    config.search.update({"generations": 100, "calibration_images": 512})
    config.evaluate.calibration_images = 512
    config.export.update({"runs": 100, "warm_up": 10})
