import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

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


def test_warp_against_scipy():
    """The affine map equals SciPy's bilinear resampling of the same map."""
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 2)).astype(np.uint8)
    key = jax.random.key(3)
    warped = np.asarray(jax.jit(lambda k, x: augment._warp(k, x, 20.0, 0.2, 1.5))(key, image))
    draw = np.asarray(jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0), np.float64)
    angle, scale = np.deg2rad(draw[0] * 20), 1 / (1 + draw[1] * 0.2)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([4.0, 5.5])
    offset = centre - matrix @ centre + draw[2:] * 1.5
    for channel in range(2):
        plane = image[:, :, channel].astype(np.float64)
        expected = ndimage.affine_transform(plane, matrix, offset, order=1, mode="grid-constant", cval=0.0)
        np.testing.assert_allclose(warped[:, :, channel], expected, atol=0.51)


def test_warp_is_each_images_own():
    images = np.repeat(np.random.default_rng(1).integers(0, 256, (1, 8, 8, 1)).astype(np.uint8), 6, axis=0)
    warped = np.asarray(augment.rule(pad=0, flip=False, rotate=10.0, zoom=0.1, shift=0.5)(jax.random.key(0), images))
    assert warped.dtype == np.uint8
    assert len({image.tobytes() for image in warped}) == 6


@pytest.mark.parametrize("option", [{"rotate": -1.0}, {"zoom": 1.0}, {"shift": -0.1}])
def test_warp_rejects(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        augment.rule(**option)
