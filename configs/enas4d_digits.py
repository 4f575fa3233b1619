"""Networks of three exits for scikit-learn's handwritten digits, all out of one supernet, each for its own budget.

Lineage: ENAS4D (arXiv 2009.09182): every exit goes on from what those before it computed; per exit kernels, depths and shares of
the channels are searched, by a predictor of the reward and aging evolution. On once-for-all's blocks (arXiv 1908.09791).
Takes 4 min 13 s on 2 idle CPU cores where all programs must be compiled; networks of 33 to 50 k MACs on average reach 96.1 to
96.4 % (seed 0; three seeds in docs/results/enas4d_digits.md).
    dynnas run --config=configs/enas4d_digits.py --workdir=runs/enas4d_digits     # 2 CPU cores
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '' and 'tiny'")
    config = ConfigDict()
    config.seed = 0
    config.target = "x86"
    config.data = {
        "name": "digits",
        "holdout": 0.15,
        "augment": {"pad": 0, "flip": False, "rotate": 12.0, "zoom": 0.15, "shift": 0.75},
    }
    config.multi_exit = {
        "network": "small_images",
        "exits": 3,
        "ratios": (1 / 2, 2 / 3, 1.0),
        "stem": 4,
        "stage_widths": (4, 8, 16),
        "stage_strides": (1, 2, 1),
        "head": 16,
        "depths": (1, 2),
        "kernels": (3, 5),
        "expands": (3,),
        "act": "relu6",
        "squeeze_excite": False,
        "divisor": 4,
        "kernel_transforms": True,
    }
    targets = (35_000, 45_000, 60_000, 80_000)  # the largest net has 154 k MACs up to its last exit
    config.dynamic = {"score": "max_softmax", "target_macs": targets, "omega": 0.09, "deployed": 1}
    config.train = {
        "steps": 800,
        "batch_size": 128,
        "ema_decay": 0.99,
        "optimizer": {"learning_rate": 0.1, "weight_decay": 5e-4, "warm_up": 0.05},
        "sandwich_rule": {"random_subnets": 1, "temperature": 1.0},
        "evaluate_every": 200,
        "checkpoint_every": 100,
        "log_every": 20,
    }
    config.collect = {"subnets": 200, "calibration_images": 512}
    config.predict = {"epochs": 100}
    config.search = {"population": 100, "generations": 400, "calibration_images": 1024}
    config.evaluate = {}
    config.export = {"precisions": ("fp32",), "runs": 1000, "warm_up": 100}
    config.report = {"title": "Handwritten digits: networks of three exits"}
    if mode == "tiny":
        config.train.steps, config.train.evaluate_every = 20, 0
        config.collect.subnets, config.collect.calibration_images = 24, 128
        config.predict.epochs, config.search.generations = 10, 40
        config.export.update({"runs": 20, "warm_up": 5})
    return config
