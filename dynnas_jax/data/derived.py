"""Datasets that are made of a prepared TFDS dataset: some of its classes, or labels of another kind."""

import difflib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dynnas_jax.data.readers import Pool, Reader, Source

# What TFDS needs first: files it cannot download by itself.
FIRST = {"imagenet2012": "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {root}/downloads/manual"}
PERSON_AREA = 0.005  # of the image


class Derived(NamedTuple):
    """How a dataset is read off another."""

    source: str  # TFDS name
    keys: tuple  # the features with the image and with the label; None for the label: `label` makes it of the whole record
    splits: tuple  # train and test, in TFDS's terms
    class_list: Path | None = None  # the classes of the source that are kept
    label: Callable | None = None  # record -> class
    rule: str = ""  # of `label`, in words: labels of another rule are made anew
    classes: tuple = ()  # where `label` makes them
    image_number: str | None = None  # the feature by which `test_list` names images


def holds_person(record):
    """1 where some person fills more than 0.5 % of the image, else 0 (Chowdhery et al. 2019, arXiv 1906.05721).

    By the area of the annotation, groups of people included, as the authors' code has it. TFDS keeps whole pixels of the area.
    """
    objects = record["objects"]
    with Image.open(io.BytesIO(record["image"])) as file:
        pixels = file.width * file.height
    persons = np.asarray(objects["label"]) == 0
    return int((np.asarray(objects["area"])[persons] > PERSON_AREA * pixels).any())


_IMAGENET = Derived("imagenet2012", ("image", "label"), ("train", "validation"))
DERIVED = {
    "imagenet2012": _IMAGENET,  # its split "test" has no labels
    "imagenet100": _IMAGENET._replace(class_list=Path(__file__).with_name("imagenet100.txt")),
    "visual_wake_words": Derived(
        "coco/2014",
        ("image", None),
        ("train", "validation"),
        label=holds_person,
        rule=f"annotated area of a person above {PERSON_AREA}",
        classes=("no_person", "person"),
        image_number="image/id",
    ),
}


class _Selected:
    """A reader of some classes, numbered anew."""

    def __init__(self, reader: Reader, number: np.ndarray):
        self._reader, self._number = reader, number
        self.shape, self.in_memory, self.one = reader.shape, reader.in_memory, reader.one

    def read(self, image_id):
        images, labels, image_id = self._reader.read(image_id)
        return images, self._renumbered(labels), image_id

    def labels(self, image_id):
        return self._renumbered(self._reader.labels(image_id))

    def _renumbered(self, labels):
        return np.where(labels < 0, -1, self._number[labels])  # TFDS has -1 for an image without a label


def select(source: Source, path: Path) -> Source:
    """The images of the classes that a text file names, in its order; a line that begins with # is a comment.

    Raises:
      ValueError: no such file, fewer than two classes, one that is named twice or that the source does not have.
    """
    names = listed(path)
    for name in names:
        if name not in source.classes:
            near = difflib.get_close_matches(name, source.classes, n=1, cutoff=0.0)
            raise ValueError(f"{path}: class {name!r} is none of the dataset's; did you mean {near[0]!r}?")
    if len(names) < 2 or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        raise ValueError(f"{path} names {'class ' + repr(twice) + ' twice' if twice else 'fewer than two classes'}")
    number = np.full(len(source.classes), -1)
    number[[source.classes.index(name) for name in names]] = np.arange(len(names))
    pools = []
    for pool in (source.train, source.test):
        reader = _Selected(pool.reader, number)
        pools.append(Pool(pool.image_id[reader.labels(pool.image_id) >= 0], reader))
    return Source(*pools, names)


def listed(path: Path) -> tuple[str, ...]:
    """The lines of a text file, without empty ones, comments (#) and headings ([NAME]). Raises ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"no file {path.resolve()}: give a text file with one entry a line")
    lines = (line.strip() for line in path.read_text().splitlines())
    return tuple(line for line in lines if line and not line.startswith(("#", "[")))
