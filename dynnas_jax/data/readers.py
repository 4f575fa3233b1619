"""Where images come from: each reader opens a source and leaves the reading of the images to a later call."""

import sys
import zipfile
import zlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from dynnas_jax.data.splits import stratified

_PROGRESS_FROM = 4_000  # images, about half a second of decoding
_NAMED = 10  # skipped images a line names


class Undecodable(Exception):
    """An image that cannot be decoded; the text names it and says why."""


class Reader(Protocol):
    """Reads images of one split by their index in the source."""

    shape: tuple  # h, w, c of every image
    in_memory: bool  # or in files, one by one

    def read(self, image_id: np.ndarray):
        """(uint8[j, h, w, c], integer labels[j], image_id[j]) of image_id[k]; j < k where some did not decode."""

    def labels(self, image_id: np.ndarray) -> np.ndarray:
        """Integer labels[k], without decoding an image."""

    def one(self, index: int, cut=None) -> np.ndarray:
        """uint8[h, w, c], or of `cut(height, width)`, a box (top, left, rows, columns). Raises Undecodable."""


class Pool(NamedTuple):
    """A split of a source before its images are read."""

    image_id: np.ndarray  # int64[n]
    reader: Reader


class Source(NamedTuple):
    """The two splits every source has, and the names of its classes."""

    train: Pool
    test: Pool
    classes: tuple


class _Arrays:
    """Images that are in memory."""

    in_memory = True

    def __init__(self, images, labels):
        self._images, self._labels, self.shape = images, labels, images.shape[1:]

    def read(self, image_id):
        return self._images[image_id], self._labels[image_id], image_id

    def labels(self, image_id):
        return self._labels[image_id]


def read_all(title: str, image_id: np.ndarray, outcomes: Iterable, shape: tuple, skip_share: float):
    """(uint8[j, *shape], image_id[j]) of `outcomes`, one for each of image_id[k]: its pixels, or Undecodable.

    Images that do not decode are left out, named and counted.

    Raises:
      ValueError: where they are a larger share than `skip_share`.
    """
    images = np.empty((len(image_id), *shape), np.uint8)
    kept, bad = [], []
    quiet = len(image_id) < _PROGRESS_FROM
    numbers = tqdm(image_id.tolist(), desc=f"decode {title}", unit="image", mininterval=1, disable=quiet or None)
    for index, outcome in zip(numbers, outcomes, strict=True):
        if isinstance(outcome, Undecodable):
            bad.append(str(outcome))
            continue
        images[len(kept)] = outcome
        kept.append(index)
    if len(bad) > skip_share * len(image_id):
        raise ValueError(too_many(title, len(bad), len(image_id), skip_share, bad[0]))
    if bad:
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        skipped = ", ".join(bad[:_NAMED]) + more
        print(f"dynnas: skipped {len(bad)} of {len(image_id)} images that do not decode: {skipped}", file=sys.stderr)
    return images[: len(kept)], np.array(kept, np.int64)


def too_many(title: str, bad: int, count: int, skip_share: float, first: str) -> str:
    """What is said where too many images do not decode."""
    return f"{bad} of {count} images of {title} do not decode, more than skip_share={skip_share:g} allows; the first is {first}"


def reason(error: Exception) -> str:
    """One line of what Pillow says of a damaged file."""
    return " ".join(str(error).split()) or type(error).__name__


def digits():
    """scikit-learn's 1,797 digits, 8x8x1, values 0..16 scaled to 0..255; a fixed fifth of each class is the test split.

    `image_id` is the index in `sklearn.datasets.load_digits`.
    """
    from sklearn import datasets  # here, since it takes a second that other datasets need not pay

    bunch = datasets.load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    test = stratified(bunch.target, round(0.2 * len(images)), np.random.default_rng(0))
    reader = _Arrays(images, bunch.target)
    return Source(
        *(Pool(np.flatnonzero(mask), reader) for mask in (~test, test)), tuple(str(name) for name in bunch.target_names)
    )


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
    shapes = [pool.reader.shape for pool in (train, test)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{path}: train images are {shapes[0]}, test images {shapes[1]} (h, w, c): make them equal")
    count = int(arrays["train_labels"].max()) + 1
    classes = tuple(str(name) for name in arrays.get("classes", np.arange(count)).reshape(-1))
    if len(classes) < 2:
        raise ValueError(f"{path} has {len(classes)} class: a classifier needs labels of at least two, counted from 0")
    seen = set(arrays["train_labels"].tolist())
    if absent := [name for number, name in enumerate(classes) if number not in seen]:
        raise ValueError(
            f"{path}: class {absent[0]!r} has no training images (of {len(absent)} such): leave it out, or add some"
        )
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
    return Pool(np.arange(len(images)), _Arrays(images, labels))
