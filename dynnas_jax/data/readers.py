"""Where images come from: each reader opens a source and leaves the reading of the images to a later call."""

import difflib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dynnas_jax.data.splits import fit, stratified

_BLOCK = 256  # records read at a time
PROGRESS_FROM = 4_000  # images, about half a second of decoding
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name for so many channels


class Pool(NamedTuple):
    """A split of a source before its images are read."""

    image_id: np.ndarray  # int64[n]
    read: Callable  # image_id[k] -> (uint8[j, h, w, c], integer labels[j], image_id[j]), j < k where some were skipped


class Source(NamedTuple):
    """The two splits every source has, and the names of its classes."""

    train: Pool
    test: Pool
    classes: tuple


def digits():
    """scikit-learn's 1,797 digits, 8x8x1, values 0..16 scaled to 0..255; a fixed fifth of each class is the test split.

    `image_id` is the index in `sklearn.datasets.load_digits`.
    """
    from sklearn import datasets  # here, since it takes a second that other datasets need not pay

    bunch = datasets.load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    test = stratified(bunch.target, round(0.2 * len(images)), np.random.default_rng(0))
    train_pool, test_pool = (
        Pool(np.flatnonzero(mask), lambda image_id: (images[image_id], bunch.target[image_id], image_id))
        for mask in (~test, test)
    )
    return Source(train_pool, test_pool, tuple(str(name) for name in bunch.target_names))


def npz(path):
    """A user's own file: train_images, train_labels, test_images, test_labels, optionally classes (see `sources.load`).

    Raises:
      ValueError: no such file, not an npz file, a missing or malformed array.
    """
    if not path.is_file():
        raise ValueError(
            f"no file {path.resolve()}: give the path of an .npz file with train_images, train_labels, "
            "test_images and test_labels"
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .npz file: write it with numpy.savez or numpy.savez_compressed")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}): write it with numpy.savez, no object arrays") from error
    missing = {f"{split}_{part}" for split in ("train", "test") for part in ("images", "labels")} - set(arrays)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(arrays)) or 'nothing'}")
    train, test = (_npz_pool(path, arrays, split) for split in ("train", "test"))
    shapes = [pool.read(pool.image_id[:1])[0].shape[1:] for pool in (train, test)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{path}: train images are {shapes[0]}, test images {shapes[1]} (h, w, c): make them equal")
    count = int(arrays["train_labels"].max()) + 1
    classes = tuple(str(name) for name in arrays.get("classes", np.arange(count)).reshape(-1))
    if len(classes) < 2:
        raise ValueError(f"{path} has {len(classes)} class: a classifier needs labels of at least two, counted from 0")
    return Source(train, test, classes)


def _npz_pool(path, arrays, split):
    """One split of an npz file, its dtypes, ranks and lengths checked."""
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: {split}_images are {images.dtype}: store uint8 pixels of 0 to 255")
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(f"{path}: {split}_images have shape {images.shape}: store [n, h, w, c] or [n, h, w], none 0")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: {split}_labels are {labels.dtype}{list(labels.shape)}: store integers [n]")
    if len(labels) != len(images):
        raise ValueError(f"{path}: {len(images)} {split}_images but {len(labels)} {split}_labels: store one for each")
    images = images if images.ndim == 4 else images[..., None]
    return Pool(np.arange(len(images)), lambda image_id: (images[image_id], labels[image_id], image_id))


def tfds(name, data_dir, image_size):
    """A prepared TFDS image classification dataset, read by index without TensorFlow.

    Args:
      name, data_dir, image_size: as in `sources.load`; image_size is needed here where images are not of one size.

    Raises:
      ValueError: an unknown or missing dataset, one that is not image classification, one that cannot be indexed.
    """
    import tensorflow_datasets  # here, since it takes a second that other datasets need not pay

    root = tfds_root(data_dir)
    folder = prepared(name, root)
    if folder is None:
        raise ValueError(_advice(name, root, tensorflow_datasets.list_builders(with_community_datasets=False)))
    builder = tensorflow_datasets.builder_from_directory(folder)
    features = dict(builder.info.features.items())
    image_key, label_key = _keys(name, builder.info, tensorflow_datasets.features)
    splits = ["train", "test" if "test" in builder.info.splits else "validation"]
    for split in splits:
        if split not in builder.info.splits:
            raise ValueError(f"{name} in {folder} has no split {split!r}, only {', '.join(builder.info.splits)}")
    if "array_record" not in str(builder.info.file_format.value):
        raise ValueError(
            f"{name} in {folder} is stored as {builder.info.file_format.value}, which cannot be read by "
            f"index; prepare it again elsewhere: {_recipe(name, 'ANOTHER_DIR')}"
        )
    height, width, channels = features[image_key].shape
    if image_size is None and None in (height, width):
        raise ValueError(f"images of {name} are not of one size: give image_size, the side in pixels to resize them to")
    shape = (image_size or height, image_size or width, channels)
    decoders = {image_key: tensorflow_datasets.decode.SkipDecoding()}
    pools = []
    for split in splits:
        records = builder.as_data_source(split=split, decoders=decoders)
        reader = _TfdsReader(f"{name} {split}", records, image_key, label_key, shape, image_size)
        pools.append(Pool(np.arange(len(records)), reader))
    return Source(*pools, tuple(features[label_key].names))


class _TfdsReader(NamedTuple):
    """Reads and decodes records; one thread, since a pool of them was measured slower (they share Python's lock)."""

    title: str
    records: object  # indexable, images still encoded
    image_key: str
    label_key: str
    shape: tuple
    image_size: object  # int, or None: as stored

    def __call__(self, image_id):
        images = np.empty((len(image_id), *self.shape), np.uint8)
        labels = np.empty(len(image_id), np.int64)
        quiet = len(image_id) < PROGRESS_FROM
        with tqdm(
            total=len(image_id), desc=f"decode {self.title}", unit="image", mininterval=1, disable=quiet
        ) as progress:
            for start in range(0, len(image_id), _BLOCK):
                block = image_id[start : start + _BLOCK].tolist()
                for place, record in enumerate(self.records.__getitems__(block), start):
                    images[place] = self._decode(record[self.image_key])
                    labels[place] = record[self.label_key]
                progress.update(len(block))
        return images, labels, image_id

    def _decode(self, encoded):
        with Image.open(io.BytesIO(encoded)) as file:
            image = np.asarray(file.convert(_MODES[self.shape[-1]])).reshape(file.height, file.width, -1)
        return image if self.image_size is None else fit(image, self.image_size)


def _keys(name, info, kinds):
    """Names of the image and the label among the features, as the dataset's own supervised pair has them."""
    features = dict(info.features.items())
    keys = info.supervised_keys or ("image", "label")
    kind = [features.get(key) if isinstance(key, str) else None for key in keys]
    if len(kind) != 2 or not isinstance(kind[0], kinds.Image) or not isinstance(kind[1], kinds.ClassLabel):
        raise ValueError(
            f"{name} is no image classification dataset: it must supervise an Image with a ClassLabel, "
            f"and has {keys} of {', '.join(features)}"
        )
    if kind[0].shape[-1] not in _MODES or np.dtype(kind[0].np_dtype) != np.uint8:
        raise ValueError(
            f"images of {name} are {np.dtype(kind[0].np_dtype)} of {kind[0].shape[-1]} channels: "
            "only uint8 of 1, 3 or 4 can be read"
        )
    return keys


def tfds_root(data_dir):
    """The TFDS directory: `data_dir`, else the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().resolve()


def prepared(name, root):
    """The folder of the newest (or the asked) version of a prepared dataset, or None."""
    base, _, version = name.partition(":")
    found = {}
    for info in (root / base).glob("*/dataset_info.json"):
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name) and version in ("", info.parent.name):
            found[tuple(int(number) for number in info.parent.name.split("."))] = info.parent
    return found[max(found)] if found else None


def _advice(name, root, known):
    """One line for a dataset that is not there: what is, where it was looked for, how to get it."""
    base = name.partition(":")[0]
    below = sorted({str(info.parent.relative_to(root)) for info in (root / base).glob("**/dataset_info.json")})
    if below:
        names = ", ".join(":".join(path.rsplit("/", 1)) for path in below)
        return f"dataset {name!r} is not in {root}, but these are: {names}; give one of them"
    if base.partition("/")[0] in known:
        return (
            f"dataset {name!r} is not prepared in {root}: prepare it with {_recipe(name, root)} (needs network), "
            "or point TFDS_DATA_DIR or data_dir to the directory that holds it"
        )
    prepared = {info.relative_to(root).parts[0] for info in root.glob("*/**/dataset_info.json")}
    plain = {re.sub(r"[\W_]", "", known_name.lower()): known_name for known_name in {"digits", *known, *prepared}}
    near = plain[difflib.get_close_matches(re.sub(r"[\W_]", "", base.lower()), sorted(plain), n=1, cutoff=0)[0]]
    return f"unknown dataset {name!r} (looked in {root}): did you mean {near!r}? Or give the path of an .npz file or a folder"


def _recipe(name, root):
    return (
        f"`python -c \"import tensorflow_datasets as t; t.builder('{name}', data_dir='{root}', "
        "file_format='array_record').download_and_prepare()\"`"
    )
