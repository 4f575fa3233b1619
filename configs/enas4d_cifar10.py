"""Networks of three exits for CIFAR-10, all out of one supernet, each for its own budget.

Lineage: ENAS4D (arXiv 2009.09182): cumulative ratios {1/2, 2/3, 1}, kernels {3, 5, 7}, depths {2, 3, 4} of every exit; omega and
weight decay are the paper's. It starts from a trained supernet and takes 24 epochs at a rate of 4.5e-3; here training starts from
nothing, at a higher rate, for 60. The predictor's settings are the defaults: the paper's, for 18,000 records, rank a little worse
after 1,000 (docs/exits.md).
    dynnas run --config=configs/enas4d_cifar10.py --workdir=runs/enas4d_cifar10              # one GPU
    dynnas run --config=configs/enas4d_cifar10.py:tiny --workdir=runs/enas4d_cifar10_tiny    # 2 CPU cores
From a supernet of single nets at the paper's rate, for its 24 epochs or, tiny, for the recipe's own four: from a run of
configs/cifar10.py, or of its tiny mode, whose kernel transforms then begin as identities:
    dynnas run --config=configs/enas4d_cifar10.py --workdir=runs/enas4d_started --config.train.transfer_from=runs/cifar10 \
        --config.train.optimizer.learning_rate=4.5e-3 --config.train.steps=4218
    dynnas run --config=configs/enas4d_cifar10.py:tiny --workdir=runs/enas4d_started_tiny \
        --config.train.transfer_from=runs/cifar10_tiny --config.train.optimizer.learning_rate=4.5e-3 --config.train.steps=1500
Its rival, by the same trainer:
    dynnas run --config=configs/msdnet.py:cifar10 --workdir=runs/msdnet
The data are those of configs/cifar10.py. Expected, tiny: 56 to 57 % at 0.65 to 1.00 M MACs on average, in 16 minutes of processor
time, 24 beside other work; from a trained supernet 55 to 58 % at 0.61 to 1.07 M (docs/results/enas4d_cifar10_tiny.md). The full
mode has not been run; its report shows what others have published beside it (PUBLISHED says from where).
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

# By label, (average millions of MACs, top-1 accuracy), an exit for each image: read off the left panel of
# imgs/dynamic_results.png of github.com/yangle15/RANet-pytorch, to a tenth of a point.
PUBLISHED = {
    "RANet, read off a figure": ((30, 0.936), (40, 0.940), (50, 0.942), (70, 0.942)),
    "MSDNet, read off a figure": ((30, 0.935), (40, 0.937), (50, 0.938), (70, 0.938)),
}


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '' and 'tiny'")
    config = runpy.run_path(str(Path(__file__).with_name("cifar10.py")))["get_config"](mode)
    config.multi_exit = {**config.supernet, "exits": 3, "ratios": (1 / 2, 2 / 3, 1.0), "kernel_transforms": True}
    del config["supernet"]
    # Of these the supernet of single nets has the largest only.
    config.multi_exit.update({"widths": (1.0,), "expands": (6,), "depths": (2, 3, 4)})
    config.train.sandwich_rule.random_subnets = 1
    config.train.optimizer.update({"learning_rate": 0.2, "weight_decay": 3e-5})
    config.collect = {"subnets": 1000, "calibration_images": 2048}
    config.search = {"population": 100, "generations": 8000, "calibration_images": 4096}
    targets = (34_000_000, 44_000_000, 56_000_000, 67_000_000)  # the largest net has 134.7 M MACs up to its last exit
    config.dynamic = {"score": "max_softmax", "target_macs": targets, "omega": 0.09, "deployed": 1}
    config.export = {"precisions": ("fp32",), "runs": 1000, "warm_up": 100}
    config.report.title = "CIFAR-10: networks of three exits"
    if mode == "tiny":
        tiny(config)
    else:
        config.report.published = published("cifar10", PUBLISHED)
    return config


def published(data: str, figures: dict[str, tuple[tuple[float, float], ...]]) -> tuple[dict[str, float | str], ...]:
    """For the report of a run on these data, which marks them: by label, (average millions of MACs, accuracy)."""
    return tuple(
        {"label": label, "data": data, "macs": 1e6 * macs, "accuracy": accuracy}
        for label, points in figures.items()
        for macs, accuracy in points
    )


def tiny(config: ConfigDict) -> None:
    """For 2 CPU cores: the largest net has 1.6 M MACs."""
    config.multi_exit.update({"depths": (1, 2), "expands": (3,)})
    config.train.optimizer.update({"learning_rate": 0.3, "weight_decay": 5e-5})
    config.train.steps = 1500
    config.dynamic.target_macs = (650_000, 820_000, 980_000, 1_140_000)
    # After four epochs nets differ so much that for 0.09 the dearest is the best of every target (the page of results has both).
    config.dynamic.omega = 0.5
    config.collect.update({"subnets": 200, "calibration_images": 1024})
    config.search.update({"generations": 800, "calibration_images": 2048})
