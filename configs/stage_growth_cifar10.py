"""Residual networks and NASNets for CIFAR-10 that grow deeper stage by stage, only where their features gain.

Lineage: stage-wise architecture search (Jordao et al. 2020), its setup: five iterations, importance by partial least squares,
200 epochs of SGD at 0.01, a tenth of it from epochs 100 and 150 on, flips and crops, 100 epochs more for every candidate.
Residual nets begin with 6 blocks a stage and grow by 2, cells with 2 and grow by 1. The batch, the momentum, the decay and the
schedule of the further epochs are not in the paper: 128, 0.9, 5e-4, and a training that begins anew (momentum, averages) at a
hundredth of the rate, a tenth of that from its half on; nor that gradients are cut at a norm of 5, that variables are averaged
over steps (0.999), and how many training images are held out: 5,000. The initial net and the net of uniform depth at equal MACs
are trained further as the candidates are. Rivals have as many epochs in all, but in one schedule, which ends at a hundredth of
the rate: the same net trained as a rival and as a control is not quite the same, in tiny a cosine of 800 steps against two of
600 and 200. Modes: "" (with that net of uniform depth), cells, resnet44, resnet56, resnet110, nasnet169, nasnet205, nasnet241
(rivals of uniform depth; resnet110 is the source of weights too), transfer (50 epochs from --config.grow.source, a run of
resnet110), supernet (a stage-elastic supernet), read_off (nets of it without training, from --config.grow.source; then the
initial net and the candidates are trained further, 50 epochs), ensemble (beside the candidates those of --config.evaluate.also,
a run of cells; of both, as in the paper, those of iterations 1, 3 and 5), inf_fs, il_fs and random (other criteria, and coins);
choose, choose_inf_fs and choose_il_fs pick the criterion's parameter first, among those in CHOICES, by the first candidate each
leads to on held-out images; of equals it is the default. The other modes have that of OPTIONS, the defaults: tiny nets did
not tell others from them (the page of results); --config.grow.criterion_options.mix=0.9, say, gives another. Each also as
MODE_tiny.
    dynnas run --config=configs/stage_growth_cifar10.py --workdir=runs/growth                    # one GPU
    dynnas run --config=configs/stage_growth_cifar10.py:resnet110 --workdir=runs/resnet110
    dynnas run --config=configs/stage_growth_cifar10.py:transfer --config.grow.source=runs/resnet110 \
        --workdir=runs/growth_transfer
    dynnas run --config=configs/stage_growth_cifar10.py:tiny --workdir=runs/growth_tiny          # 2 CPU cores
    dynnas run --config=configs/stage_growth_cifar10.py:resnet110_tiny --workdir=runs/resnet110_tiny
    dynnas report --workdir=runs/growth --baselines=runs/resnet110
Published: 94.27 % at 149 M MACs after five iterations, ResNet-110 93.57 % at 253 M. Full modes have not been run.
Expected of tiny: 46.7 % at 3.2 M MACs after 47.4 % at 2.0 M, uniform depth 47.1 % at 3.5 M (one seed); 13 minutes beside other
work. Of cells_tiny: 44.9 % at 2.3 M after 45.0 % at 2.1 M, uniform depth 45.2 % at 2.3 M; two and a half hours,
pauses and much other work included.
Results: docs/results/stage_growth_cifar10_tiny.md.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

EPOCH = 45_000 // 128  # steps; 5,000 training images are held out
RESIDUAL = {"name": "cifar_resnet", "shortcut": "projection"}
# Nets of uniform depth: modules of each stage, and of a tiny one.
UNIFORM = {
    **{"resnet44": (7, 3), "resnet56": (9, 4), "resnet110": (18, 6)},
    **{"nasnet169": (4, 2), "nasnet205": (5, 3), "nasnet241": (6, 4)},
}
OPTIONS = {"pls": {"components": 2}, "inf_fs": {"mix": 0.5}, "il_fs": {"tokens": 6}, "random": {}}  # of the criteria
# Defaults first: of values that are worth the same the first is taken.
CHOICES = {
    **{"choose": {"components": (2, 1, 4, 8)}, "choose_inf_fs": {"mix": (0.5, 0.1, 0.9)}},
    "choose_il_fs": {"tokens": (6, 3, 12)},
}
MODES = ("", "cells", "transfer", "supernet", "read_off", "ensemble", *CHOICES, *list(OPTIONS)[1:], *UNIFORM)
WIDTHS = (8, 16, 32)  # of the tiny nets
CELLS = {"filters": 4, "stem": 12}
TINY_STEPS, TINY_FURTHER = 600, 200


def get_config(mode: str = "") -> ConfigDict:
    name, tiny = mode.removesuffix("tiny").removesuffix("_"), mode.endswith("tiny")
    if name not in MODES:
        raise ValueError(f"mode is {mode!r}, choose from {list(MODES)}, or one of them with _tiny")
    config = ConfigDict()
    config.seed = 0
    config.target = "x86"
    config.data = {
        "name": "cifar10",
        "data_dir": placeholder(str),
        "holdout": 5000,
        "augment": {"pad": 4, "flip": True},
    }
    epochs = 50 if name == "transfer" else 200
    config.train = {
        "steps": epochs * EPOCH,
        "batch_size": 128,
        "ema_decay": 0.999,
        "optimizer": {"learning_rate": 0.01, "weight_decay": 5e-4, "warm_up": 0.0, "drops": (0.5, 0.75)},
        "checkpoint_every": 2000,
        "log_every": 100,
    }
    config.evaluate = {}
    config.export = {"precisions": ("fp32", "int8"), "calibration_images": 512, "runs": 1000, "warm_up": 100}
    config.export.max_accuracy_loss = 0.05
    config.report = {"title": "CIFAR-10: depth grown stage by stage"}
    if name in UNIFORM:
        uniform(config, name)
    elif name == "supernet":
        supernet(config)
    else:
        growth(config, name)
    if tiny:
        smaller(config, name)
    return config


def uniform(config: ConfigDict, name: str) -> None:
    """A rival of the same depth in all stages, trained for as many steps as a candidate is in all, in one schedule."""
    modules = (UNIFORM[name][0],) * 3
    cells = name.startswith("nasnet")
    config.network = {"name": "nasnet", "cells": modules} if cells else {**RESIDUAL, "depths": modules}
    config.train.steps = 300 * EPOCH
    config.train.optimizer.drops = (1 / 3, 1 / 2)
    config.report.title = f"CIFAR-10: {name}"


def growth(config: ConfigDict, name: str) -> None:
    """What grows, and how."""
    config.growth = {"name": "nasnet"} if name == "cells" else RESIDUAL
    criterion = name.removeprefix("choose_") if name.removeprefix("choose_") in OPTIONS else "pls"
    config.grow = {"iterations": 5, "criterion": criterion}
    if name in CHOICES:
        config.grow.choose = CHOICES[name]
    elif OPTIONS[criterion]:
        config.grow.criterion_options = OPTIONS[criterion]
    if name in ("transfer", "read_off"):
        config.grow.source = placeholder(str)
    if name == "read_off":
        config.grow.update({"read_off": True, "further": {"steps": 50 * EPOCH}})
    elif name != "transfer":
        further = {"learning_rate": 1e-4, "weight_decay": 5e-4, "warm_up": 0.0, "drops": (0.5,)}
        config.grow.update({"uniform": True, "further": {"steps": 100 * EPOCH, "optimizer": further}})
    config.evaluate.together = (1, 3, 5)
    if name == "ensemble":
        config.evaluate.also = ("runs/growth_cells",)


def supernet(config: ConfigDict) -> None:
    """A supernet of all depths, trained by the sandwich rule, and the pair that the main job finds in it."""
    config.supernet = {"network": "elastic_resnet", "deepest": (16, 16, 16), "step": 2}
    config.train.optimizer = {"learning_rate": 0.1, "weight_decay": 5e-4}
    config.train.steps = 100 * EPOCH
    config.train.sandwich_rule = {"random_subnets": 2, "temperature": 1.0}
    config.collect = {"subnets": 200, "calibration_images": 2048}
    config.predict = {"epochs": 100}
    config.search = {"budgets": 16, "population": 50, "generations": 100, "calibration_images": 4096}
    config.dynamic = {"score": "max_softmax", "max_macs_fraction": 0.6}
    config.report.title = "CIFAR-10: residual nets of any depth out of one supernet"


def smaller(config: ConfigDict, name: str) -> None:
    """For 2 CPU cores: a quarter of the pixels, narrower nets, two iterations, a few epochs."""
    config.data.update({"holdout": 2000, "image_size": 16})
    config.data.augment.pad = 2  # as large a part of the image as 4 of 32 pixels
    config.train.update({"steps": TINY_STEPS, "checkpoint_every": 200, "log_every": 20, "ema_decay": 0.99})
    config.train.optimizer = {"learning_rate": 0.1, "weight_decay": 5e-4}
    config.export.update({"runs": 200, "warm_up": 20, "max_accuracy_loss": 1.0})
    if name in UNIFORM:
        modules = (UNIFORM[name][1],) * 3
        config.network.update(
            {"cells": modules, **CELLS} if "cells" in config.network else {"depths": modules, "widths": WIDTHS}
        )
        config.train.steps = TINY_STEPS + TINY_FURTHER
        config.report.title += ", tiny"
    elif name == "supernet":
        config.supernet.update({"deepest": (5, 5, 5), "widths": WIDTHS})
        config.collect.update({"subnets": 20, "calibration_images": 512})
        config.search.update({"budgets": 6, "generations": 20, "calibration_images": 512})
    else:
        config.growth.update(CELLS if name == "cells" else {"widths": WIDTHS})
        del config.evaluate["together"]
        config.grow.update({"iterations": 2, "initial_modules": 2 if name == "cells" else 1})
        fine = {"learning_rate": 0.01, "weight_decay": 5e-4}
        if name == "transfer":  # a quarter of the steps, as in the paper
            config.train.update({"steps": TINY_STEPS // 4, "optimizer": fine})
        else:
            config.grow.further = {"steps": TINY_FURTHER, "optimizer": fine}
