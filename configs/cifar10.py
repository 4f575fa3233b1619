"""A dynamic classifier of CIFAR-10.

Lineage: OFA-like space (arXiv 1908.09791) trained by the sandwich rule (arXiv 2003.11142), big/little pair on top.
    dynnas run --config=configs/cifar10.py --workdir=runs/cifar10              # one GPU
    dynnas run --config=configs/cifar10.py:tiny --workdir=runs/cifar10_tiny    # 2 CPU cores, under 20 minutes
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR), prepared once with
    python -c "import tensorflow_datasets as t; t.builder('cifar10', file_format='array_record').download_and_prepare()"
Full recipe: 131 M MACs at most, 60 epochs, 6.4e15 operations (estimated: minutes on a GPU).
Its result has not been measured; the tiny one's is in docs/results/cifar10_tiny.md.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '' and 'tiny'")
    config = ConfigDict()
    config.seed = 0
    config.target = "x86"
    config.data = {
        "name": "cifar10",
        "data_dir": placeholder(str),
        "holdout": 5000,
        "augment": {"pad": 4, "flip": True, "cutout": 8},
    }
    config.supernet = {
        "network": "small_images",
        "stem": 24,
        "stem_stride": 1,
        "stage_widths": (24, 48, 96),
        "stage_strides": (1, 2, 2),
        "head": 256,
        "act": "relu6",
        "squeeze_excite": False,
        "widths": (0.25, 0.5, 0.75, 1.0),
        "depths": (1, 2, 3, 4),
        "kernels": (3, 5, 7),
        "expands": (1, 2, 4, 6),
        "divisor": 8,
    }
    config.train = {
        "steps": 60 * 45_000 // 256,
        "batch_size": 256,
        "ema_decay": 0.999,
        "optimizer": {"learning_rate": 0.4, "weight_decay": 2e-4, "warm_up": 0.05},
        "sandwich_rule": {"random_subnets": 2, "temperature": 1.0},
        "evaluate_every": 1000,
        "checkpoint_every": 500,
        "log_every": 50,
    }
    config.collect = {"subnets": 2000, "calibration_images": 2048}
    config.predict = {"epochs": 100}
    config.search = {"budgets": 32, "population": 100, "generations": 500, "calibration_images": 4096}
    config.dynamic = {"score": "max_softmax", "max_macs_fraction": 0.55}
    config.evaluate = {}
    config.export = {"precisions": ("fp32", "int8"), "calibration_images": 512, "runs": 1000, "warm_up": 100}
    config.report = {"title": "CIFAR-10: a dynamic classifier"}
    if mode == "tiny":
        tiny(config)
    return config


def tiny(config: ConfigDict) -> None:
    """For 2 CPU cores and at most 20 minutes: the largest subnet has 1.5 M MACs."""
    config.data.holdout, config.data.augment.cutout = 2000, 0
    config.supernet.update(
        {
            "stem": 12,
            "stem_stride": 2,
            "stage_widths": (16, 24, 44),
            "stage_strides": (2, 1, 2),
            "head": 96,
            "depths": (1, 2),
            "kernels": (3, 5),
            "expands": (1, 2, 3),
            "divisor": 4,
        }
    )
    config.train.update(
        {"steps": 2000, "batch_size": 128, "evaluate_every": 500, "log_every": 20, "checkpoint_every": 300}
    )
    config.train.optimizer.update({"learning_rate": 0.6, "weight_decay": 5e-5})
    config.train.ema_decay = 0.998
    config.collect.update({"subnets": 200, "calibration_images": 1024})
    config.search.update({"budgets": 12, "generations": 200, "calibration_images": 2048})
    config.dynamic.max_macs_fraction = 0.6
