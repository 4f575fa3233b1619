"""Residual networks of bottlenecks for ImageNet at 224 pixels that grow deeper stage by stage, from the weights of a deeper one.

Lineage: stage-wise architecture search (Jordao et al. 2020), with its weight transfer: nets take the first modules of each
stage of a trained net and are fine-tuned for 50 epochs. The criterion's parameter is to be one that was chosen on another
dataset: that is `options` in the growth.json of a run of stage_growth_cifar10.py:choose; until one has been made, the default
of two components stands here. The paper does not say where it begins at 224 pixels: here with two bottlenecks a stage, two more
each time. The source must be as deep in every stage as the deepest net that may be compared; (12, 12, 12, 12) serves all five
iterations. Modes: "", source.
    dynnas run --config=configs/stage_growth_imagenet.py:source --workdir=runs/growth_source        # several GPUs
    dynnas run --config=configs/stage_growth_imagenet.py --config.grow.source=runs/growth_source --workdir=runs/growth_imagenet
Published: 90.23 % top-5. Not run.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

EPOCH = 1_271_167 // 256  # steps; 10,000 training images are held out


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "source", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '', 'source' and 'tiny'")
    config = ConfigDict()
    config.seed = 0
    config.target = "x86"
    config.data = {
        "name": "imagenet2012",
        "data_dir": placeholder(str),
        "holdout": 10_000,
        "image_size": 224,
        "augment": {"pad": 0, "flip": True},
    }
    config.train = {
        "steps": (90 if mode == "source" else 50) * EPOCH,
        "batch_size": 256,
        "ema_decay": 0.9999,
        "optimizer": {"learning_rate": 0.1 if mode == "source" else 0.01, "weight_decay": 1e-4, "drops": (0.5, 0.75)},
        "precision": "bfloat16",
        "checkpoint_every": 5000,
        "log_every": 100,
    }
    config.evaluate = {}
    config.export = {"precisions": ("fp32", "int8"), "calibration_images": 2000, "runs": 200, "warm_up": 20}
    config.report = {"title": "ImageNet: depth grown stage by stage"}
    if mode == "source":
        config.network = {"name": "bottleneck_resnet", "depths": (12, 12, 12, 12)}
        return config
    config.growth = {"name": "bottleneck_resnet"}
    config.grow = {"iterations": 5, "criterion": "pls", "criterion_options": {"components": 2}}
    config.grow.source = placeholder(str)
    if mode == "tiny":  # from random weights, to see that all of it runs
        del config.grow["source"]
        config.data.image_size = 32
        config.growth.widths, config.growth.stem = (16, 32, 64, 128), 8
        config.train.update({"steps": 20, "batch_size": 32})
        config.grow.update({"iterations": 1, "initial_modules": 1, "growth": 1, "samples": 2000})
    return config
