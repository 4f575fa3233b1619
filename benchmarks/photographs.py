"""JPEGs like those of ImageNet, made up; and how long one takes to decode."""

import io
import time

import numpy as np
from PIL import Image

from dynnas_jax.data import streams
from dynnas_jax.data.splits import fitted

JPEG_SHAPE, JPEG_QUALITY = (387, 469), 90  # about ImageNet's mean size in pixels, and 110 kB


def jpeg(generator: np.random.Generator) -> bytes:
    """A file of ImageNet's mean size, as hard to decode as a photograph: blurred patches and noise."""
    coarse = Image.fromarray(generator.integers(0, 256, (48, 58, 3), np.uint8))
    noise = generator.normal(0, 9, (*JPEG_SHAPE, 3))
    picture = np.asarray(coarse.resize(JPEG_SHAPE[::-1], Image.Resampling.BICUBIC)) + noise
    file = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def decode_s(pixels: int, images: int = 40) -> float:
    """Processor seconds to decode one JPEG of ImageNet's mean size and resize a random crop, on one core of this machine."""
    generator = np.random.default_rng(0)
    file = jpeg(generator)
    _, cut = streams.rule(crop_scale=(0.08, 1.0))
    start = time.process_time()
    for _ in range(images):
        image = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        fitted(image, pixels, 1.0, lambda height, width: cut(generator, height, width))
    return (time.process_time() - start) / images
