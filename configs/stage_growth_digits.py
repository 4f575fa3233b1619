"""Residual networks for scikit-learn's handwritten digits that grow deeper stage by stage, only where their features gain.

Lineage: stage-wise architecture search (Jordao et al. 2020): two iterations from two blocks a stage, importance by partial
least squares; modes inf_fs and il_fs are the other criteria, random throws coins instead; choose, choose_inf_fs and
choose_il_fs pick the criterion's parameter first, among those in CHOICES, by the first candidate each leads to on held-out
images; of equals it is the default. The other modes have those of OPTIONS, which were chosen so
(docs/results/stage_growth_digits.md). Each mode also as MODE_tiny.
Expected: 98.3 % of the test images at 289 k MACs with partial least squares, where the net it begins with has 98.6 % at 105 k
and uniform depth 97.8 % at 271 k (seed 0; an image is 0.28 points); 4 to 7 minutes beside other work; docs/results/.
    dynnas run --config=configs/stage_growth_digits.py --workdir=runs/growth_digits    # 2 CPU cores, at most 10 minutes
    dynnas run --config=configs/stage_growth_digits.py:choose --workdir=runs/growth_digits_choose
    dynnas study --config=configs/study_growth_digits.py --workdir=runs/study_growth   # all criteria and controls, 3 seeds
"""

from ml_collections import ConfigDict

OPTIONS = {"pls": {"components": 2}, "inf_fs": {"mix": 0.5}, "il_fs": {"tokens": 12}, "random": {}}
# Defaults first: of values that are worth the same the first is taken.
CHOICES = {
    **{"choose": {"components": (2, 1, 4, 8)}, "choose_inf_fs": {"mix": (0.5, 0.1, 0.9)}},
    "choose_il_fs": {"tokens": (6, 3, 12)},
}


def get_config(mode: str = "") -> ConfigDict:
    name, tiny = mode.removesuffix("tiny").removesuffix("_") or "pls", mode.endswith("tiny")
    if name not in (*OPTIONS, *CHOICES):
        raise ValueError(
            f"mode is {mode!r}, choose from '', {', '.join((*OPTIONS, *CHOICES))}, tiny, or one of them with _tiny"
        )
    criterion = name.removeprefix("choose").removeprefix("_") or "pls"
    config = ConfigDict()
    config.seed = 0
    config.target = "x86"
    config.data = {
        "name": "digits",
        "holdout": 0.15,
        "augment": {"pad": 0, "flip": False, "rotate": 12.0, "zoom": 0.15, "shift": 0.75},
    }
    config.growth = {"name": "cifar_resnet", "widths": (4, 8, 16), "shortcut": "projection"}
    config.train = {
        "steps": 500,
        "batch_size": 128,
        "ema_decay": 0.99,
        "optimizer": {"learning_rate": 0.1, "weight_decay": 5e-4, "warm_up": 0.05},
        "checkpoint_every": 100,
        "log_every": 20,
    }
    # A digit of 8x8 pixels leaves less to refine than a photo: two blocks a stage are enough to begin with.
    config.grow = {"iterations": 2, "initial_modules": 2, "criterion": criterion, "uniform": name == "pls"}
    if name in CHOICES:
        config.grow.choose = CHOICES[name]
    elif OPTIONS[criterion]:
        config.grow.criterion_options = OPTIONS[criterion]
    config.evaluate = {}
    config.export = {"precisions": ("fp32", "int8"), "calibration_images": 256, "runs": 1000, "warm_up": 100}
    config.export.max_accuracy_loss = 0.05
    config.report = {"title": "Handwritten digits: depth grown stage by stage"}
    if tiny:
        config.train.steps = 20
        config.grow.update({"initial_modules": 1, "growth": 1})
        config.export.update({"runs": 20, "warm_up": 5, "max_accuracy_loss": 1.0})
    return config
