import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.data import augment


def batch(shape, seed=0):
    return np.random.default_rng(seed).integers(1, 256, shape, dtype=np.uint8)


def crops(image, pad):
    """Every crop of the zero-padded image, by NumPy, keyed by its offset."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    offsets = range(2 * pad + 1)
    return {(y, x): padded[y : y + height, x : x + width] for y in offsets for x in offsets}


def run(images, seed=0, **options):
    out = jax.jit(augment.rule(**options))(jax.random.key(seed), images)
    assert out.dtype == jnp.uint8
    return np.asarray(out)


def test_nothing_is_the_identity():
    images = batch((5, 8, 6, 3))
    np.testing.assert_array_equal(run(images, pad=0, flip=False, cutout=0), images)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(300, 6, 5, 3), (300, 8, 8, 1)])
def test_every_output_is_one_crop_and_all_occur_evenly(flip, shape):
    images, pad = batch(shape), 1
    seen = {}
    for image, out in zip(images, run(images, pad=pad, flip=flip, cutout=0), strict=True):
        candidates = {(*offset, False): crop for offset, crop in crops(image, pad).items()}
        if flip:  # mirrored about the middle of the crop
            candidates |= {(y, x, True): crop[:, ::-1] for (y, x, _), crop in candidates.items()}
        hit = [name for name, candidate in candidates.items() if np.array_equal(candidate, out)]
        assert len(hit) == 1
        seen[hit[0]] = seen.get(hit[0], 0) + 1
    count = 9 * (2 if flip else 1)
    assert len(seen) == count
    expected = len(images) / count
    assert all(abs(number - expected) < 5 * np.sqrt(expected) for number in seen.values())


def test_flip_alone_mirrors_half():
    images = batch((400, 4, 5, 3))
    out = run(images, pad=0, flip=True, cutout=0)
    mirrored = np.array([np.array_equal(a[:, ::-1], b) for a, b in zip(images, out, strict=True)])
    kept = np.array([np.array_equal(a, b) for a, b in zip(images, out, strict=True)])
    assert np.all(mirrored ^ kept)
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_cutout_zeroes_one_clipped_square(side):
    images = batch((300, 6, 7, 2))
    out = run(images, pad=0, flip=False, cutout=side)
    possible = {}
    for y in range(6):
        for x in range(7):
            hole = np.zeros((6, 7), bool)
            hole[max(y - side // 2, 0) : y - side // 2 + side, max(x - side // 2, 0) : x - side // 2 + side] = True
            possible[hole.tobytes()] = hole
    seen = set()
    for image, cut in zip(images, out, strict=True):
        hole = np.all(cut == 0, axis=-1)
        assert hole.tobytes() in possible
        np.testing.assert_array_equal(cut, np.where(hole[..., None], 0, image))
        seen.add(hole.tobytes())
    assert seen == set(possible)


def test_key_decides():
    images = batch((64, 8, 8, 3))
    augmented = jax.jit(augment.rule(pad=1, flip=True, cutout=2))
    first, again, other = (np.asarray(augmented(jax.random.key(seed), images)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.mean([np.any(a != b) for a, b in zip(first, other, strict=True)]) > 0.9


def test_equal_images_are_augmented_apart():
    images = np.repeat(batch((1, 16, 16, 3)), 64, axis=0)
    assert len({image.tobytes() for image in run(images, pad=4, flip=True)}) > 32


@pytest.mark.parametrize("options", [{"pad": -1}, {"cutout": -2}, {"pad": 0.5}])
def test_impossible_option(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        augment.rule(**options)


@pytest.mark.parametrize("options", [{"pad": 8}, {"pad": 0, "cutout": 9}])
def test_larger_than_the_image(options):
    with pytest.raises(ValueError, match="do not fit images of 8x10"):
        augment.rule(**options)(jax.random.key(0), jnp.zeros((2, 8, 10, 3), jnp.uint8))


def test_warp_is_each_images_own():
    images = np.repeat(np.random.default_rng(1).integers(0, 256, (1, 8, 8, 1)).astype(np.uint8), 6, axis=0)
    warped = np.asarray(augment.rule(pad=0, flip=False, rotate=10.0, zoom=0.1, shift=0.5)(jax.random.key(0), images))
    assert warped.dtype == np.uint8
    assert len({image.tobytes() for image in warped}) == 6


@pytest.mark.parametrize("option", [{"rotate": -1.0}, {"zoom": 1.0}, {"shift": -0.1}])
def test_warp_rejects(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        augment.rule(**option)


FLAT = {"pad": 0, "flip": False}


@pytest.mark.parametrize(
    "options",
    [
        {"brightness": 0.4},
        {"contrast": 0.4},
        {"saturation": 0.6},
        {"hue": 0.3},
        {"operations": 2},
        {"crop_scale": (0.2, 0.9)},
    ],
)
def test_draws_are_each_images_own(options):
    images = np.repeat(batch((1, 12, 12, 3)), 32, axis=0)
    out = run(images, **FLAT, **options)
    assert len({image.tobytes() for image in out}) > 20
    np.testing.assert_array_equal(out, np.asarray(augment.rule(**FLAT, **options)(jax.random.key(0), images)))


def test_all_at_once_equals_one_after_another(monkeypatch):
    """The forms for a CPU and for an accelerator."""
    images = batch((24, 12, 12, 3))
    options = {"operations": 2, "brightness": 0.3, "hue": 0.2, "crop_scale": (0.3, 1.0)}
    one_by_one = run(images, **FLAT, **options).astype(int)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = run(images, **FLAT, **options).astype(int)
    assert np.mean(one_by_one != together) < 0.01  # where a value rounds the other way
    assert np.mean(np.abs(one_by_one - together) > 2) < 0.002


def test_crop_may_change_the_size():
    images = batch((6, 24, 20, 3))
    assert run(images, pad=0, crop_scale=(0.5, 1.0), crop_size=16, cutout=4).shape == (6, 16, 16, 3)
    assert run(images, pad=0, crop_scale=(0.5, 1.0)).shape == (6, 24, 24, 3)


def test_jitter_of_brightness_lies_in_its_range():
    """A grey of 100 becomes 60 to 140, evenly."""
    images = np.full((600, 4, 4, 1), 100, np.uint8)
    out = run(images, **FLAT, brightness=0.4)[:, 0, 0, 0]
    assert out.min() >= 60
    assert out.max() <= 140
    assert np.histogram(out, np.linspace(60, 141, 5))[0].min() > 100


def test_order_of_the_jitter_is_random():
    """Brightness then contrast differs from contrast then brightness; factors of one image, by NumPy."""
    image = batch((1, 6, 6, 1)).astype(np.float32)[0] / 4
    seen = set()
    for seed in range(12):
        key = jax.random.key(seed)
        out = np.asarray(augment.rule(**FLAT, brightness=0.9, contrast=0.9)(key, image[None].astype(np.uint8)))[0]
        image_key = jax.random.split(jax.random.split(key, 7)[6], 1)[0]
        strengths = (0.9, 0.9, 0.0, 0.0)
        low, high = np.float32([0.1, 0.1, 1, 0]), np.float32([1.9, 1.9, 1, 0])
        bright, contrast = np.asarray(
            jax.random.uniform(jax.random.split(image_key)[0], (4,), minval=low, maxval=high)
        )[: sum(map(bool, strengths))]
        whole = np.floor(image)
        first = np.clip(whole * bright, 0, 255)
        first = np.clip(first.mean() + contrast * (first - first.mean()), 0, 255)
        second = np.clip(whole.mean() + contrast * (whole - whole.mean()), 0, 255)
        second = np.clip(second * bright, 0, 255)
        errors = [np.abs(out - expected).max() for expected in (first, second)]
        assert min(errors) < 0.51
        seen.add(int(np.argmin(errors)))
    assert seen == {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hue": 0.6}, "hue=0.6 in data.augment.rule: must be 0 to 0.5"),
        ({"brightness": -0.1}, "brightness=-0.1 in data.augment.rule: must be 0 or more"),
        ({"zoom": 1}, "zoom=1 in data.augment.rule: must be 0 to below 1"),
        ({"magnitude": 11}, "magnitude=11 in data.augment.rule: must be 0 to 10"),
        ({"magnitude": float("nan")}, "magnitude=nan"),
        ({"operations": 1.5}, "operations=1.5 in data.augment.rule: give a whole number"),
        ({"crop_size": 16}, "crop_size=16 in data.augment.rule does nothing without crop_scale"),
        ({"crop_scale": (0.5, 1.2), "pad": 0}, "with 0 < low <= high, at most 1"),
        ({"crop_scale": 0.5, "pad": 0}, "crop_scale=0.5 in data.augment.rule: give"),
        ({"crop_scale": (0.5, 1.0), "crop_ratio": (2, 1), "pad": 0}, "crop_ratio=.* with 0 < low <= high$"),
        ({"crop_scale": (0.5, 1.0), "crop_size": 0, "pad": 0}, "crop_size=0 in data.augment.rule: give a whole"),
        ({"crop_scale": (0.5, 1.0)}, "crop_scale crops already, give pad=0 with it"),
    ],
)
def test_impossible_values(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        augment.rule(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"hue": 0.1}, {"operations": 1}])
def test_colours_need_one_or_three_channels(options):
    with pytest.raises(ValueError, match="need images of 1 or 3 channels, not 2"):
        augment.rule(**options)(jax.random.key(0), batch((2, 8, 8, 2)))
