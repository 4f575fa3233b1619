"""Streamed images against the same images in memory, and against Pillow."""

import numpy as np
import pytest
from PIL import Image

from dynnas_jax.data import sources, streams


@pytest.fixture
def photos(tmp_path):
    """A folder of 24 colour images of two classes, each of its own size and colour."""
    for index in range(24):
        image = np.full((20 + index % 4, 24, 3), 10 * index, np.uint8)
        image[:, 12:, 0] = 250 - 10 * index
        path = tmp_path / "photos" / ("ant", "bee")[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "photos"


def load(folder, stream=None, **options):
    return sources.load(str(folder), image_size=8, stream=stream, **{"holdout": 4, **options})


def stream(split, first, last, batch_size=4, order=lambda position: position % 5):
    return list(split.images.batches(split.labels, batch_size, order, range(first, last), range(batch_size)))


def test_only_the_training_images_stay_in_their_files(photos):
    whole, streamed = load(photos), load(photos, {})
    assert isinstance(streamed.train.images, streams.Streamed)
    for one, other in zip(whole[1:4], streamed[1:4], strict=True):
        np.testing.assert_array_equal(other.image_id, one.image_id)
        np.testing.assert_array_equal(other.labels, one.labels)
        assert other.labels.dtype == np.int32
        np.testing.assert_array_equal(other.images[:], one.images)
    assert streamed.train.images.shape == whole.train.images.shape
    assert streamed.classes == whole.classes
    np.testing.assert_allclose((streamed.mean, streamed.std), (whole.mean, whole.std), rtol=1e-12)


def test_batches_are_those_images_in_the_given_order(photos):
    split = load(photos, {"threads": 3}).train
    found = stream(split, 2, 5)
    assert [images.shape for images, _ in found] == [(4, 8, 8, 3)] * 3
    index = np.arange(8, 20) % 5
    np.testing.assert_array_equal(np.concatenate([images for images, _ in found]), split.images[index])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), split.labels[index])


def test_a_stream_that_begins_later_goes_on_as_the_whole(photos):
    crop = {"crop_scale": (0.1, 0.9), "threads": 4}
    whole, later = stream(load(photos, crop).train, 0, 6), stream(load(photos, crop).train, 4, 6)
    for (images, labels), (again, same) in zip(whole[4:], later, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, same)
    other = stream(load(photos, crop, seed=1, holdout=0).train, 4, 6)
    assert not np.array_equal(other[0][0], later[0][0])


def test_crops_are_of_the_whole_image(photos):
    """Every pixel's levels tell the image, and the crop is the box of its draws, cut and resized by Pillow."""
    options = {"crop_scale": (0.05, 0.5), "crop_ratio": (0.5, 2.0)}
    split = load(photos, options).train
    ((images, _),) = stream(split, 2, 3, order=lambda position: position)
    _, cut = streams.rule(**options)
    paths = sorted((photos / "ant").iterdir()) + sorted((photos / "bee").iterdir())
    for position, found in enumerate(images, 8):
        with Image.open(paths[split.image_id[position]]) as file:
            top, left, rows, columns = cut(np.random.default_rng([0, 4, position]), file.height, file.width)
            expected = file.crop((left, top, left + columns, top + rows)).resize((8, 8), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(found, np.asarray(expected))


def test_an_image_that_does_not_decode_is_named_once_and_the_next_takes_its_place(photos, capfd):
    split = load(photos, {}, skip_share=0.1, mean=(0.5,) * 3, std=(0.2,) * 3).train
    paths = sorted((photos / "ant").iterdir()) + sorted((photos / "bee").iterdir())
    whole = split.images[:]
    paths[split.image_id[2]].write_bytes(b"nothing")
    found = stream(split, 0, 5)
    index = np.where(np.arange(20) % 5 == 2, 3, np.arange(20) % 5)
    np.testing.assert_array_equal(np.concatenate([images for images, _ in found]), whole[index])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), split.labels[index])
    said = capfd.readouterr().err.splitlines()
    assert sum("skipped an image that does not decode (1 so far)" in line and "ant" in line for line in said) == 1


def test_some_images_read_at_once_keep_their_labels(photos):
    split = load(photos, {}, skip_share=0.1, mean=(0.5,) * 3, std=(0.2,) * 3).train
    whole, paths = split[:], sorted((photos / "ant").iterdir()) + sorted((photos / "bee").iterdir())
    assert isinstance(whole.images, np.ndarray)
    paths[split.image_id[2]].write_bytes(b"nothing")
    for index in (slice(1, 4), np.array([2, 0]), split.labels == split.labels[2]):
        some, places = split[index], np.arange(15)[index]
        expected = np.where(places == 2, 3, places)  # the next takes its place
        np.testing.assert_array_equal(some.images, whole.images[expected])
        np.testing.assert_array_equal(some.labels, whole.labels[expected])
        np.testing.assert_array_equal(some.image_id, whole.image_id[expected])


def test_a_stream_without_a_single_image_ends(photos):
    split = load(photos, {}, skip_share=0.99, mean=(0.5,) * 3, std=(0.2,) * 3).train
    for path in photos.glob("*/*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="15 of 15 images of .* do not decode"):
        stream(split, 0, 2)


def test_too_many_that_do_not_decode_end_in_one_line(photos):
    split = load(photos, {}, skip_share=0.01, mean=(0.5,) * 3, std=(0.2,) * 3).train
    next(iter(sorted((photos / "ant").iterdir()))).write_bytes(b"nothing")
    bad = int(np.flatnonzero(split.image_id == 0)[0])
    with pytest.raises(ValueError, match=r"1 of 15 images of .* do not decode, more than skip_share=0\.01") as caught:
        stream(split, 0, 2, order=lambda position: bad)
    assert "\n" not in str(caught.value)


def test_tfds_images_stream_too(write_tfds, striped):
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": striped(i, i % 2), "label": i % 2} for i in range(12)]
    root = write_tfds("own", features, {"train": examples, "test": examples[:4]})
    options = {"data_dir": root, "image_size": 6, "holdout": 2}
    whole, streamed = sources.load("own", **options), sources.load("own", **options, stream={})
    ((images, labels),) = stream(streamed.train, 0, 1, batch_size=10, order=lambda position: position)
    np.testing.assert_array_equal(images, whole.train.images)
    np.testing.assert_array_equal(labels, whole.train.labels)


def test_labels_of_a_large_dataset_are_kept(write_tfds, striped, monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    from dynnas_jax.data import tfds as reader

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(reader, "_KEPT_FROM", 12)
    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": striped(i, i % 2), "label": i % 2} for i in range(12)]
    root = write_tfds("own", features, {"train": examples, "test": examples[:4]})
    options = {"data_dir": root, "image_size": 6, "holdout": 0, "stream": {}}
    first = sources.load("own", **options).train.labels
    (kept,) = (tmp_path / "cache" / "dynnas_jax" / "labels").glob("*.npy")
    assert np.load(kept).tolist() == [0, 1] * 6
    np.save(kept, 1 - np.load(kept))  # what is kept is what is read
    np.testing.assert_array_equal(sources.load("own", **options).train.labels, 1 - first)
    few = sources.load("own", **options, train_limit=5).train  # few are read themselves
    np.testing.assert_array_equal(few.labels, first[few.image_id])
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(sources.load("own", **options).train.labels, first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads=0 in data.stream: give a whole number"),
        ({"crop_scale": (0.5, 1.5)}, r"crop_scale=\(0\.5, 1\.5\) in data\.stream: give \(low, high\)"),
        ({"crop_scale": (0.5, 1.0), "crop_ratio": (2, 1)}, r"crop_ratio=\(2, 1\) in data\.stream"),
    ],
)
def test_options_that_are_impossible(photos, options, message):
    with pytest.raises(ValueError, match=message):
        load(photos, options)


def test_crops_need_a_size(photos):
    with pytest.raises(ValueError, match=r"data\.stream\.crop_scale .* does nothing without image_size"):
        sources.load(str(photos), stream={"crop_scale": (0.1, 1.0)})


def test_what_is_in_memory_is_not_streamed():
    with pytest.raises(ValueError, match="'digits' is in memory as a whole; streams are for"):
        sources.load("digits", stream={})
