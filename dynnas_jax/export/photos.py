"""Photos from files, cut and resized as the training images were: numpy and Pillow.

A copy of this module lies in every export folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_MODES = {1: "L", 3: "RGB"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def read(path: str | Path, channels: int) -> np.ndarray:
    """A file's pixels, uint8[height, width, channels], the right way up; transparency is dropped.

    Raises: ValueError if there is no such image, it does not decode, or a number of channels that no image file has.
    """
    from PIL import Image, ImageOps

    if channels not in _MODES:
        raise ValueError(f"the nets read images of {channels} channels: give an array, image files have 1 or 3")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # sizes are checked before memory is taken
        try:
            with Image.open(path) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise ValueError(f"{path} has pixels of mode {opened.mode}: store images of 8 bits a channel")
                image = ImageOps.exif_transpose(opened)
                # By way of RGBA, since a palette may have transparent entries.
                image = image.convert("RGBA") if image.mode in ("P", "PA") else image
                pixels = np.asarray(image.convert(_MODES[channels]))
        except (OSError, SyntaxError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"cannot read the image {path}: {reason}") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def fit(pixels: np.ndarray, shape: Sequence[int], central_share: float = 1.0) -> np.ndarray:
    """The central part of an image, resized (bilinear, antialiased) to what the nets read.

    Args:
      pixels: uint8[height, width, channels].
      shape: height, width, channels of the nets' images.
      central_share: of the side of the largest central rectangle of their proportions, that is kept.

    Returns: uint8 of `shape`.
    Raises: ValueError for another type or number of channels.
    """
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != shape[-1]:
        raise ValueError(
            f"the picture is {pixels.dtype}{list(pixels.shape)}, the nets read uint8 of {shape[-1]} channels: convert it first"
        )
    height, width = pixels.shape[:2]
    rows = max(1, round(central_share * min(height, width * shape[0] / shape[1])))
    columns = max(1, round(central_share * min(width, height * shape[1] / shape[0])))
    top, left = (height - rows) // 2, (width - columns) // 2
    cut = np.ascontiguousarray(pixels[top : top + rows, left : left + columns])
    plane = Image.fromarray(cut if cut.shape[-1] == 3 else cut[..., 0])
    resized = plane.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(tuple(shape))


def fitted(path: str | Path, shape: Sequence[int], central_share: float = 1.0) -> tuple[np.ndarray, str]:
    """(a file's pixels, uint8 of `shape`; what was done to them, "" where they have that size)."""
    pixels = read(path, shape[-1])
    if pixels.shape == tuple(shape):
        return pixels, ""
    (height, width, _), (rows, columns, _) = pixels.shape, shape
    return fit(pixels, shape, central_share), f"the middle of {width}x{height} resized to {columns}x{rows}"
