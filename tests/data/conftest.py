"""Small TFDS datasets with the features of the real ones, written as ArrayRecord without TensorFlow."""

import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_tfds(tmp_path):
    """write_tfds(name, features, splits, config=None, version="1.0.0", supervised=...) -> the TFDS directory.

    `splits` maps names to lists of examples; images are uint8[h, w, 3], or bytes as they are.
    """
    tfds = pytest.importorskip("tensorflow_datasets")

    def write(name, features, splits, *, config=None, version="1.0.0", supervised=("image", "label"), form="PNG"):
        class Own(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(version)
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                content = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(
                    builder=self, features=content, supervised_keys=supervised, disable_shuffling=True
                )

            def _split_generators(self, manager):
                return {split: self._generate_examples(examples) for split, examples in splits.items()}

            def _generate_examples(self, examples):
                for index, example in enumerate(examples):
                    yield index, {**example, "image": io.BytesIO(_encoded(example["image"], form))}

        Own.name = name
        Own(data_dir=tmp_path, file_format="array_record").download_and_prepare()
        return tmp_path

    return write


def _encoded(image, form):
    if isinstance(image, bytes):
        return image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def striped():
    """striped(index, label): an image of its own size and colours, told apart by its first pixel."""

    def make(index, label):
        image = np.zeros((8 + index % 5, 10 + index % 3, 3), np.uint8)
        image[..., label % 3] = 20 + 5 * index
        image[::2, :, 2] += 9
        return image

    return make
