"""The three datasets of EAS on their TFDS sources, by the paper's own settings: ImageNet-10, ImageNet-12 and Car-20.

Lineage: EAS (arXiv 2108.01224, section 4 and appendix B): once-for-all's MobileNetV3 space (arXiv 1908.09791) at 224 pixels, no
kernel transforms; teacher and supernet 120 epochs of 256 images each; the generator 90 epochs of the validation images.
    dynnas run --config=configs/eas_paper.py --workdir=runs/eas_imagenet10              # ImageNet-10, one GPU of 80 GB
    dynnas run --config=configs/eas_paper.py:imagenet12 --workdir=runs/eas_imagenet12
    dynnas run --config=configs/eas_paper.py:car20 --workdir=runs/eas_car20
    dynnas run --config=configs/eas_paper.py:tiny --workdir=runs/eas_paper_tiny         # ImageNet-10 at 48 pixels, 2 CPU cores
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR): imagenet2012, as configs/imagenet_ofa.py says, or cars196.
Expected (the paper, one GPU): 88.9 to 89.9 % on ImageNet-10, 83.4 to 84.3 % on ImageNet-12, 94.6 to 95.8 % on Car-20, at 219 to
378 M MACs. Not run here: the datasets are not at hand. The predictors are trained by AdamW, not by SGD.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# TFDS name, training images without the validation images, validation images, superclasses, superclass dropout
DATASETS = {
    "imagenet10": ("imagenet2012", 77_237 - 10_000, 10_000, 10, 0.6),
    "imagenet12": ("imagenet2012", 308_494 - 10_000, 10_000, 12, 0.1),
    "car20": ("cars196", 2_494 - 500, 500, 20, 0.15),
}
BATCH = 256


def get_config(mode: str = "") -> ConfigDict:
    from dynnas_jax.data import superclasses

    if mode not in ("", "tiny", *DATASETS):
        raise ValueError(f"mode is {mode!r}, choose from '', 'tiny', {', '.join(map(repr, DATASETS))}")
    which = mode if mode in DATASETS else "imagenet10"
    name, images, holdout, groups, dropout = DATASETS[which]
    config = ConfigDict()
    config.seed = 0
    config.target = "x86"
    config.data = {
        **{"name": name, "data_dir": placeholder(str), "class_list": str(superclasses.path_of(which))},
        **{"holdout": holdout, "image_size": 224, "central_share": 0.875},
        **{"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        "stream": {"crop_scale": (0.08, 1.0), "threads": 16},
        "augment": {"pad": 0, "brightness": 32 / 255, "saturation": 0.5},
    }
    config.superclasses = {"known": which}
    config.eas = {"network": "ofa_mobilenet_v3", "width": 1.0, "resolutions": (224,)}
    steps = 120 * images // BATCH
    shared = {"steps": steps, "batch_size": BATCH, "ema_decay": 0.999, "checkpoint_every": 1000, "log_every": 100}
    config.teacher = {**shared, "optimizer": {"learning_rate": 0.1, "weight_decay": 3e-5, "warm_up": 0.0}}
    config.train = {
        **{**shared, "superclass_dropout": dropout},
        "optimizer": {"learning_rate": 0.01, "weight_decay": 3e-5, "warm_up": 0.0},
        "sandwich_rule": {"random_subnets": 2, "temperature": 1.0},
        "progressive_shrinking": {"largest_share": 0.0, "order": ("kernel", "depth", "expand")},
    }
    config.collect = {"subnets": 16_000, "calibration_images": 2048}
    config.predict = {"epochs": 250, "batch_size": 256}
    # 90 epochs; a step reads as many images as the smallest superclass has, where that is less than a batch.
    steps = 90 * holdout // min(BATCH, holdout // groups)
    config.generator = {"steps": steps, "least_budget": 150e6, "most_budget": 550e6}
    config.search = {"budgets": 5, "population": 100, "generations": 500, "calibration_images": 2048}
    config.evaluate = {"calibration_images": 2048}
    config.export = {"precisions": ("fp32",), "runs": 100, "warm_up": 10}
    config.report = {"title": f"{which}: a network for these classes and this budget"}
    if mode == "tiny":
        tiny(config)
    return config


def tiny(config: ConfigDict) -> None:
    """For 2 CPU cores: 8,000 images at 48 pixels and a small space; the rest is as in full."""
    config.data.update({"image_size": 48, "train_limit": 8000, "test_limit": 1000, "holdout": 1000})
    config.data.stream.threads = 2
    config.eas = {
        **{"network": "small_images", "stem": 12, "stem_stride": 2, "stage_widths": (16, 24, 44), "head": 96},
        **{"stage_strides": (2, 1, 2), "depths": (1, 2), "kernels": (3, 5), "expands": (1, 2, 3), "divisor": 4},
        "widths": (1.0,),
    }
    short = {"steps": 300, "batch_size": 64, "ema_decay": 0.99, "checkpoint_every": 100, "log_every": 20}
    config.teacher.update(short)
    config.train.update(short)
    config.collect.update({"subnets": 60, "calibration_images": 512})
    config.generator = {"steps": 200, "batch_size": 32, "learning_rate": 3e-3, "cost_scenarios": 63}
    config.search.update({"generations": 100, "calibration_images": 512})
    config.evaluate.calibration_images = 512
