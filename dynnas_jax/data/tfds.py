"""TFDS image classification datasets, read by index without TensorFlow."""

import contextlib
import dataclasses
import difflib
import functools
import io
import operator
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dynnas_jax.data import derived
from dynnas_jax.data.readers import Pool, Source, Undecodable, read_all, reason
from dynnas_jax.data.splits import fitted
from dynnas_jax.workdir import cache_folder, digest, file_digest, write_bytes

_BLOCK = 256  # records read at a time
_KEPT_FROM = 50_000  # records, some seconds of reading
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name for so many channels


def tfds(name, data_dir, image_size, *, central_share=1.0, skip_share=0.01, class_list=None, test_list=None):
    """A prepared TFDS image classification dataset, or one of `derived`, read by index without TensorFlow.

    Args:
      as in `sources.load`; image_size is needed here where images are not of one size.

    Raises:
      ValueError: an unknown or missing dataset, one that is not image classification, one that cannot be indexed.
    """
    import tensorflow_datasets  # here, since it takes a second that other datasets need not pay

    root = tfds_root(data_dir)
    folder, made = found(name, root)
    if folder is None:
        raise ValueError(_advice(name, root, tensorflow_datasets.list_builders(with_community_datasets=False)))
    builder = tensorflow_datasets.builder_from_directory(folder)
    features = dict(builder.info.features.items())
    image_key, label_key = _keys(name, builder.info, tensorflow_datasets.features, made)
    splits = _splits(name, builder, made, test_list)
    if "array_record" not in str(builder.info.file_format.value):
        raise ValueError(
            f"{name} in {folder} is stored as {builder.info.file_format.value}, which cannot be read by "
            f"index; prepare it again elsewhere: {_recipe(_source(name), 'ANOTHER_DIR')}"
        )
    height, width, channels = features[image_key].shape
    if image_size is None and None in (height, width):
        raise ValueError(f"images of {name} are not of one size: give image_size, the side in pixels to resize them to")
    options = {"shape": (image_size or height, image_size or width, channels), "image_size": image_size}
    options |= {"central_share": central_share, "skip_share": skip_share, "image_key": image_key}
    options["label"] = made.label if label_key is None else operator.itemgetter(label_key)
    pools = []
    for part, split in zip(("train", "test"), splits, strict=True):
        records = builder.as_data_source(split=split, decoders={image_key: tensorflow_datasets.decode.SkipDecoding()})
        kept = (
            cache_folder()
            / "labels"
            / digest([file_digest(folder / "dataset_info.json"), label_key or made.rule, split])
        )
        pools.append(Pool(np.arange(len(records)), _Reader(f"{name} {part}", records, cache=kept, **options)))
    if test_list is not None:
        listed = _are_listed(test_list, pools[0].reader, operator.itemgetter(made.image_number))
        pools = [
            pool._replace(image_id=np.flatnonzero(mask)) for pool, mask in zip(pools, (~listed, listed), strict=True)
        ]
    classes = made.classes if label_key is None else tuple(features[label_key].names)
    source = Source(*pools, classes)
    class_list = class_list or (made and made.class_list)
    return source if class_list is None else derived.select(source, Path(class_list).expanduser())


def _splits(name, builder, made, test_list):
    """What is read for train and for test, in TFDS's terms. Raises ValueError for what is not there."""
    there = builder.info.splits
    splits = made.splits if made else ("train", "test" if "test" in there else "validation")
    if test_list is not None:
        if not (made and made.image_number):
            raise ValueError(f"data.test_list: images of {name} have no numbers to list; leave it out")
        splits = ("+".join(splits),) * 2
    for split in "+".join(splits).split("+"):
        if split not in there:
            raise ValueError(f"{name} in {builder.data_path} has no split {split!r}, only {', '.join(there)}")
    return splits


def _are_listed(path, reader, number):
    """bool[records]: whether a text file lists the number of an image. Raises ValueError for one that no image has."""
    path = Path(path).expanduser()
    try:
        wanted = np.array([int(line) for line in derived.listed(path)], np.int64)
    except ValueError as error:
        raise ValueError(
            f"data.test_list: {path}: {error}; give a text file with the number of an image a line"
        ) from error
    numbers = reader.of_all(number, "numbers")
    if missing := set(wanted.tolist()) - set(numbers.tolist()):
        raise ValueError(
            f"data.test_list: {path} lists {len(missing)} images that are not there, such as {min(missing)}"
        )
    return np.isin(numbers, wanted)


@dataclasses.dataclass(frozen=True, eq=False)
class _Reader:
    """Decodes records; in one thread, since a pool of them was measured slower on small images (they share Python's lock)."""

    title: str
    records: Any  # indexable, images still encoded
    image_key: str
    label: Callable  # record -> class, below 0 where the image is left out
    cache: Path  # the labels of a large split are kept here
    shape: tuple
    image_size: int | None  # None: as stored
    central_share: float
    skip_share: float
    in_memory = False

    def read(self, image_id):
        labels = {}
        images, kept = read_all(self.title, image_id, self._decoded(image_id, labels), self.shape, self.skip_share)
        return images, np.array([labels[index] for index in kept.tolist()], np.int64), kept

    def _decoded(self, image_id, labels):
        """The pixels of one image after another, or Undecodable; puts their labels into `labels`."""
        for start in range(0, len(image_id), _BLOCK):
            block = image_id[start : start + _BLOCK].tolist()
            for index, record in zip(block, self.records.__getitems__(block), strict=True):
                labels[index] = self.label(record)
                try:
                    yield self._pixels(index, record[self.image_key], None)
                except Undecodable as error:
                    yield error

    def one(self, index, cut=None):
        return self._pixels(index, self.records[index][self.image_key], cut)

    def _pixels(self, index, encoded, cut):
        try:
            with Image.open(io.BytesIO(encoded)) as file:
                image = np.asarray(file.convert(_MODES[self.shape[-1]])).reshape(file.height, file.width, -1)
        except Exception as error:  # Pillow raises what a damaged byte leads it to
            raise Undecodable(f"image {index} ({reason(error)})") from error
        return fitted(image, self.image_size, self.central_share, cut)

    def labels(self, image_id):
        if 2 * len(image_id) < len(self.records) and "_labels" not in vars(self):
            return self._of(self.label, image_id, "labels")  # a few are not worth a look at all
        return self._labels[image_id]

    @functools.cached_property
    def _labels(self):
        return self.of_all(self.label, "labels")

    def of_all(self, function, what):
        """int64[all records]: a function of each; kept in a file where that takes long, since records are read whole.

        Of the processes of a host one does it, the others wait for the file.
        """
        file, count = self.cache.with_suffix(f".{what}.npy"), len(self.records)
        if count < _KEPT_FROM:
            return self._of(function, np.arange(count), what)
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file.with_suffix(".lock")):
            with contextlib.suppress(OSError, ValueError, EOFError):
                kept = np.load(file, allow_pickle=False)
                if kept.shape == (count,):
                    return kept
            found, content = self._of(function, np.arange(count), what), io.BytesIO()
            np.save(content, found)
            write_bytes(file, content.getvalue())
        return found

    def _of(self, function, image_id, what):
        """int64[k]: a function of some records."""
        found = np.empty(len(image_id), np.int64)
        quiet = len(found) < _KEPT_FROM
        with tqdm(
            total=len(found), desc=f"{what} of {self.title}", unit="image", mininterval=1, disable=quiet or None
        ) as bar:
            for start in range(0, len(found), _BLOCK):
                block = image_id[start : start + _BLOCK].tolist()
                found[start : start + len(block)] = [function(record) for record in self.records.__getitems__(block)]
                bar.update(len(block))
        return found


@contextlib.contextmanager
def _alone(path):
    """Within, no other process that sees the file is; where the system or the disk has no locks, nothing holds it up."""
    with path.open("a") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl  # not on Windows

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _keys(name, info, kinds, made):
    """Names of the image and the label among the features: the dataset's own supervised pair, or what it is derived from."""
    features = dict(info.features.items())
    keys = made.keys if made else info.supervised_keys or ("image", "label")
    kind = [features.get(key) if isinstance(key, str) else None for key in keys]
    labelled = len(kind) == 2 and (isinstance(kind[1], kinds.ClassLabel) or (made and keys[1] is None))
    if not labelled or not isinstance(kind[0], kinds.Image):
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


def found(name, root):
    """(the folder of a prepared dataset or None, the `Derived` where it is one).

    A dataset prepared under a derived one's own name goes first.
    """
    folder, made = prepared(name, root), derived.DERIVED.get(name.partition(":")[0])
    if folder is not None or made is None:
        return folder, made if made and made.source == name.partition(":")[0] else None
    return prepared(_source(name), root), made


def _source(name):
    """The TFDS dataset, with the version, that a dataset is derived from, or the dataset itself."""
    base, colon, version = name.partition(":")
    return (derived.DERIVED[base].source if base in derived.DERIVED else base) + colon + version


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
    source = _source(name)
    base, _, version = source.partition(":")
    made = f", made of {base!r}," if base != name.partition(":")[0] else ""
    below = sorted({str(info.parent.relative_to(root)) for info in (root / base).glob("**/dataset_info.json")})
    if below and made:
        versions = ", ".join(path.rpartition("/")[2] for path in below)
        return f"dataset {name!r}{made} is not in {root} in version {version}, only {versions}; give one of them"
    if below:
        names = ", ".join(":".join(path.rsplit("/", 1)) for path in below)
        return f"dataset {name!r} is not in {root}, but these are: {names}; give one of them"
    if base.partition("/")[0] in known:
        first = derived.FIRST.get(base.partition("/")[0], "").format(root=root)
        first = f"{first}, then " if first else ""
        return (
            f"dataset {name!r}{made} is not prepared in {root}: {first}prepare it with {_recipe(source, root)} (needs "
            "network), or point TFDS_DATA_DIR or data_dir to the directory that holds it"
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
