import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from dynnas_jax.data import sources


def arrays(seed=0, train=60, test=20, size=(6, 6, 3), classes=4):
    generator = np.random.default_rng(seed)
    return {
        "train_images": generator.integers(0, 256, (train, *size), dtype=np.uint8),
        "train_labels": generator.permutation(np.arange(train) % classes),
        "test_images": generator.integers(0, 256, (test, *size), dtype=np.uint8),
        "test_labels": generator.permutation(np.arange(test) % classes),
    }


@pytest.fixture
def write(tmp_path):
    def save(**changes):
        contents = {name: array for name, array in (arrays() | changes).items() if array is not None}
        np.savez(tmp_path / "own.npz", **contents)
        return str(tmp_path / "own.npz")

    return save


def check_moments(data):
    pixels = data.train.images.reshape(-1, data.train.images.shape[-1]).astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std(axis=0), rtol=1e-12)


def test_digits_equal_scikit_learn():
    bunch = datasets.load_digits()
    data = sources.load("digits", holdout=200)
    assert data.classes == tuple("0123456789")
    assert [len(split) for split in (data.train, data.holdout, data.test)] == [1238, 200, 359]
    ids = np.concatenate([split.image_id for split in (data.train, data.holdout, data.test)])
    np.testing.assert_array_equal(np.sort(ids), np.arange(1797))
    for split in (data.train, data.holdout, data.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.image_id.dtype == np.int64
        assert np.all(np.diff(split.image_id) > 0)
        np.testing.assert_allclose(split.images[..., 0], bunch.images[split.image_id] * 255 / 16, atol=0.5)
        np.testing.assert_array_equal(split.labels, bunch.target[split.image_id])
    share = np.bincount(data.test.labels) / np.bincount(bunch.target)
    assert np.all(abs(share - 0.2) < 0.01)
    check_moments(data)


def test_seed_moves_the_holdout_and_never_the_test_split():
    first, again, other = (sources.load("digits", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.holdout.image_id, again.holdout.image_id)
    np.testing.assert_array_equal(first.test.image_id, other.test.image_id)
    assert not np.array_equal(first.holdout.image_id, other.holdout.image_id)
    assert not set(other.holdout.image_id) & (set(other.test.image_id) | set(other.train.image_id))


def test_the_test_split_is_left_out_where_it_is_not_to_be_read():
    whole, part = sources.load("digits"), sources.load("digits", with_test=False)
    assert part.test is None
    for name in ("train", "holdout"):
        np.testing.assert_array_equal(getattr(whole, name).image_id, getattr(part, name).image_id)


def test_split_is_indexed_by_slice_and_array():
    test = sources.load("digits").test
    assert test[:7].image_id.tolist() == test.image_id[:7].tolist()
    part = test[np.array([5, 2])]
    assert len(part) == 2
    np.testing.assert_array_equal(part.images, test.images[[5, 2]])
    np.testing.assert_array_equal(part.labels, test.labels[[5, 2]])


def test_holdout_is_a_number_or_a_part(write):
    path = write()
    assert len(sources.load(path, holdout=0).holdout) == 0
    assert len(sources.load(path, holdout=12).holdout) == 12
    assert len(sources.load(path, holdout=0.25).holdout) == 15
    assert np.bincount(sources.load(path, holdout=12).holdout.labels).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("holdout", [-1, 60, 1.0, -0.5, 5000.0, float("nan"), True, None, "10"])
def test_impossible_holdout(write, holdout):
    with pytest.raises(ValueError, match=r"^holdout=.* of 60 train images"):
        sources.load(write(), holdout=holdout)


@pytest.mark.parametrize("option", ["image_size", "train_limit", "test_limit"])
@pytest.mark.parametrize("value", [0, -3, 2.5])
def test_impossible_option(write, option, value):
    with pytest.raises(ValueError, match=f"^{option}="):
        sources.load(write(), **{option: value})


def test_own_file(write):
    given = arrays()
    data = sources.load(write(classes=np.array(["ant", "bee", "cat", "dog"])), holdout=8)
    assert data.classes == ("ant", "bee", "cat", "dog")
    np.testing.assert_array_equal(data.train.images, given["train_images"][data.train.image_id])
    np.testing.assert_array_equal(data.train.labels, given["train_labels"][data.train.image_id])
    np.testing.assert_array_equal(data.test.images, given["test_images"])
    check_moments(data)


def test_own_file_without_channels_or_classes(write):
    given = arrays(size=(6, 5))
    data = sources.load(write(train_images=given["train_images"], test_images=given["test_images"]))
    assert data.test.images.shape == (20, 6, 5, 1)
    assert data.classes == ("0", "1", "2", "3")
    assert len(data.mean) == 1


@pytest.mark.parametrize("size", [(6, 6, 3), (12, 8, 1), (9, 16, 2)])
def test_resize_equals_pillow(write, size):
    """Against Pillow on the central square, cut out by hand."""
    given = arrays(size=size)
    data = sources.load(write(**given), image_size=4)
    assert data.train.images.shape[1:] == (4, 4, size[-1])
    side = min(size[:2])
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    for image, out in zip(given["test_images"][:5], data.test.images[:5], strict=True):
        for channel in range(size[-1]):
            square = Image.fromarray(np.ascontiguousarray(image[top : top + side, left : left + side, channel]))
            expected = np.asarray(square.resize((4, 4), Image.Resampling.BILINEAR))
            np.testing.assert_array_equal(out[..., channel], expected)


def test_limits_draw_a_random_part(write):
    data = sources.load(write(), train_limit=30, test_limit=5, holdout=0.2)
    assert [len(split) for split in (data.train, data.holdout, data.test)] == [24, 6, 5]
    assert data.test.image_id.tolist() != [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(data.test.images, arrays()["test_images"][data.test.image_id])
    more = sources.load(write(), train_limit=1_000, test_limit=1_000, holdout=0)
    assert (len(more.train), len(more.test)) == (60, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((60, 6, 6, 3), np.float32)}, "train_images are float32: store uint8"),
        ({"test_images": np.zeros((20, 108), np.uint8)}, r"test_images have shape \(20, 108\)"),
        ({"test_images": np.zeros((0, 6, 6, 3), np.uint8)}, r"test_images have shape \(0, 6, 6, 3\)"),
        ({"test_images": np.zeros((20, 6, 7, 3), np.uint8)}, "make them equal"),
        ({"train_labels": np.zeros(60)}, "train_labels are float64"),
        ({"train_labels": np.zeros((60, 4), int)}, r"train_labels are int64\[60, 4\]"),
        ({"test_labels": np.zeros(19, int)}, "20 test_images but 19 test_labels"),
        ({"test_labels": np.full(20, 4)}, r"20 labels of the test split lie outside 0\.\.3 \(the first is 4\)"),
        ({"train_labels": np.arange(60) % 4 - 1}, r"outside 0\.\.2 \(the first is -1\)"),
        ({"classes": np.array(["a", "b", "c"])}, r"outside 0\.\.2 \(the first is 3\)"),
        ({"train_labels": np.zeros(60, int)}, "has 1 class"),
        ({"train_labels": np.arange(60) % 2 * 3}, r"class '1' has no training images \(of 2 such\)"),
        ({"classes": np.array(list("abcde"))}, r"class 'e' has no training images \(of 1 such\)"),
        ({"test_labels": None, "train_images": None}, "lacks test_labels, train_images; it has"),
        ({"train_images": np.array([None, 2])}, "no object arrays"),
        ({"train_images": np.full((60, 6, 6, 3), 9, np.uint8)}, "channel 0 of the train images is constant"),
    ],
)
def test_malformed_file(write, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        sources.load(write(**changes))
    assert "\n" not in str(caught.value)


def test_no_such_or_foreign_file(tmp_path):
    with pytest.raises(ValueError, match=rf"^no file {tmp_path}/none\.npz"):
        sources.load(str(tmp_path / "none.npz"))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match=r"is no \.npz file"):
        sources.load(str(tmp_path / "array.npz"))
