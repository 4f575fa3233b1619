"""Image classification data as uint8 arrays in named splits, from scikit-learn, TFDS, or a file or folder of one's own."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax.data import folders, readers, tfds
from dynnas_jax.data.splits import Split, fitted, stratified
from dynnas_jax.workdir import digest, file_digest

_BLOCK = 1024  # images counted at a time
_MOMENT_IMAGES = 10_000  # of a stream, for mean and standard deviation


class Dataset(NamedTuple):
    """What `load` returns. Mean and standard deviation are per channel, in [0, 1]."""

    name: str
    train: Split  # its images may be a `streams.Streamed`
    holdout: Split  # taken from the source's train split: for search and thresholds
    test: Split | None  # never used in training or search; None where it was not to be read
    classes: tuple  # C names
    mean: tuple  # c floats
    std: tuple  # c floats


def load(
    name: str,
    *,
    data_dir: str | None = None,
    holdout: int | float = 0.1,
    image_size: int | None = None,
    central_share: float = 1.0,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    skip_share: float = 0.01,
    mean: tuple | None = None,
    std: tuple | None = None,
    class_list: str | None = None,
    test_list: str | None = None,
    stream: dict | None = None,
    with_test: bool = True,
) -> Dataset:
    """Loads a dataset; never touches the network and never imports TensorFlow.

    Args:
      name: `digits` (scikit-learn; 8x8x1, values 0..16 scaled to 0..255, a fixed fifth of each class is the test
        split), a prepared TFDS image classification dataset (`cifar10`, `name/config`, `name:1.2.3`; its test split is
        `test`, or `validation` where there is no labelled `test`), one made of such a dataset (`derived.DERIVED`), or the
        path of an `.npz` file with arrays train_images,
        train_labels, test_images, test_labels (uint8 [n, h, w, c] or [n, h, w]; integers [n]), optionally classes; or
        the path of a folder with `train/CLASS/*.png` and `test/CLASS/*.png`, or `CLASS/*.png` (see `folders.folder`). A
        prepared TFDS dataset goes before a folder of its name: write `./cifar10` for the folder.
      data_dir: TFDS directory; else the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets.
      holdout: held-out images, a number (int) or a part (float below 1) of the train split; stratified by class, never
        from the test split. 0: none.
      image_size: side in pixels; images are cropped to the central square and resized (Pillow, bilinear). Required
        where the images of a dataset are not of one size.
      central_share: of the side of that square that is kept, such as 0.875 for ImageNet; needs image_size.
      seed: of the held-out split, of the limits, and of a stream.
      train_limit, test_limit: use at most so many images of the source's train (before `holdout` is taken from them)
        and test split, drawn at random; the others are not read.
      skip_share: the share of a split's images that may fail to decode; they are left out, named and counted.
      mean, std: what the network normalises by, per channel, of pixels in [0, 1]; those of the pixels of `train` if None (of
        10,000 of a stream).
      class_list: a text file with the names of the classes of a TFDS dataset to keep, one a line; they are numbered in its order.
      test_list: a text file with the COCO numbers of the images that are the test split of `visual_wake_words`, one a line, such
        as the paper's "minival"; all other images are for training then. None: COCO 2014's own two splits.
      stream: keyword arguments of `streams.rule`; the training images then stay in their files and are decoded as they are
        needed. Of TFDS datasets and folders; the held-out and the test images are in memory.
      with_test: whether to read the test split, which one process of several is enough for.

    Returns:
      A Dataset of uint8 NHWC images, each split in the order of the source.

    Raises:
      ValueError: an unknown or missing dataset, a malformed file, an impossible value; one line each.
    """
    _check(name, image_size, central_share, skip_share, stream, train_limit=train_limit, test_limit=test_limit)
    reading = {"image_size": image_size, "central_share": central_share, "skip_share": skip_share}
    source = _source(name, data_dir, reading, {"class_list": class_list, "test_list": test_list})
    generators = [np.random.default_rng([seed, use]) for use in range(3)]
    read = functools.partial(_read, name, classes=len(source.classes), image_size=image_size, share=central_share)
    train_id = _limited(source.train.image_id, train_limit, generators[0])
    if stream is None:
        pool = read(source.train, train_id, "train")
        held = stratified(pool.labels, _holdout_count(holdout, len(pool)), generators[2])
        train, held_out = pool[~held], pool[held]
    else:
        train, held_id = _streamed(name, source, train_id, holdout, generators[2], seed, skip_share, stream)
        held_out = read(source.train, held_id, "train")
    test_id = _limited(source.test.image_id, test_limit, generators[1])
    test = read(source.test, test_id, "test") if with_test else None
    return Dataset(name, train, held_out, test, source.classes, *_normalisation(train.images, mean, std, seed))


def _source(name, data_dir, reading, lists):
    """Opens the source of a dataset."""
    own = name == "digits" or name.endswith(".npz") or _is_folder(name, data_dir)
    for option in (option for option, value in lists.items() if own and value is not None):
        raise ValueError(f"data.{option}: {name!r} is no TFDS dataset, only these are read by lists; leave it out")
    if name == "digits":
        return readers.digits()
    if name.endswith(".npz"):
        return readers.npz(Path(name).expanduser())
    if own:
        return folders.folder(Path(name).expanduser(), **reading)
    return tfds.tfds(name, data_dir, **reading, **lists)


def _check(name, image_size, central_share, skip_share, stream, **limits):
    """Raises ValueError for an impossible option of `load`."""
    for option, value in {"image_size": image_size, **limits}.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{option}={value!r} for dataset {name!r}: give a whole number of at least 1, or None")
    if isinstance(skip_share, bool) or not isinstance(skip_share, (int, float)) or not 0 <= skip_share < 1:
        raise ValueError(f"skip_share={skip_share!r} for dataset {name!r}: give a part of at least 0 and below 1")
    if isinstance(central_share, bool) or not isinstance(central_share, (int, float)) or not 0 < central_share <= 1:
        raise ValueError(f"central_share={central_share!r} for dataset {name!r}: give a part above 0 and at most 1")
    for option, value in (
        ("central_share", central_share != 1),
        ("stream.crop_scale", (stream or {}).get("crop_scale")),
    ):
        if value and image_size is None:
            raise ValueError(f"data.{option} for dataset {name!r} does nothing without image_size; give both")


def _streamed(name, source, train_id, holdout, generator, seed, skip_share, options):
    """(the train split with its images in their files, image_id of the held-out ones)."""
    from dynnas_jax.data.streams import Streamed  # here, since it needs JAX, which images in memory do without

    if source.train.reader.in_memory:
        raise ValueError(f"data.stream: {name!r} is in memory as a whole; streams are for TFDS datasets and folders")
    labels = source.train.reader.labels(train_id)
    _check_labels(name, labels, "train", len(source.classes))
    held = stratified(labels, _holdout_count(holdout, len(labels)), generator)
    ids = train_id[~held]
    images = Streamed(f"{name} train", source.train.reader, ids, seed=seed, skip_share=skip_share, **options)
    return Split(images, labels[~held].astype(np.int32), ids), train_id[held]


def identity(name=None, *, data_dir=None, class_list=None, test_list=None, **_):
    """A short hash of what `load` would read, None where that cannot change (digits) or is not there.

    Of an `.npz` file its content, of a folder the names and sizes of its files, of a TFDS dataset the description of the version
    that is read, and the lists.
    """
    if not isinstance(name, str) or name == "digits":
        return None
    path = Path(name).expanduser()
    if not name.endswith(".npz") and _is_folder(name, data_dir):
        files = sorted(file for file in path.rglob("*") if folders.is_image(file))
        return digest([(str(file.relative_to(path)), file.stat().st_size) for file in files]) if files else None
    if name.endswith(".npz"):
        return file_digest(path) if path.is_file() else None
    folder, made = tfds.found(name, tfds.tfds_root(data_dir))
    if folder is None:
        return None
    class_list = class_list or (made and made.class_list)
    lists = (Path(str(file)).expanduser() for file in (class_list, test_list) if file)
    read = [file_digest(file) for file in (folder / "dataset_info.json", *lists) if file.is_file()]
    return read[0] if len(read) == 1 else digest(read)


def _is_folder(name, data_dir):
    if name.startswith((".", "/", "~")):
        return True
    return name != "" and Path(name).is_dir() and tfds.found(name, tfds.tfds_root(data_dir))[0] is None


def _limited(image_id, limit, generator):
    """The ids, or `limit` random ones of them."""
    if limit is None or limit >= len(image_id):
        return image_id
    return np.sort(generator.permutation(image_id)[:limit])


def _read(name, pool, image_id, split, *, classes, image_size, share):
    """Reads images of a pool, and checks the labels."""
    images, labels, image_id = pool.reader.read(image_id)
    _check_labels(name, labels, split, classes)
    if image_size is not None and images.shape[1:3] != (image_size, image_size):
        images = np.stack([fitted(image, image_size, share) for image in images])
    return Split(images, labels.astype(np.int32), image_id)


def _check_labels(name, labels, split, classes):
    foreign = labels[(labels < 0) | (labels >= classes)]
    if len(foreign):
        raise ValueError(
            f"{name}: {len(foreign)} labels of the {split} split lie outside 0..{classes - 1} (the first is "
            f"{foreign[0]}): every image needs the number of its class"
        )


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


def _normalisation(images, mean, std, seed):
    """(mean, std): the given ones, else those of the images."""
    if mean is None and std is None:
        if not isinstance(images, np.ndarray):
            drawn = np.random.default_rng([seed, 5]).permutation(len(images))[:_MOMENT_IMAGES]
            images = images[np.sort(drawn)]
        return _moments(images)
    channels = images.shape[-1]
    for option, values, least in (("mean", mean, 0), ("std", std, np.nextafter(0, 1))):
        whole = isinstance(values, (tuple, list)) and len(values) == channels
        if not whole or not all(isinstance(value, (int, float)) and least <= value <= 1 for value in values):
            raise ValueError(
                f"data.{option} is {values!r}: give both mean and std, {channels} numbers each, one a channel, of pixels in "
                "[0, 1], std above 0"
            )
    return tuple(mean), tuple(std)


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
