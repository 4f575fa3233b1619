"""A dynamic classifier of ImageNet out of once-for-all's MobileNetV3 space, at 128 to 224 pixels.

Lineage: once-for-all (Cai et al. 2020, arXiv 1908.09791): its space, progressive shrinking with learned kernel transforms, label
smoothing; trained by the sandwich rule (arXiv 2003.11142), big/little pair on top.
    dynnas run --config=configs/imagenet_ofa.py --workdir=runs/imagenet                 # one GPU of 80 GB
    dynnas run --config=configs/imagenet_ofa.py:pod --workdir=runs/imagenet      # TPU slice of 8 chips (v5e-8, one host)
    dynnas run --config=configs/imagenet_ofa.py:tiny --workdir=runs/imagenet_tiny       # 2 CPU cores, under 20 minutes
Without the pre-training: once-for-all's own weights, to which the search, or a short training, goes on:
    ... --config.train.start_from=ofa_mbv3_d234_e346_k357_w1.0 --config.supernet.padding=symmetric --config.train.steps=20000
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR). Put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into
DIR/downloads/manual, then once
    python -c "import tensorflow_datasets as t; t.builder('imagenet2012', file_format='array_record').download_and_prepare()"
Expected: the authors' supernet takes some 1,200 GPU hours (V100). No mode of this recipe has been run on ImageNet; the tiny one
on stand-in images only. Training is 2.0e18 operations (estimated): 28 hours at 2e13 a second, 3.5 on a pod of eight times that,
if its host decodes 18,000 images a second. The test split takes 7.5 GB of memory, the training images are streamed.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

TRAIN_IMAGES = 1_281_167 - 10_000


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny", "pod"):
        raise ValueError(f"mode is {mode!r}, choose from '', 'tiny' and 'pod'")
    config = ConfigDict()
    config.seed = 0
    config.target = "x86"
    config.data = {
        "name": "imagenet2012",
        "data_dir": placeholder(str),
        "holdout": 10_000,
        "image_size": 224,
        "central_share": 0.875,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "stream": {"crop_scale": (0.08, 1.0), "threads": 16},
        "augment": {"pad": 0, "brightness": 32 / 255, "saturation": 0.5},
    }
    config.supernet = {
        "network": "ofa_mobilenet_v3",
        "width": 1.0,
        "resolutions": (128, 160, 192, 224),
        "kernel_transforms": True,
    }
    config.train = {
        "steps": 180 * TRAIN_IMAGES // 512,
        "batch_size": 512,
        "ema_decay": 0.9999,
        "start_from": placeholder(str),
        "optimizer": {"learning_rate": 0.65, "weight_decay": 3e-5, "warm_up": 0.03},
        "sandwich_rule": {"random_subnets": 2, "temperature": 1.0, "label_smoothing": 0.1},
        "progressive_shrinking": {"largest_share": 0.4},
        "evaluate_every": 10_000,
        "checkpoint_every": 2_000,
        "log_every": 100,
    }
    config.collect = {"subnets": 2000, "calibration_images": 2048}
    config.predict = {"epochs": 100}
    config.search = {"budgets": 32, "population": 100, "generations": 500, "calibration_images": 4096}
    config.dynamic = {"score": "max_softmax", "max_macs_fraction": 0.5}
    config.evaluate = {}
    config.export = {"precisions": ("fp32", "int8"), "calibration_images": 512, "runs": 500, "warm_up": 50}
    config.report = {"title": "ImageNet: a dynamic classifier"}
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
    """For 8 TPU chips of one host, all on the mesh's axis "data": 512 images a chip; the learning rate grows with the batch."""
    config.train.batch_size = 4096
    config.train.steps = 180 * TRAIN_IMAGES // 4096
    config.train.optimizer.update({"learning_rate": 2.6, "warm_up": 0.05})
    config.train.update({"evaluate_every": 2_000, "checkpoint_every": 500, "log_every": 20})
    config.data.stream.threads = 96
