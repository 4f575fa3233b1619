"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719): random operations of one shared magnitude."""

import jax
import jax.numpy as jnp

from dynnas_jax.data import colours, warps

MOST = 10.0  # the largest magnitude
FILL = 128  # grey comes in where a warp looks outside, as in the paper's code


def _colour(function):
    """(uint8 image, strength) -> uint8 image, of an operation on float32 values."""

    def run(image, strength):
        return jnp.round(function(image.astype(jnp.float32), strength)).astype(image.dtype)

    return run


def _shear(row, column):
    def run(image, strength):
        matrix = jnp.eye(2) + 0.3 * strength * jnp.array([[0.0, row], [column, 0.0]])
        return warps.affine(image, matrix, jnp.zeros(2), FILL)

    return run


def _translate(row, column):
    def run(image, strength):
        part = strength * 150 / 331  # pixels of the images the paper's operations were first used on
        shift = part * jnp.array([row * float(image.shape[0]), column * float(image.shape[1])])
        return warps.affine(image, jnp.eye(2), shift, FILL)

    return run


# Each maps uint8[h, w, c] and a strength in [-1, 1] (its sign is random) to uint8[h, w, c].
OPERATIONS = {
    "identity": lambda image, strength: image,
    "autocontrast": _colour(lambda image, strength: colours.autocontrast(image)),
    "equalize": _colour(lambda image, strength: colours.equalize(image)),
    "rotate": lambda image, strength: warps.affine(
        image, warps.rotation(strength * (30 * jnp.pi / 180)), jnp.zeros(2), FILL
    ),
    "solarize": _colour(lambda image, strength: colours.solarize(image, jnp.round(256 * (1 - jnp.abs(strength))))),
    "color": _colour(lambda image, strength: colours.saturation(image, 1 + 0.9 * strength)),
    "posterize": _colour(lambda image, strength: colours.posterize(image, 8 - jnp.round(4 * jnp.abs(strength)))),
    "contrast": _colour(lambda image, strength: colours.contrast(image, 1 + 0.9 * strength)),
    "brightness": _colour(lambda image, strength: colours.brightness(image, 1 + 0.9 * strength)),
    "sharpness": _colour(lambda image, strength: colours.sharpness(image, 1 + 0.9 * strength)),
    "shear_x": _shear(0.0, 1.0),
    "shear_y": _shear(1.0, 0.0),
    "translate_x": _translate(0.0, 1.0),
    "translate_y": _translate(1.0, 0.0),
}


def randaugment(key, image, operations, magnitude):
    """One image uint8[h, w, c] after `operations` random ones of OPERATIONS, each of `magnitude` (0 to 10), one after another."""
    choice_key, sign_key = jax.random.split(key)
    choices = jax.random.randint(choice_key, (operations,), 0, len(OPERATIONS))
    signs = jax.random.rademacher(sign_key, (operations,), jnp.float32)

    def one(image, drawn):
        choice, sign = drawn
        return jax.lax.switch(choice, tuple(OPERATIONS.values()), image, sign * magnitude / MOST), None

    return jax.lax.scan(one, image, (choices, signs))[0]
