"""A dynamic classifier of ImageNet out of once-for-all's MobileNetV3 space, at 128 to 224 pixels.

Lineage: once-for-all (Cai et al. 2020, arXiv 1908.09791): its space, progressive shrinking with learned kernel transforms, label
smoothing; trained by the sandwich rule (arXiv 2003.11142), big/little pair on top.
    dynnas run --config=configs/imagenet_ofa.py --workdir=runs/imagenet             # one GPU of 80 GB, 256 images a step
    dynnas run --config=configs/imagenet_ofa.py:pod --workdir=runs/imagenet         # eight TPU chips, 64 images each
    dynnas run --config=configs/imagenet_ofa.py:tiny --workdir=runs/imagenet_tiny   # 2 CPU cores, under 20 minutes
From the authors' own weights (a state dict of theirs), which saves the long training; ten epochs at a small rate follow:
    dynnas run --config=configs/imagenet_ofa.py:weights --config.train.start_from=FILE --workdir=runs/imagenet
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR). Put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into
DIR/downloads/manual, then once
    python -c "import tensorflow_datasets as t; t.builder('imagenet2012', file_format='array_record').download_and_prepare()"
Expected: the authors' supernet takes some 1,200 GPU hours (V100). No mode of this recipe has been run on ImageNet; the tiny one
on stand-in images only. Predicted for 64 images a chip on eight v5e: 1,700 images a second of 224 pixels (docs/scaling.md), thus
25 hours for 180 epochs at the mean of the four resolutions; on eight H100 6 hours, if their hosts decode 10,000 images a second.
The largest net keeps at most 181 MB an image for its gradient at 224 pixels: 46 GB at 256 images, 12 GB at 64. Of the hosts'
memory the held-out images take 1.5 GB in each process, the test split 7.5 GB in the first; the training images are streamed.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

TRAIN_IMAGES = 1_281_167 - 10_000


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny", "pod", "weights"):
        raise ValueError(f"mode is {mode!r}, choose from '', 'tiny', 'pod' and 'weights'")
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
        "steps": 180 * TRAIN_IMAGES // 256,
        "batch_size": 256,
        "ema_decay": 0.9999,
        "start_from": placeholder(str),
        "optimizer": {"learning_rate": 0.33, "weight_decay": 3e-5, "warm_up": 0.03},
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
    config.export = {"precisions": ("fp32", "int8"), "calibration_images": 1000, "runs": 500, "warm_up": 50}
    config.report = {"title": "ImageNet: a dynamic classifier"}
    if mode == "tiny":
        tiny(config)
    elif mode == "pod":
        pod(config)
    elif mode == "weights":
        weights(config)
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
    config.export.update({"calibration_images": 1000, "runs": 200, "warm_up": 20})


def pod(config: ConfigDict) -> None:
    """For eight TPU chips, all on the mesh's axis "data": 64 images a chip; the learning rate grows with the batch."""
    config.train.batch_size = 512
    config.train.steps = 180 * TRAIN_IMAGES // 512
    config.train.optimizer.learning_rate = 0.65
    config.data.stream.threads = 96


def weights(config: ConfigDict) -> None:
    """What once-for-all's weights need: their padding, no phases (all is unlocked already), a short training at a small rate."""
    config.supernet.padding = "symmetric"
    del config.train["progressive_shrinking"]
    config.train.steps = 10 * TRAIN_IMAGES // 256
    config.train.optimizer.learning_rate = 0.02
