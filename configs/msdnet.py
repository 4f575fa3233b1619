"""MSDNet: a fixed network of several exits, the rival of searched ones, trained and judged as they are.

Lineage: MSDNet (Huang et al. 2018, arXiv 1703.09844): every exit learns the labels, all weigh the same; thresholds for several
budgets are chosen on held-out images by the reward of ENAS4D (2009.09182). The mode names the images.
    dynnas run --config=configs/msdnet.py:cifar10 --workdir=runs/msdnet              # one GPU; 300 epochs in the paper, 60 here
    dynnas run --config=configs/msdnet.py:cifar10 --config.data.name=cifar100 --workdir=runs/msdnet_cifar100
    dynnas run --config=configs/msdnet.py:cifar10_tiny --workdir=runs/msdnet_tiny    # 2 CPU cores
    dynnas run --config=configs/msdnet.py:digits --workdir=runs/msdnet_digits        # 2 CPU cores
    dynnas run --config=configs/msdnet.py:imagenet --workdir=runs/msdnet_imagenet    # several GPUs; 90 epochs
CIFAR nets have 7 exits and 3 scales, of 15 to 75 M MACs; ImageNet's 5 and 4, of 612 to 3,246 M; the small ones 4 and 2.
Digits: 98.3 % at 24 k MACs on average, in 1.5 minutes (docs/results/enas4d_digits.md); cifar10_tiny: 60.7 to 61.5 % at 0.63 to
0.93 M, in 5 minutes (docs/results/enas4d_cifar10_tiny.md); the other modes have not been measured.
The data are those of configs/cifar10.py, configs/digits.py and configs/imagenet_ofa.py.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

EPOCHS = 90  # on ImageNet, the paper's
# File and mode of the recipe whose data, augmentation and epochs are taken, and the network.
SMALL = {"name": "msdnet_cifar", "blocks": 4, "base": 2, "step": 2, "factors": (1, 2)}
DIGITS = {"channels": 4, "growth": 2, "head_width": 8, **SMALL}
MODES = {
    "digits": ("enas4d_digits.py", "", DIGITS),
    "digits_tiny": ("enas4d_digits.py", "tiny", DIGITS),
    "cifar10": ("enas4d_cifar10.py", "", {"name": "msdnet_cifar"}),
    "cifar10_tiny": (
        "enas4d_cifar10.py",
        "tiny",
        {"channels": 8, "growth": 8, "head_width": 32, "stem": "7x7", **SMALL},
    ),
    "imagenet": ("imagenet_ofa.py", "", {"name": "msdnet"}),
}


def get_config(mode: str = "") -> ConfigDict:
    mode = {"": "digits", "tiny": "digits_tiny"}.get(mode, mode)
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, choose from {', '.join(MODES)}")
    file, inner, network = MODES[mode]
    recipe = runpy.run_path(str(Path(__file__).with_name(file)))
    config = recipe["get_config"](inner)
    for section in ("supernet", "multi_exit", "collect", "predict", "search"):
        if section in config:
            del config[section]
    smoothing = config.train.sandwich_rule.get("label_smoothing", 0.0)
    for name in ("sandwich_rule", "progressive_shrinking"):
        if name in config.train:
            del config.train[name]
    config.exit_network = network
    config.train.label_smoothing = smoothing
    if mode == "imagenet":
        config.train.steps = EPOCHS * recipe["TRAIN_IMAGES"] // config.train.batch_size
        config.dynamic = {"target_macs": (700e6, 1000e6, 1500e6, 2000e6), "deployed": 1}
    config.train.optimizer.update({"learning_rate": 0.1, "weight_decay": 1e-4})
    config.report.title = f"MSDNet on {mode}"
    return config
