"""Folders of images against the arrays they were written from."""

import numpy as np
import pytest
from PIL import Image

from dynnas_jax.data import sources


def picture(seed, size=(6, 6), channels=3):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if pixels.shape[-1] > 1 else pixels[..., 0]).save(path)


@pytest.fixture
def split_folder(tmp_path):
    """12 training and 4 test images of two classes; image i of a class is picture(100 * class + i) (+ 1000 in test)."""
    for part, count, first in (("train", 6, 0), ("test", 2, 1000)):
        for label, name in enumerate(("ant", "bee")):
            for i in range(count):
                save(tmp_path / "own" / part / name / f"{i}.png", picture(first + 100 * label + i))
    return tmp_path / "own"


def load(path, **options):
    return sources.load(str(path), **{"holdout": 0, **options})


def test_train_and_test_folders(split_folder):
    (split_folder / "train" / "ant" / ".hidden.png").write_text("none")
    (split_folder / "train" / ".cache").mkdir()
    (split_folder / "train" / "ant" / "notes.txt").write_text("none")
    data = load(split_folder)
    assert data.classes == ("ant", "bee")
    for split, count, first in ((data.train, 6, 0), (data.test, 2, 1000)):
        expected = [picture(first + 100 * label + i) for label in (0, 1) for i in range(count)]
        np.testing.assert_array_equal(split.images, expected)
        assert split.labels.tolist() == [0] * count + [1] * count
        assert split.image_id.tolist() == list(range(2 * count))
    assert len(load(split_folder, holdout=4).holdout) == 4


@pytest.mark.parametrize("name", ["validation", "val"])
def test_validation_is_the_test_split_where_there_is_no_test(split_folder, name):
    for other in ("ant", "bee"):
        save(split_folder / name / other / "x.png", picture(7))
    assert len(load(split_folder).test) == 4
    (split_folder / "test").rename(split_folder / "elsewhere")
    assert len(load(split_folder).test) == 2


def test_classes_alone_give_a_fixed_fifth(tmp_path):
    for label, (name, count) in enumerate({"ant": 20, "bee": 10, "train": 5}.items()):
        for i in range(count):
            save(tmp_path / name / f"{i:02d}.PNG", picture(100 * label + i))
    first, second = load(tmp_path, seed=0), load(tmp_path, seed=1, test_limit=100)
    assert first.classes == ("ant", "bee", "train")
    assert np.bincount(first.test.labels).tolist() == [4, 2, 1]
    np.testing.assert_array_equal(first.test.images, second.test.images)
    ids = np.concatenate([first.train.image_id, first.test.image_id])
    assert sorted(ids) == list(range(35))
    for split in (first.train, first.test):
        for image, label, number in zip(split.images, split.labels, split.image_id, strict=True):
            np.testing.assert_array_equal(image, picture(100 * label + number - [0, 20, 30][label]))


def test_formats_and_modes(tmp_path):
    """Transparency is dropped, palettes and bits are resolved, JPEG is as Pillow decodes it."""
    pixels = picture(0, (8, 8))
    for name in ("a", "b"):
        save(tmp_path / name / "0.png", pixels)
        save(tmp_path / name / "1.bmp", pixels)
        save(tmp_path / name / "2.png", np.concatenate([pixels, picture(1, (8, 8), 1)], axis=-1))
        Image.fromarray(pixels).save(tmp_path / name / "3.jpg")
        Image.fromarray(pixels // 64 * 64).quantize(64).save(tmp_path / name / "4.gif", transparency=3)
    data = load(tmp_path)
    shown = {number % 5: image for number, image in zip(data.train.image_id, data.train.images, strict=True)}
    for number in (0, 1, 2):
        np.testing.assert_array_equal(shown[number], pixels)
    with Image.open(tmp_path / "a" / "3.jpg") as file:
        np.testing.assert_array_equal(shown[3], np.asarray(file))
    np.testing.assert_allclose(shown[4].astype(int), pixels // 64 * 64, atol=40)


def test_a_photo_stands_upright(split_folder):
    """Cameras store a picture as the sensor lay, and how to turn it (orientation 6: a quarter clockwise)."""
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(0)).save(split_folder / "train" / "ant" / "0.png", exif=turned)
    np.testing.assert_array_equal(load(split_folder).train.images[0], np.rot90(picture(0), -1))


def test_grey_images_have_one_channel(tmp_path):
    for name in ("a", "b"):
        for i in range(5):
            save(tmp_path / name / f"{i}.png", picture(i, channels=1))
        Image.fromarray(picture(9, channels=1)[..., 0] > 99).save(tmp_path / name / "bits.png")
    data = load(tmp_path)
    assert data.train.images.shape[1:] == (6, 6, 1)
    bits = data.train.image_id % 6 == 5
    np.testing.assert_array_equal(data.train.images[bits][0], np.where(picture(9, channels=1) > 99, 255, 0))


def test_images_of_many_sizes(split_folder):
    save(split_folder / "test" / "bee" / "1.png", picture(5, (9, 12)))
    with pytest.raises(ValueError, match=r"0\.png is 6x6, .*bee/1\.png is 12x9\): give image_size$"):
        load(split_folder)
    data = load(split_folder, image_size=4)
    expected = Image.fromarray(picture(5, (9, 12))[:, 1:10]).resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.test.images[3], np.asarray(expected))


def test_mixed_channels_name_an_example_of_each(split_folder):
    save(split_folder / "train" / "bee" / "3.png", picture(0, channels=1))
    with pytest.raises(ValueError, match=r"grey and colour images \(.*bee/3\.png, .*ant/0\.png\): convert") as caught:
        load(split_folder)
    assert "\n" not in str(caught.value)


def test_more_than_eight_bits(split_folder):
    Image.fromarray(np.arange(36, dtype=np.uint16).reshape(6, 6) * 999).save(split_folder / "train" / "ant" / "2.png")
    with pytest.raises(ValueError, match=r"ant/2\.png has pixels of mode I;16: store images of 8 bits"):
        load(split_folder)


@pytest.mark.parametrize("damage", ["empty", "text", "cut off", "header only"])
def test_what_does_not_decode_is_named_and_left_out(split_folder, capsys, damage):
    path = split_folder / "train" / "bee" / "2.png"
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"no picture",
        "cut off": content[: len(content) // 2],
        "header only": content[:40],
    }
    path.write_bytes(damaged[damage])
    data = load(split_folder, skip_share=0.1)
    assert data.train.image_id.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]
    np.testing.assert_array_equal(data.train.images[8], picture(103))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dynnas: skipped 1 of 12 images that do not decode: {path} (")
    with pytest.raises(ValueError, match=r"^1 of 12 images of own train do not decode, .*0\.01 allows; .*bee/2\.png"):
        load(split_folder)


def test_the_first_image_may_be_the_damaged_one(split_folder):
    (split_folder / "train" / "ant" / "0.png").write_bytes(b"")
    assert len(load(split_folder, skip_share=0.1).train) == 11
    for path in split_folder.glob("train/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 12 image files in .*train can be read; the first is"):
        load(split_folder)


def test_long_lists_are_cut(split_folder, capsys):
    for i in range(13):
        (split_folder / "train" / "ant" / f"bad{i}.jpg").write_text("none")
    load(split_folder, skip_share=0.6)
    assert "skipped 13 of 25" in (line := capsys.readouterr().err)
    assert line.count(".jpg (") == 10
    assert line.strip().endswith("and 3 more")


def test_folders_that_are_no_dataset(split_folder, tmp_path):
    with pytest.raises(ValueError, match="^no folder .*absent: give one"):
        load(tmp_path / "absent")
    save(tmp_path / "one" / "train" / "a" / "0.png", picture(0))
    with pytest.raises(ValueError, match="one has train but no test, validation or val"):
        load(tmp_path / "one")
    with pytest.raises(ValueError, match="train has 1 class folders: a classifier needs at least two"):
        load(tmp_path / "one" / "train")
    (split_folder / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match="class 'cat' has no images in .*train/cat"):
        load(split_folder)
    save(split_folder / "train" / "cat" / "0.png", picture(0))
    with pytest.raises(ValueError, match="class 'cat' has no images in .*test/cat"):
        load(split_folder)
    save(split_folder / "test" / "dog" / "0.png", picture(0))
    with pytest.raises(ValueError, match="test has a class 'dog' that .*train lacks"):
        load(split_folder)


@pytest.mark.parametrize("share", [-0.1, 1.0, "0.1", True])
def test_impossible_share(share):
    with pytest.raises(ValueError, match="^skip_share="):
        sources.load("digits", skip_share=share)


def test_a_name_is_a_folder_where_it_is_one(split_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(split_folder.parent)
    for name in ("own", "./own", "own/"):
        assert sources.load(name, data_dir=tmp_path / "tfds").classes == ("ant", "bee")
    with pytest.raises(ValueError, match=r"^unknown dataset 'owl' .* or a folder$"):
        sources.load("owl", data_dir=tmp_path / "tfds")
    (tmp_path / "tfds" / "own" / "1.0.0").mkdir(parents=True)
    (tmp_path / "tfds" / "own" / "1.0.0" / "dataset_info.json").write_text("{}")
    assert sources._is_folder("./own", tmp_path / "tfds")
    assert not sources._is_folder("own", tmp_path / "tfds")
