"""A dynamic slimmable network on CIFAR-10: three gates choose for each image how wide it runs.

Lineage: DS-Net (arXiv 2103.13258): in-place ensemble bootstrapping, then sandwich gate sparsification on the frozen supernet;
ratios, group norm and losses are the paper's, which trains on ImageNet for 150 epochs and gates for 10; here 100 and 10.
    dynnas run --config=configs/ds_net_cifar10.py --workdir=runs/ds_net_cifar10                     # one GPU
    dynnas run --config=configs/ds_net_cifar10.py:tiny --workdir=runs/ds_net_cifar10_tiny           # 2 CPU cores
From a run of configs/ds_net_imagenet100_at32.py (Table 3: 70 epochs, 15 of them warm-up, from 0.7 at batches of 1024; of the mean
of four paths' gradients, which the authors add, so that steps are a quarter of theirs), gates trained anew, or gates that
start from that run's; transfer_tiny and gate_transfer_tiny take its tiny mode:
    dynnas run --config=configs/ds_net_cifar10.py:transfer --config.train.transfer_from=runs/ds_net_at32 \
        --workdir=runs/ds_net_transfer
    dynnas run --config=configs/ds_net_cifar10.py:gate_transfer --config.train.transfer_from=runs/ds_net_at32 \
        --config.gate.transfer_from=runs/ds_net_at32 --workdir=runs/ds_net_gate_transfer
The data are those of configs/cifar10.py. The tiny network has one gate: 42.9 % at 1.24 M MACs, as the paths there
(docs/results/ds_net_cifar10_tiny.md; a quarter of an hour); transfer_tiny and gate_transfer_tiny, of a third of the steps, have
40.4 and 40.6 % at 1.19 and 1.20 M. No full mode has been run.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

MODES = ("", "tiny", "transfer", "transfer_tiny", "gate_transfer", "gate_transfer_tiny")
EPOCHS, GATE_EPOCHS = 100, 10


def get_config(mode: str = "") -> ConfigDict:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, choose from {list(MODES)}")
    small = mode.endswith("tiny")
    config = runpy.run_path(str(Path(__file__).with_name("cifar10.py")))["get_config"]("tiny" if small else "")
    for section in ("supernet", "collect", "predict", "search"):
        del config[section]
    config.slimmable = {
        "network": "ds_resnet_small",
        "ratios": (0.25, 0.5, 0.75, 1.0),
        "stem": 32,
        "depths": (3, 3, 3),
        "widths": (64, 128, 256),
        "strides": (1, 2, 2),
        "groups": 16,
    }
    config.dynamic = {"target_macs_fraction": 0.5}
    config.train.steps = EPOCHS * 45_000 // 256
    del config.train["sandwich_rule"]
    config.train.bootstrapping = {"random_paths": 2}
    config.train.optimizer.update({"learning_rate": 0.1, "weight_decay": 1e-4})
    optimizer = {"learning_rate": 0.05, "warm_up": 0.0}
    config.gate = {"steps": GATE_EPOCHS * 45_000 // 256, "batch_size": 256, "optimizer": optimizer}
    config.export = {"precisions": ("fp32",), "runs": 1000, "warm_up": 100}
    config.report.title = "CIFAR-10: a dynamic slimmable network"
    if small:
        tiny(config)
    if "transfer" in mode:
        transfer(config, small, mode.startswith("gate"))
    return config


def tiny(config: ConfigDict) -> None:
    """For 2 CPU cores: batch norm and one gate; the widest path has 2.5 M MACs."""
    config.slimmable = {
        "network": "ds_mobilenet_small",
        "ratios": (0.25, 0.5, 0.75, 1.0),
        "stem": 12,
        "fixed": ((24, 1, 2),),
        "gated": ((48, 2, 1), (96, 2, 2)),
    }
    config.train.steps = 1500
    config.gate.steps, config.gate.batch_size = 300, 128


def transfer(config: ConfigDict, small: bool, gates: bool) -> None:
    """What starts from a run on other images: its supernet, or its gates too."""
    config.train.transfer_from = placeholder(str)
    config.train.optimizer.update({"learning_rate": 0.7, "warm_up": 15 / 70})
    config.train.update({"steps": 70 * 45_000 // 1024, "batch_size": 1024})
    if small:
        config.train.optimizer.learning_rate = 0.1
        config.train.update({"steps": 500, "batch_size": 128})
    if gates:
        config.gate.transfer_from = placeholder(str)
    config.report.title += ", from other images"
