"""Each operation against Pillow and SciPy, and how they are drawn."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from dynnas_jax.data import randaugment


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).normal(0, 40, (20, 24, 3))
    return np.clip(ndimage.gaussian_filter(noise, (1, 1, 0)) * 4 + 110, 0, 255).astype(np.uint8)


def warped(image, matrix, shift):
    """SciPy's bilinear map about the centre, grey outside."""
    centre = (np.array(image.shape[:2]) - 1) / 2
    options = {"order": 1, "mode": "grid-constant", "cval": 128.0}
    offset = centre - np.array(matrix) @ centre + np.array(shift)
    return np.stack(
        [ndimage.affine_transform(image[..., c].astype(float), np.array(matrix), offset, **options) for c in range(3)],
        axis=-1,
    )


def expected(name, image, m):
    """The paper's operation at the signed part m of the largest magnitude."""
    pillow, angle = Image.fromarray(image), np.deg2rad(30 * m)
    height, width, _ = image.shape
    enhanced = {"color": "Color", "contrast": "Contrast", "brightness": "Brightness", "sharpness": "Sharpness"}
    if name in enhanced:
        return getattr(ImageEnhance, enhanced[name])(pillow).enhance(1 + 0.9 * m)
    return {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(pillow),
        "equalize": lambda: ImageOps.equalize(pillow),
        "solarize": lambda: ImageOps.solarize(pillow, round(256 * (1 - abs(m)))),
        "posterize": lambda: ImageOps.posterize(pillow, 8 - round(4 * abs(m))),
        "rotate": lambda: warped(image, [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], [0, 0]),
        "shear_x": lambda: warped(image, [[1, 0], [0.3 * m, 1]], [0, 0]),
        "shear_y": lambda: warped(image, [[1, 0.3 * m], [0, 1]], [0, 0]),
        "translate_x": lambda: warped(image, np.eye(2), [0, m * 150 / 331 * width]),
        "translate_y": lambda: warped(image, np.eye(2), [m * 150 / 331 * height, 0]),
    }[name]()


@pytest.mark.parametrize("name", list(randaugment.OPERATIONS))
def test_operation(image, name):
    assert len(randaugment.OPERATIONS) == 14
    run = jax.jit(randaugment.OPERATIONS[name])
    for m in (-1.0, -0.6, 0.4, 1.0):
        out = run(image, np.float32(m))
        assert out.dtype == np.uint8
        wanted = np.asarray(expected(name, image, m)).astype(float)
        assert np.abs(np.asarray(out).astype(float) - wanted).max() <= 2, m


@pytest.mark.parametrize("name", sorted(set(randaugment.OPERATIONS) - {"autocontrast", "equalize"}))
def test_without_magnitude_nothing_changes(image, name):
    np.testing.assert_array_equal(jax.jit(randaugment.OPERATIONS[name])(image, np.float32(0)), image)


def test_draws_are_even_and_signed(image, as_users_compile):
    """One operation of an image: each result is that of one operation and sign, all of them, about equally often."""
    keys = jax.random.split(jax.random.key(0), 600)
    compiled = functools.partial(jax.jit, compiler_options=as_users_compile)
    run = compiled(lambda k: jax.lax.map(lambda one: randaugment.randaugment(one, image, 1, 7.0), k))
    known, tally = {}, {}
    for name, operation in randaugment.OPERATIONS.items():
        for sign in (-1, 1):
            known[np.asarray(compiled(operation)(image, np.float32(0.7 * sign))).tobytes()] = name, sign
    for out in np.asarray(run(keys)):
        name = known[out.tobytes()]
        tally[name] = tally.get(name, 0) + 1
    names = {name for name, _ in tally}
    assert names == set(randaugment.OPERATIONS)
    assert all(20 < sum(tally.get((name, sign), 0) for sign in (-1, 1)) < 75 for name in names)
    assert {sign for name, sign in tally if name == "rotate"} == {-1, 1}


def test_operations_follow_one_another(image):
    """Three draws equal the three operations one by one, by the same draws."""
    key = jax.random.key(5)
    choice_key, sign_key = jax.random.split(key)
    choices = np.asarray(jax.random.randint(choice_key, (3,), 0, 14))
    signs = np.asarray(jax.random.rademacher(sign_key, (3,), np.float32))
    assert len(set(choices)) == 3
    by_hand = image
    for choice, sign in zip(choices, signs, strict=True):
        by_hand = jax.jit(list(randaugment.OPERATIONS.values())[choice])(by_hand, sign * np.float32(0.5))
    out = jax.jit(lambda k, x: randaugment.randaugment(k, x, 3, 5.0))(key, image)
    np.testing.assert_array_equal(out, by_hand)
