"""A folder of image files, one folder a class."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dynnas_jax.data.readers import Pool, Source, Undecodable, read_all, reason
from dynnas_jax.data.splits import fitted, stratified

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_TEST_NAMES = ("test", "validation", "val")
_TEST_SHARE = 0.2
_CHANNELS = {"L": 1, "RGB": 3}


def folder(root, image_size, *, central_share=1.0, skip_share=0.01):
    """The images below `root`: `train/CLASS/*` and `test/CLASS/*`, or `CLASS/*`, of which a fixed fifth is the test split.

    For `test` there may be `validation` or `val`; the first of them counts. The fifth is drawn of each class and depends on
    nothing but the files. Hidden files, and those without the suffix of an image, are ignored. Transparency is dropped.
    `image_id` is the index in the sorted files of the split (of both splits, where they are drawn).

    Args:
      image_size, central_share, skip_share: as in `sources.load`; image_size is needed where images are not of one size.

    Raises:
      ValueError: no such folder, fewer than two classes, a class without images, one that the train split lacks; on reading,
        images of different size or channels, and more that do not decode than `skip_share`.
    """
    if not root.is_dir():
        raise ValueError(f"no folder {root.resolve()}: give one with a folder of images for each class")
    train, title = root / "train", root.resolve().name
    if not (train.is_dir() and _folders(train)):  # a `train` with images right in it is a class
        classes = _classes(root)
        paths, labels = _files(root, classes)
        like = _first(root, paths)
        test = stratified(labels, round(_TEST_SHARE * len(labels)), np.random.default_rng(0))
        reader = _Reader(title, paths, labels, like, image_size, central_share, skip_share)
        return Source(*(Pool(np.flatnonzero(mask), reader) for mask in (~test, test)), classes)
    held = next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)
    if held is None:
        raise ValueError(f"{root} has train but no test, validation or val: add one, or give {train} as the folder")
    classes = _classes(train)
    if foreign := [path.name for path in _folders(held) if path.name not in classes]:
        raise ValueError(f"{held} has a class {foreign[0]!r} that {train} lacks: they must have the same classes")
    parts = [(part, *_files(part, classes)) for part in (train, held)]
    like = _first(train, parts[0][1])
    pools = [
        Pool(
            np.arange(len(labels)),
            _Reader(f"{title} {part.name}", paths, labels, like, image_size, central_share, skip_share),
        )
        for part, paths, labels in parts
    ]
    return Source(*pools, classes)


def _folders(path):
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(path):
    classes = tuple(entry.name for entry in _folders(path))
    if len(classes) < 2:
        raise ValueError(
            f"{path} has {len(classes)} class folders: a classifier needs at least two, one for each class"
        )
    return classes


def _files(path, classes):
    """(the image files of the classes below `path`, int64 labels of them), by class and name."""
    files, labels = [], []
    for label, name in enumerate(classes):
        entries = sorted((path / name).iterdir()) if (path / name).is_dir() else []
        own = [entry for entry in entries if is_image(entry)]
        if not own:
            raise ValueError(f"class {name!r} has no images in {path / name} (of {' '.join(SUFFIXES)})")
        files += own
        labels += [label] * len(own)
    return files, np.array(labels, np.int64)


def is_image(path):
    """Whether a file is named as an image is, and not hidden."""
    return not path.name.startswith(".") and path.suffix.lower() in SUFFIXES


class _Like(NamedTuple):
    """What all images must have in common with the first."""

    path: Path
    mode: str  # L or RGB
    size: tuple  # width, height


def _first(folder, paths):
    """The first file with a header that Pillow can read."""
    for path in paths:
        try:
            with Image.open(path) as file:
                return _Like(path, _mode(path, file.mode), file.size)
        except OSError:
            continue
    raise ValueError(f"none of the {len(paths)} image files in {folder} can be read; the first is {paths[0]}")


def _mode(path, mode):
    """What the pixels of a file are converted to, L or RGB."""
    if mode.startswith(("I", "F")):
        raise ValueError(f"{path} has pixels of mode {mode}: store images of 8 bits a channel")
    return "L" if mode in ("1", "L", "LA", "La") else "RGB"


class _Reader(NamedTuple):
    """Decodes files; those that cannot be decoded are left out, and named."""

    title: str
    paths: list
    all_labels: np.ndarray
    like: _Like
    image_size: object  # int, or None: as stored
    central_share: float
    skip_share: float

    in_memory = False

    @property
    def shape(self):
        width, height = (self.image_size, self.image_size) if self.image_size else self.like.size
        return height, width, _CHANNELS[self.like.mode]

    def read(self, image_id):
        images, kept = read_all(self.title, image_id, self._decoded(image_id), self.shape, self.skip_share)
        return images, self.all_labels[kept], kept

    def _decoded(self, image_id):
        for index in image_id.tolist():
            try:
                yield self.one(index)
            except Undecodable as error:
                yield error

    def labels(self, image_id):
        return self.all_labels[image_id]

    def one(self, index, cut=None):
        path = self.paths[index]
        try:
            with Image.open(path) as opened:
                file = ImageOps.exif_transpose(opened)  # a decoded copy, the right way up
        except Exception as error:  # Pillow raises what a damaged byte leads it to
            raise Undecodable(f"{path} ({reason(error)})") from error
        return self._pixels(path, file, cut)

    def _pixels(self, path, file, cut):
        """uint8[h, w, c] of a decoded file. Raises ValueError where it is unlike the first."""
        mode = _mode(path, file.mode)
        if mode != self.like.mode:
            of = {self.like.mode: self.like.path, mode: path}
            raise ValueError(f"{self.title} mixes grey and colour images ({of['L']}, {of['RGB']}): convert one kind")
        if self.image_size is None and file.size != self.like.size:
            sizes = [
                f"{where} is {size[0]}x{size[1]}"
                for where, size in ((self.like.path, self.like.size), (path, file.size))
            ]
            raise ValueError(f"images of {self.title} are not of one size ({', '.join(sizes)}): give image_size")
        # By way of RGBA, since a palette may have transparent entries.
        file = file.convert("RGBA").convert("RGB") if file.mode in ("P", "PA") else file.convert(mode)
        image = np.asarray(file).reshape(file.height, file.width, -1)
        return fitted(image, self.image_size, self.central_share, cut)
