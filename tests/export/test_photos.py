"""Photos as the training images were read: against the data pipeline itself."""

import numpy as np
import pytest
from PIL import Image

from dynnas_jax.data import folders, splits
from dynnas_jax.export import photos


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize((61, 40), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


@pytest.mark.parametrize("share", [1.0, 0.875, 0.3])
@pytest.mark.parametrize("size", [8, 33, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_photo_is_cut_and_resized_as_for_training(picture, size, share, channels):
    picture = picture[..., :channels]
    for pixels in (picture, picture.swapaxes(0, 1)):
        expected = splits.fitted(pixels, size, share)
        np.testing.assert_array_equal(photos.fit(pixels, (size, size, channels), share), expected)


def test_other_proportions_keep_the_middle(picture):
    wide = photos.fit(picture, (10, 20, 3))
    rows = (40 - round(61 / 2)) // 2
    by_hand = Image.fromarray(picture[rows : rows + round(61 / 2)]).resize((20, 10), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(wide, np.asarray(by_hand))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda picture: picture[..., :1], r"uint8\[40, 61, 1\], the nets read uint8 of 3 channels"),
        (lambda picture: picture[..., 0], r"uint8\[40, 61\], the nets"),
        (lambda picture: picture / 255, r"float64\[40, 61, 3\], the nets"),
    ],
)
def test_a_picture_of_other_channels_or_numbers_is_one_plain_line(picture, change, said):
    with pytest.raises(ValueError, match=rf"^the picture is {said}[^\n]*: convert it first$"):
        photos.fit(change(picture), (8, 8, 3))


def pipeline(path, channels):
    """The pixels as the reader of folders sees them."""
    like = folders._Like(path, "L" if channels == 1 else "RGB", None)
    reader = folders._Reader("photos", [path], np.zeros(1, int), like, 16, 1.0, 0.0)
    return reader.one(0)


def saved(picture, path, kind):
    image = Image.fromarray(picture)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path.with_suffix(".jpg"), exif=exif)
        return path.with_suffix(".jpg")
    if kind == "palette":
        image = image.quantize(16)
    elif kind != "RGB":
        image = image.convert(kind)
    image.save(path)
    return path


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "palette", "turned"])
def test_files_are_read_as_the_pipeline_does(picture, tmp_path, kind):
    path = saved(picture, tmp_path / "a.png", kind)
    pixels, done = photos.fitted(path, (16, 16, 3))
    np.testing.assert_array_equal(pixels, pipeline(path, 3))
    assert done == f"the middle of {'40x61' if kind == 'turned' else '61x40'} resized to 16x16"


@pytest.mark.parametrize("kind", ["L", "LA", "1"])
def test_grey_files_too(picture, tmp_path, kind):
    path = saved(picture, tmp_path / "a.png", kind)
    np.testing.assert_array_equal(photos.fitted(path, (16, 16, 1))[0], pipeline(path, 1))


def test_a_photo_of_the_right_size_is_left_alone(picture, tmp_path):
    pixels, done = photos.fitted(saved(picture, tmp_path / "a.png", "RGB"), picture.shape)
    np.testing.assert_array_equal(pixels, picture)
    assert done == ""


def test_what_cannot_be_read_is_one_plain_line(picture, tmp_path, monkeypatch):
    whole = saved(picture, tmp_path / "a.png", "RGB")
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "text.png").write_text("no pixels")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    for path, channels, said in (
        (cut, 3, "cannot read the image .*cut.png"),
        (tmp_path / "text.png", 3, "cannot read the image .*text.png"),
        (tmp_path / "none.png", 3, "none.png: No such file"),
        (tmp_path, 3, "Is a directory"),
        (tmp_path / "deep.png", 3, "pixels of mode I;16: store images of 8 bits"),
        (whole, 4, "images of 4 channels"),
    ):
        with pytest.raises(ValueError, match=rf"^[^\n]*{said}[^\n]*$"):
            photos.read(path, channels)
    for limit in (2000, 1000):  # Pillow warns of one, and refuses twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # a file may claim to be larger than memory
        with pytest.raises(ValueError, match="exceeds limit of 2000 pixels"):
            photos.read(whole, 3)
