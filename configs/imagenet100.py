"""A dynamic classifier of 100 classes of ImageNet at 128 to 224 pixels: the recipe of ImageNet on a tenth of the images.

Lineage: configs/imagenet_ofa.py (arXiv 1908.09791). The classes are those of imagenet100_at32, in ten superclasses of ten
(dynnas_jax/data/imagenet100.txt names their source); --config.data.class_list=FILE takes others, one WordNet id a line.
    dynnas run --config=configs/imagenet100.py --workdir=runs/imagenet100            # one GPU of 80 GB, 256 images a step
    dynnas run --config=configs/imagenet100.py:pod --workdir=runs/imagenet100        # eight TPU chips, 64 images each
    dynnas run --config=configs/imagenet100.py:tiny --workdir=runs/imagenet100_tiny  # 2 CPU cores, under 20 minutes
From once-for-all's weights, with a new classifier:
    dynnas run --config=configs/imagenet100.py:weights --config.train.start_from=FILE --workdir=runs/imagenet100
The data are those of ImageNet, prepared as configs/imagenet_ofa.py says. Expected: not known; no mode has been run on them, the
tiny one to its report on stand-in images only. Training is 2.0e17 operations (estimated): under 3 hours at 2e13 a second, 20
minutes on 8 chips of that, if their host decodes as fast.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

TRAIN_IMAGES = 124_000


def get_config(mode: str = "") -> ConfigDict:
    config = runpy.run_path(str(Path(__file__).with_name("imagenet_ofa.py")))["get_config"](mode)
    config.data.name = "imagenet100"
    config.report.title = "100 classes of ImageNet: a dynamic classifier"
    config.train.new_classifier = mode == "weights"
    if mode != "tiny":
        config.data.holdout = 5_000
        config.train.steps = (20 if mode == "weights" else 180) * TRAIN_IMAGES // config.train.batch_size
        config.train.update({"evaluate_every": 5_000, "checkpoint_every": 500})
    return config
