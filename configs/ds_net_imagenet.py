"""Dynamic slimmable networks for ImageNet at 224 pixels: ResNet-50, MobileNetV1 and EfficientNet-B0, as DS-Net trains them.

Lineage: DS-Net (arXiv 2103.13258), whose values these are: batches of 512; 150 epochs of the supernet at 0.2 (MobileNetV1: 0.08)
at first, a cosine that ends at 1 %, decay 1e-4, no label smoothing; 10 epochs of the gates from 0.05 on, times 0.9 after each;
losses weighed 1, 0.5, 1. A step takes the mean of its four paths' gradients where the authors' code adds them: hence four times
their learning rate, and a quarter of their decay. The paper leaves the target's decay open; 0.997 is that of the authors' code.
Warm-up is taken to be five epochs, as in the work it cites; AutoAugment, which it cites, is left out. Gradients are not
clipped, as in the authors' code (tiny clips them, at batches of 64). The gates that are used are averages (gate.ema_decay, 0.99),
which the paper does not take.
    dynnas run --config=configs/ds_net_imagenet.py --workdir=runs/ds_resnet50                           # several GPUs
    dynnas run --config=configs/ds_net_imagenet.py:mobilenet --workdir=runs/ds_mobilenet                # 14 paths
    dynnas run --config=configs/ds_net_imagenet.py:mobilenet18 --workdir=runs/ds_mobilenet18            # 18, near the paper's
    dynnas run --config=configs/ds_net_imagenet.py:efficientnet --workdir=runs/ds_efficientnet
    dynnas run --config=configs/ds_net_imagenet.py:tiny --workdir=runs/ds_net_imagenet_tiny             # 2 CPU cores
The data are those of configs/imagenet_ofa.py. The losses decide what an image costs, unless --config.dynamic.target_macs=N does.
Published: 74.6, 76.1 and 76.6 % at 1.2, 2.2 and 3.1 G MACs (ResNet-50); 70.1, 72.8 and 74.5 % at 153, 319 and 565 M
(MobileNetV1). No mode has been run on ImageNet.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

EPOCHS, GATE_EPOCHS, WARM_UP_EPOCHS, BATCH = 150, 10, 5, 512
RANDOM_PATHS = 2
ADDED = 2 + RANDOM_PATHS  # gradients of a step, which the authors add
NETWORKS = {  # network and learning rate of the supernet, of added gradients
    "": ({"network": "ds_resnet50"}, 0.2),
    "mobilenet": ({"network": "ds_mobilenet_v1", "paths": 14}, 0.08),
    "mobilenet18": ({"network": "ds_mobilenet_v1", "paths": 18}, 0.08),
    "efficientnet": ({"network": "ds_efficientnet_b0"}, 0.2),
}


def get_config(mode: str = "") -> ConfigDict:
    if mode not in (*NETWORKS, "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from {[*NETWORKS, 'tiny']}")
    imagenet = runpy.run_path(str(Path(__file__).with_name("imagenet_ofa.py")))
    base, epoch = imagenet["get_config"](), imagenet["TRAIN_IMAGES"] // BATCH
    config = ConfigDict({name: base[name] for name in ("seed", "target", "data", "evaluate", "export")})
    network, learning_rate = NETWORKS["mobilenet" if mode == "tiny" else mode]
    config.slimmable = network
    config.dynamic = {}
    config.train = {
        "steps": EPOCHS * epoch,
        "batch_size": BATCH,
        "ema_decay": 0.997,
        "optimizer": {
            "learning_rate": ADDED * learning_rate,
            "weight_decay": 1e-4 / ADDED,
            "warm_up": WARM_UP_EPOCHS / EPOCHS,
            "final": 0.01,
            "clip_norm": 0.0,
        },
        "bootstrapping": {"random_paths": RANDOM_PATHS},
        "precision": "bfloat16",
        "evaluate_every": 10_000,
        "checkpoint_every": 2000,
        "log_every": 100,
    }
    optimizer = {"learning_rate": 0.05, "warm_up": 0.0, "factor": 0.9, "factor_every": epoch, "clip_norm": 0.0}
    config.gate = {"steps": GATE_EPOCHS * epoch, "batch_size": BATCH, "optimizer": optimizer, "log_every": 100}
    config.export.precisions = ("fp32",)
    config.report = {"title": "ImageNet: a dynamic slimmable network"}
    if mode == "tiny":
        tiny(config)
    return config


def tiny(config: ConfigDict) -> None:
    """For 2 CPU cores: 8,000 images at 32 pixels, and a small network."""
    config.data.update({"image_size": 32, "train_limit": 8000, "test_limit": 1000, "holdout": 1000})
    config.data.stream.threads = 2
    config.slimmable = {
        "network": "ds_mobilenet_small",
        "stem": 12,
        "fixed": ((24, 1, 2),),
        "gated": ((48, 2, 1), (96, 2, 2)),
    }
    short = {"batch_size": 64, "ema_decay": 0.99, "log_every": 20, "checkpoint_every": 100}
    config.train.update({"steps": 600, "precision": "float32", "evaluate_every": 0, **short})
    config.gate.update({"steps": 100, **short})
    config.gate.optimizer.factor_every = 10
    config.train.optimizer.clip_norm = config.gate.optimizer.clip_norm = 5.0  # rates are those of eight times the batch
    config.export.update({"calibration_images": 1000, "runs": 200, "warm_up": 20})
