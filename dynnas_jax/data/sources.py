"""Image classification data as uint8 arrays in named splits, from scikit-learn, TFDS, or a file or folder of one's own."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax.data import folders, readers
from dynnas_jax.data.splits import Split, fit, stratified
from dynnas_jax.workdir import digest, file_digest

_BLOCK = 1024  # images counted at a time


class Dataset(NamedTuple):
    """What `load` returns. Mean and standard deviation are those of the pixels of `train`, per channel, in [0, 1]."""

    name: str
    train: Split
    holdout: Split  # taken from the source's train split: for search and thresholds
    test: Split  # never used in training or search
    classes: tuple  # C names
    mean: tuple  # c floats
    std: tuple  # c floats


def load(
    name: str,
    *,
    data_dir: str | None = None,
    holdout: int | float = 0.1,
    image_size: int | None = None,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    skip_share: float = 0.01,
) -> Dataset:
    """Loads a dataset into memory; never touches the network and never imports TensorFlow.

    Args:
      name: `digits` (scikit-learn; 8x8x1, values 0..16 scaled to 0..255, a fixed fifth of each class is the test
        split), a prepared TFDS image classification dataset (`cifar10`, `name/config`, `name:1.2.3`; its test split is
        `test`, or `validation` where there is no `test`), or the path of an `.npz` file with arrays train_images,
        train_labels, test_images, test_labels (uint8 [n, h, w, c] or [n, h, w]; integers [n]), optionally classes; or
        the path of a folder with `train/CLASS/*.png` and `test/CLASS/*.png`, or `CLASS/*.png` (see `folders.folder`). A
        prepared TFDS dataset goes before a folder of its name: write `./cifar10` for the folder.
      data_dir: TFDS directory; else the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets.
      holdout: held-out images, a number (int) or a part (float below 1) of the train split; stratified by class, never
        from the test split. 0: none.
      image_size: side in pixels; images are cropped to the central square and resized (Pillow, bilinear). Required
        where the images of a dataset are not of one size.
      seed: of the held-out split and of the limits.
      train_limit, test_limit: use at most so many images of the source's train (before `holdout` is taken from them)
        and test split, drawn at random; the others are not read.
      skip_share: the share of a folder's images that may fail to decode; they are left out, named and counted.

    Returns:
      A Dataset of uint8 NHWC images, each split in the order of the source.

    Raises:
      ValueError: an unknown or missing dataset, a malformed file, an impossible value; one line each.
    """
    for option, value in (("image_size", image_size), ("train_limit", train_limit), ("test_limit", test_limit)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{option}={value!r} for dataset {name!r}: give a whole number of at least 1, or None")
    if isinstance(skip_share, bool) or not isinstance(skip_share, (int, float)) or not 0 <= skip_share < 1:
        raise ValueError(f"skip_share={skip_share!r} for dataset {name!r}: give a part of at least 0 and below 1")
    if name == "digits":
        source = readers.digits()
    elif name.endswith(".npz"):
        source = readers.npz(Path(name).expanduser())
    elif _is_folder(name, data_dir):
        source = folders.folder(Path(name).expanduser(), image_size, skip_share)
    else:
        source = readers.tfds(name, data_dir, image_size)
    generators = [np.random.default_rng([seed, use]) for use in range(3)]
    pool = _read(name, source.train, "train", len(source.classes), train_limit, image_size, generators[0])
    test = _read(name, source.test, "test", len(source.classes), test_limit, image_size, generators[1])
    count = _holdout_count(holdout, len(pool))
    held = stratified(pool.labels, count, generators[2])
    train = pool[~held]
    mean, std = _moments(train.images)
    return Dataset(name, train, pool[held], test, source.classes, mean, std)


def identity(name=None, *, data_dir=None, **_):
    """A short hash of what `load` would read, None where that cannot change (digits) or is not there.

    Of an `.npz` file its content, of a folder the names and sizes of its files, of a TFDS dataset the description of the version
    that is read.
    """
    if not isinstance(name, str) or name == "digits":
        return None
    path = Path(name).expanduser()
    if not name.endswith(".npz") and _is_folder(name, data_dir):
        files = sorted(file for file in path.rglob("*") if folders.is_image(file))
        return digest([(str(file.relative_to(path)), file.stat().st_size) for file in files]) if files else None
    if not name.endswith(".npz"):
        folder = readers.prepared(name, readers.tfds_root(data_dir))
        path = folder and folder / "dataset_info.json"
    return file_digest(path) if path and path.is_file() else None


def _is_folder(name, data_dir):
    if name.startswith((".", "/", "~")):
        return True
    return name != "" and Path(name).is_dir() and readers.prepared(name, readers.tfds_root(data_dir)) is None


def _read(name, pool, split, classes, limit, image_size, generator):
    """Reads a pool, or `limit` random images of it, and checks the labels."""
    image_id = pool.image_id
    if limit is not None and limit < len(image_id):
        image_id = np.sort(generator.permutation(image_id)[:limit])
    images, labels, image_id = pool.read(image_id)
    foreign = labels[(labels < 0) | (labels >= classes)]
    if len(foreign):
        raise ValueError(
            f"{name}: {len(foreign)} labels of the {split} split lie outside 0..{classes - 1} (the first is "
            f"{foreign[0]}): every image needs the number of its class"
        )
    if image_size is not None and images.shape[1:3] != (image_size, image_size):
        images = np.stack([fit(image, image_size) for image in images])
    return Split(images, labels.astype(np.int32), image_id)


def _holdout_count(holdout, images):
    """Number of held-out images; at least one image stays for training."""
    if isinstance(holdout, float) and not 0 < holdout <= 1 and holdout.is_integer():
        holdout = int(holdout)  # where a config says 0.2, 50 is read as 50.0, and 0 as 0.0
    if isinstance(holdout, int) and not isinstance(holdout, bool) and 0 <= holdout < images:
        return holdout
    if isinstance(holdout, float) and 0 < holdout < 1 and images > 1:
        return min(max(round(holdout * images), 1), images - 1)
    raise ValueError(
        f"holdout={holdout!r} of {images} train images: give a whole number of 0 to {images - 1}, or a part "
        "between 0 and 1"
    )


def _moments(images):
    """Mean and standard deviation per channel in [0, 1], exact up to the last division: histograms, then integers."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), _BLOCK):
        pixels = images[start : start + _BLOCK].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    means, deviations = [], []
    for channel, histogram in enumerate(counts.tolist()):
        total = sum(histogram)
        first = sum(value * count for value, count in enumerate(histogram))
        second = sum(value * value * count for value, count in enumerate(histogram))
        if first * first == total * second:
            raise ValueError(f"channel {channel} of the train images is constant: drop it, it cannot be normalised")
        means.append(first / (255 * total))
        deviations.append(math.sqrt((total * second - first * first) / (255 * total) ** 2))
    return tuple(means), tuple(deviations)
