"""Splits of a dataset, and how one is taken from another."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from PIL import Image

DIGITS = 16  # of a fingerprint
AT_ONCE = 16_384  # images on the device at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images that are used for one purpose, with their labels."""

    images: Any  # uint8[n, h, w, c], an array or a `streams.Streamed`
    labels: np.ndarray  # int32[n]
    image_id: np.ndarray  # int64[n], index in the split of the source the image comes from

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        """The split at a slice or an index array (integer or boolean), in memory."""
        if isinstance(self.images, np.ndarray):
            return Split(self.images[index], self.labels[index], self.image_id[index])
        images, places = self.images.read(np.arange(len(self))[index])
        return Split(images, self.labels[places], self.image_id[places])


def stratified(labels, count, generator):
    """Draws `count` of the images of labels[n], each class in proportion to its size.

    Where possible at least one image of each class is drawn and one is left.

    Returns:
      bool[n], exactly `count` of them True.
    """
    classes, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    most = sizes - 1 if count <= (sizes - 1).sum() else sizes
    least = np.minimum(most, 1) if count >= np.minimum(most, 1).sum() else np.zeros_like(sizes)
    target = sizes * count / len(labels)
    take = np.clip(np.floor(target).astype(np.int64), least, most)
    while take.sum() != count:  # by largest remainder, at most once or twice a class
        step = 1 if take.sum() < count else -1
        room = take < most if step > 0 else take > least
        take[np.argmax(np.where(room, step * (target - take), -np.inf))] += step
    mask = np.zeros(len(labels), bool)
    for index in range(len(classes)):
        mask[generator.permutation(np.flatnonzero(inverse == index))[: take[index]]] = True
    return mask


def fit(image, size, box=None):
    """A box (top, left, rows, columns) of an image uint8[h, w, c], by default its central square, resized to [size, size, c]."""
    top, left, rows, columns = box or central(*image.shape[:2])
    cut = np.ascontiguousarray(image[top : top + rows, left : left + columns])
    # Colours at once; other numbers of channels one by one, since Pillow knows no such images or weighs them by their alpha.
    planes = [cut] if cut.shape[-1] == 3 else list(np.moveaxis(cut, -1, 0))
    planes = [Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR) for plane in planes]
    return np.concatenate([np.asarray(plane).reshape(size, size, -1) for plane in planes], axis=-1)


def fitted(image, size, share, cut=None):
    """An image uint8[h, w, c] as it is where size is None, else the box of `cut(height, width)`, or the central one, resized."""
    if size is None:
        return image
    return fit(image, size, cut(*image.shape[:2]) if cut else central(*image.shape[:2], share))


def central(height, width, share=1.0):
    """(top, left, rows, columns): the central square, or such a share of its side."""
    side = max(1, round(share * min(height, width)))
    return (height - side) // 2, (width - side) // 2, side, side


def parts(split, most):
    """The split in parts of at most so many images, since not every split fits an accelerator beside its copies."""
    return (split[start : start + most] for start in range(0, len(split), most))


def fingerprint(split):
    """A short hash of the images of a split in memory, and of their labels, in order."""
    hashed = hashlib.sha256(repr((split.images.shape, split.labels.tolist())).encode())
    for part in parts(split, AT_ONCE):
        hashed.update(np.ascontiguousarray(part.images))
    return hashed.hexdigest()[:DIGITS]


def in_batches(split, batch):
    """A split as whole batches for `jax.lax.map`, the last filled up with black images.

    Returns:
      (images uint8[k, batch, h, w, c], labels int32[k * batch]); labels of the filling are -1.
    """
    missing = -len(split) % batch
    images = np.pad(split.images, ((0, missing), (0, 0), (0, 0), (0, 0)))
    labels = np.pad(split.labels.astype(np.int32), (0, missing), constant_values=-1)
    return images.reshape(-1, batch, *images.shape[1:]), labels
