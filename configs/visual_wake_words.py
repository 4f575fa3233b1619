"""Is there a person in the picture? A dynamic classifier for small devices, at 96 to 160 pixels.

Lineage: Visual Wake Words (Chowdhery et al. 2019, arXiv 1906.05721): COCO 2014, a person of more than 0.5 % of the image; the
nets are of once-for-all's MobileNetV3 space (arXiv 1908.09791).
    dynnas run --config=configs/visual_wake_words.py --workdir=runs/wake_words            # one GPU
    dynnas run --config=configs/visual_wake_words.py:pod --workdir=runs/wake_words        # TPU slice of 8 chips (v5e-8, one host)
    dynnas run --config=configs/visual_wake_words.py:tiny --workdir=runs/wake_words_tiny  # 2 CPU cores, under 20 minutes
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR), prepared once with
    pip install importlib_resources
    python -c "import tensorflow_datasets as t; t.builder('coco/2014', file_format='array_record').download_and_prepare()"
Training on COCO's train split and testing on its validation split (40,504 images). The paper tests on the 8,059 images of
"minival" and trains on all others: --config.data.test_list=mscoco_minival_ids.txt, the list of their numbers, does so.
No mode has been run on COCO.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

TRAIN_IMAGES = 82_783 - 4_000


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny", "pod"):
        raise ValueError(f"mode is {mode!r}, choose from '', 'tiny' and 'pod'")
    config = ConfigDict()
    config.seed = 0
    config.target = "x86"
    config.data = {
        "name": "visual_wake_words",
        "data_dir": placeholder(str),
        "test_list": placeholder(str),
        "holdout": 4_000,
        "image_size": 160,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "stream": {"crop_scale": (0.3, 1.0), "threads": 16},
        "augment": {"pad": 0, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
    }
    config.supernet = {
        "network": "ofa_mobilenet_v3",
        "width": 1.0,
        "resolutions": (96, 128, 160),
        "kernel_transforms": True,
    }
    config.train = {
        "steps": 100 * TRAIN_IMAGES // 256,
        "batch_size": 256,
        "ema_decay": 0.9995,
        "start_from": placeholder(str),
        "new_classifier": False,
        "optimizer": {"learning_rate": 0.3, "weight_decay": 3e-5, "warm_up": 0.05},
        "sandwich_rule": {"random_subnets": 2, "temperature": 1.0, "label_smoothing": 0.1},
        "progressive_shrinking": {"largest_share": 0.3},
        "evaluate_every": 2_000,
        "checkpoint_every": 500,
        "log_every": 50,
    }
    config.collect = {"subnets": 2000, "calibration_images": 2048}
    config.predict = {"epochs": 100}
    config.search = {"budgets": 32, "population": 100, "generations": 500, "calibration_images": 4096}
    config.dynamic = {"score": "max_softmax", "max_macs_fraction": 0.5}
    config.evaluate = {}
    config.export = {"precisions": ("fp32", "int8"), "calibration_images": 512, "runs": 500, "warm_up": 50}
    config.report = {"title": "Visual Wake Words: a dynamic classifier"}
    if mode == "tiny":
        tiny(config)
    elif mode == "pod":
        pod(config)
    return config


def tiny(config: ConfigDict) -> None:
    """For 2 CPU cores and at most 20 minutes: 8,000 images and a small space, at 48 and 64 pixels; the rest is as in full."""
    config.data.update({"image_size": 64, "train_limit": 8000, "test_limit": 1000, "holdout": 1000})
    config.data.stream.threads = 2
    config.supernet = {
        "network": "small_images",
        "resolutions": (48,),
        "kernel_transforms": True,
        "stem": 12,
        "stem_stride": 2,
        "stage_widths": (16, 24, 44),
        "stage_strides": (2, 1, 2),
        "head": 96,
        "depths": (1, 2),
        "kernels": (3, 5),
        "expands": (1, 2, 3),
        "divisor": 4,
    }
    config.train.update({"steps": 600, "batch_size": 64, "ema_decay": 0.99, "log_every": 20, "checkpoint_every": 100})
    config.train.update({"evaluate_every": 0})
    config.train.optimizer.learning_rate = 0.2
    config.collect.update({"subnets": 100, "calibration_images": 512})
    config.search.update({"budgets": 8, "generations": 100, "calibration_images": 1024})
    config.export.update({"calibration_images": 128, "runs": 200, "warm_up": 20})


def pod(config: ConfigDict) -> None:
    """For 8 TPU chips of one host: 256 images a chip; the learning rate grows with the batch."""
    config.train.batch_size = 2048
    config.train.steps = 100 * TRAIN_IMAGES // 2048
    config.train.optimizer.update({"learning_rate": 1.6, "warm_up": 0.1})
    config.train.update({"evaluate_every": 500, "checkpoint_every": 100, "log_every": 20})
    config.data.stream.threads = 96
