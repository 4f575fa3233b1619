"""Is there a person in the picture? A dynamic classifier for small devices, at 96 to 160 pixels.

Lineage: Visual Wake Words (Chowdhery et al. 2019, arXiv 1906.05721): COCO 2014, a person of more than 0.5 % of the image; the
nets are of once-for-all's MobileNetV3 space (arXiv 1908.09791), trained as configs/imagenet_ofa.py trains them.
    dynnas run --config=configs/visual_wake_words.py --workdir=runs/wake_words            # one GPU of 40 GB, 256 images a step
    dynnas run --config=configs/visual_wake_words.py:pod --workdir=runs/wake_words        # eight TPU chips, 128 images each
    dynnas run --config=configs/visual_wake_words.py:tiny --workdir=runs/wake_words_tiny  # 2 CPU cores, under 20 minutes
From once-for-all's weights, with a new classifier:
    dynnas run --config=configs/visual_wake_words.py:weights --config.train.start_from=FILE --workdir=runs/wake_words
The data are read from TFDS_DATA_DIR (or --config.data.data_dir=DIR), prepared once with
    python -c "import tensorflow_datasets as t; t.builder('coco/2014', file_format='array_record').download_and_prepare()"
Training on COCO's train split and testing on its validation split (40,504 images). The paper tests on the 8,059 images of
"minival" and trains on all others: --config.data.test_list=FILE, the list of their numbers, does so.
Expected: not known; no mode has been run on COCO. Training is 3.7e16 operations
(estimated): half an hour at 2e13 a second, 4 minutes on 8 chips of that, if their host decodes as fast. The largest net keeps at
most 92 MB an image at 160 pixels.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

TRAIN_IMAGES = 82_783 - 4_000


def get_config(mode: str = "") -> ConfigDict:
    config = runpy.run_path(str(Path(__file__).with_name("imagenet_ofa.py")))["get_config"](mode)
    config.data.update({"name": "visual_wake_words", "test_list": placeholder(str)})
    config.data.stream.crop_scale = (0.3, 1.0)
    config.data.augment.update({"brightness": 0.2, "contrast": 0.2, "saturation": 0.2})
    config.train.new_classifier = mode == "weights"
    config.report.title = "Visual Wake Words: a dynamic classifier"
    if mode == "tiny":
        return config
    config.data.update({"holdout": 4_000, "image_size": 160})
    config.supernet.resolutions = (96, 128, 160)
    config.train.batch_size = 1024 if mode == "pod" else 256
    config.train.steps = (20 if mode == "weights" else 100) * TRAIN_IMAGES // config.train.batch_size
    config.train.ema_decay = 0.9995
    config.train.update({"evaluate_every": 1_000, "checkpoint_every": 200, "log_every": 20})
    if mode == "pod":
        config.train.optimizer.update({"learning_rate": 1.2, "warm_up": 0.1})
    return config
