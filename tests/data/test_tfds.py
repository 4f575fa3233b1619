import concurrent.futures
import io
import operator
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from dynnas_jax.data import sources
from dynnas_jax.data import tfds as tfds_reader


@pytest.fixture
def tfds_root(shared):
    root = shared / "tensorflow_datasets"
    if not root.is_dir():
        pytest.skip(f"no {root}: the real images are absent")
    return root


@pytest.mark.parametrize(
    ("name", "test", "classes"), [("cifar10", "test", 10), ("imagenet100_at32", "validation", 100)]
)
def test_real_images_equal_tfds(tfds_root, name, test, classes):
    """Against TFDS's own decoding, on images drawn from all over the set."""
    import tensorflow_datasets as tfds

    data = sources.load(name, data_dir=tfds_root, train_limit=300, test_limit=100, holdout=0.2)
    assert [len(split) for split in (data.train, data.holdout, data.test)] == [240, 60, 100]
    assert len(data.classes) == classes
    assert data.train.image_id.max() > 40_000
    builder = tfds.builder_from_directory(next((tfds_root / name).iterdir()))
    assert data.classes == tuple(builder.info.features["label"].names)
    for split, source in ((data.train, "train"), (data.holdout, "train"), (data.test, test)):
        records = builder.as_data_source(split=source).__getitems__(split.image_id.tolist())
        np.testing.assert_array_equal(split.images, np.stack([record["image"] for record in records]))
        assert split.labels.tolist() == [record["label"] for record in records]


def test_real_images_resize(tfds_root):
    small = sources.load("cifar10", data_dir=tfds_root, train_limit=20, test_limit=5, image_size=16)
    full = sources.load("cifar10", data_dir=tfds_root, train_limit=20, test_limit=5)
    assert small.train.images.shape[1:] == (16, 16, 3)
    expected = Image.fromarray(full.test.images[0]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small.test.images[0], np.asarray(expected))


def test_no_tensorflow_and_the_environment_names_the_folder(tfds_root):
    code = (
        "import sys\nfrom dynnas_jax.data import sources\n"
        "data = sources.load('cifar10', train_limit=20, test_limit=5)\n"
        "print(len(data.test), 'tensorflow' in sys.modules, 'jax' in sys.modules)"
    )
    environment = os.environ | {"TFDS_DATA_DIR": str(tfds_root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "5 False False"


def test_missing_dataset(tmp_path):
    with pytest.raises(ValueError, match="needs network") as caught:
        sources.load("cifar100", data_dir=tmp_path)
    message = str(caught.value)
    assert f"not prepared in {tmp_path}" in message
    assert f"t.builder('cifar100', data_dir='{tmp_path}', file_format='array_record')" in message
    assert "TFDS_DATA_DIR" in message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "near"), [("cifar", "cifar10"), ("digit", "digits"), ("CIFAR-10", "cifar10")])
def test_unknown_dataset_names_the_nearest(tmp_path, name, near):
    with pytest.raises(ValueError, match=f"^unknown dataset '{name}' .* did you mean '{near}'"):
        sources.load(name, data_dir=tmp_path)


@pytest.fixture
def prepare(tmp_path):
    """Writes a small dataset of images of 8 sizes in the TFDS layout, without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")

    def write(version="1.2.0", splits=("train", "validation"), label=None):
        label = label or tfds.features.ClassLabel(names=["dark", "light"])
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3)), "label": label})

        class Own(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(version)

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

            def _split_generators(self, manager):
                return {split: self._generate_examples() for split in splits}

            def _generate_examples(self):
                for index in range(8):
                    image = np.zeros((8 + index, 16, 3), np.uint8)
                    image[:, :, index % 2] = 20 + 20 * index
                    image[-1, :, 2] = 255
                    encoded = io.BytesIO()
                    Image.fromarray(image).save(encoded, "PNG")
                    yield index, {"image": io.BytesIO(encoded.getvalue()), "label": index % 2}

        Own(data_dir=tmp_path, file_format="array_record").download_and_prepare()
        return tmp_path

    return write


def test_images_of_many_sizes(prepare):
    root = prepare()
    with pytest.raises(ValueError, match="images of own are not of one size: give image_size"):
        sources.load("own", data_dir=root)
    data = sources.load("own", data_dir=root, image_size=4, holdout=2)
    assert data.classes == ("dark", "light")
    assert [split.images.shape for split in (data.train, data.holdout, data.test)] == [
        (6, 4, 4, 3), (2, 4, 4, 3), (8, 4, 4, 3)
    ]  # fmt: skip
    assert sorted(data.holdout.labels.tolist()) == [0, 1]
    colours = {tuple(image[0, 0].tolist()) for image in data.test.images}
    assert colours == {(20 + 20 * i, 0, 0) if i % 2 == 0 else (0, 20 + 20 * i, 0) for i in range(8)}
    np.testing.assert_array_equal(data.test.labels, data.test.images[:, 0, 0, 1] > 0)


def test_newest_version_unless_asked(prepare):
    for version in ("1.2.0", "1.10.0"):
        root = prepare(version=version)
    assert tfds_reader.prepared("own", root).name == "1.10.0"
    assert tfds_reader.prepared("own:1.2.0", root).name == "1.2.0"
    with pytest.raises(ValueError, match=r"these are: own:1\.10\.0, own:1\.2\.0"):
        sources.load("own:3.0.0", data_dir=root)


def test_datasets_that_cannot_be_used(prepare):
    import tensorflow_datasets as tfds

    root = prepare(version="1.0.0", label=tfds.features.Scalar(np.int64))
    with pytest.raises(ValueError, match="own is no image classification dataset"):
        sources.load("own", data_dir=root, image_size=4)
    root = prepare(version="2.0.0", splits=("train",))
    with pytest.raises(ValueError, match="has no split 'validation', only train"):
        sources.load("own", data_dir=root, image_size=4)
    root = prepare(version="3.0.0")
    info = root / "own" / "3.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="stored as tfrecord, which cannot be read by index") as caught:
        sources.load("own", data_dir=root, image_size=4)
    assert "\n" not in str(caught.value)


def test_the_labels_of_a_large_split_are_read_once_on_a_host(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(tfds_reader, "_KEPT_FROM", 8)

    class Records:
        def __len__(self):
            return 8

        def __getitems__(self, rows):
            read.extend(rows)
            time.sleep(0.1)
            return [{"label": 10 * row} for row in rows]

    options = {"image_key": "image", "label": operator.itemgetter("label"), "cache": tmp_path / "labels" / "kept"}
    options |= {"shape": (4, 4, 1), "image_size": None, "central_share": 1.0, "skip_share": 0.0}
    readers = [tfds_reader._Reader("own train", Records(), **options) for _ in range(3)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for labels in pool.map(lambda reader: reader.labels(np.arange(8)), readers):
            assert labels.tolist() == list(range(0, 80, 10))
    assert read == list(range(8))
