"""Networks of three exits for ImageNet, at 128 to 224 pixels, out of once-for-all's MobileNetV3: the setting of ENAS4D.

Lineage: ENAS4D (arXiv 2009.09182), whose values these are: three exits; resolutions 128 to 224 by 16; ratios 1/2, 2/3, 1;
kernels 3, 5, 7; depths 2, 3, 4; 24 epochs of one random net a step, SGD with Nesterov momentum at 4.5e-3, weight decay 3e-5,
batches of 192; omega 0.09; 18,000 recorded nets; 90 to 180 M MACs on average. Training starts from a supernet of single nets:
    dynnas run --config=configs/enas4d_imagenet.py --workdir=runs/enas4d --config.train.transfer_from=runs/imagenet
that of configs/imagenet_ofa.py, or of the authors' weights (a state dict of theirs), which want their padding:
    dynnas run --config=configs/enas4d_imagenet.py --workdir=runs/enas4d --config.train.start_from=FILE \
        --config.multi_exit.padding=symmetric
The data are those of configs/imagenet_ofa.py. Its largest nets and the smallest learn in every step too, as everywhere here.
Expected: the paper reaches 70.5, 70.8, 72.1 and 74.4 % at 92, 123, 153 and 185 M MACs; it took 90 GPU hours to train and 100 to
record. Nothing has been run here. The report's figure shows what others have published beside it (PUBLISHED says from where).
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

EPOCHS = 24
# By label, (average millions of MACs, top-1 accuracy on ImageNet). ENAS4D: the paper's table 1. RANet and MSDNet, an exit for
# each image: read off the right panel of imgs/dynamic_results.png of github.com/yangle15/RANet-pytorch, to a tenth of a point.
# SkipNet: a ResNet-101 of 77.4 % and 7.8 G MACs with 30 % fewer at that accuracy give or take half a point (arXiv 1711.09485,
# table 2, section 4.1). FBS: a slimmed VGG-16, 60 % of its channels at work, by docs/fbs.md of github.com/deep-fry/mayo.
PUBLISHED = {
    "ENAS4D": ((92, 0.705), (123, 0.708), (153, 0.721), (185, 0.744)),
    "RANet, read off a figure": ((600, 0.687), (800, 0.709), (1000, 0.724), (1500, 0.746), (2000, 0.751)),
    "MSDNet, read off a figure": ((700, 0.692), (800, 0.702), (1000, 0.712), (1500, 0.737), (2000, 0.742)),
    "SkipNet-101": ((5500, 0.774),),
    "FBS, VGG-16": ((3380, 0.6959),),
}


def get_config(mode: str = "") -> ConfigDict:
    if mode:
        raise ValueError(f"mode is {mode!r}; this recipe has none")
    folder = Path(__file__).parent
    ofa = runpy.run_path(str(folder / "imagenet_ofa.py"))
    config = ofa["get_config"]()
    config.multi_exit = {
        "network": "ofa_mobilenet_v3",
        "width": 1.0,
        "resolutions": tuple(range(128, 225, 16)),
        "exits": 3,
        "ratios": (1 / 2, 2 / 3, 1.0),
        "kernel_transforms": True,
        "padding": "SAME",
    }
    del config["supernet"], config.train["progressive_shrinking"]
    config.train.update(
        {"steps": EPOCHS * ofa["TRAIN_IMAGES"] // 192, "batch_size": 192, "transfer_from": placeholder(str)}
    )
    config.train.optimizer.update({"learning_rate": 4.5e-3, "weight_decay": 3e-5, "warm_up": 0.0})
    config.train.sandwich_rule.random_subnets = 1
    config.collect = {"subnets": 18_000, "calibration_images": 2048}
    config.predict = {"epochs": 30, "learning_rate": 1e-4, "weight_decay": 1e-5}
    config.search = {"population": 100, "generations": 2000, "calibration_images": 4096}
    config.dynamic = {"score": "max_softmax", "target_macs": (90e6, 120e6, 150e6, 180e6), "omega": 0.09, "deployed": 0}
    config.export.precisions = ("fp32",)
    published = runpy.run_path(str(folder / "enas4d_cifar10.py"))["published"]
    config.report = {"title": "ImageNet: networks of three exits", "published": published("imagenet2012", PUBLISHED)}
    return config
