"""A page of sample images under each augmentation, for the eye."""

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.data import augment, mixing, randaugment
from dynnas_jax.reports import plots

OFF = {"pad": 0, "flip": False}
GAP = 2  # white pixels between images
STRIP, LABEL, SPACE = 5.6, 1.5, 0.08  # inches: width of a row of images, of its name, and what lies between rows


def page(images, rule=None, mix=None, *, seed=0):
    """A figure with a row of samples for each augmentation alone, the originals first and the two given last.

    Args:
      images: uint8[n, h, w, c], 1 or 3 channels.
      rule: `rule(key, images)`, such as that of a config; shown with `mix` as what training sees.
      mix: `mix(key, images, labels)`, the same.
    """
    rows = {"original": images, **_alone(images, jax.random.key(seed))}
    key = jax.random.key(seed + 1)
    if rule is not None:
        rows["data.augment"] = images = np.asarray(rule(key, images))
    if mix is not None:
        rows["and train.mixing"] = _mixed(mix, key, images)
    return _figure({name: _strip(row) for name, row in rows.items()})


def _alone(images, key):
    """Row name -> uint8[n, h, w, c]: each augmentation with values a recipe would take, or nearly."""
    side = min(images.shape[1:3])
    rules = {
        "pad": {"pad": max(side // 8, 1), "flip": False},
        "flip": {"pad": 0},
        "cutout": {**OFF, "cutout": side // 2},
        "rotate, zoom, shift": {**OFF, "rotate": 20.0, "zoom": 0.2, "shift": side / 16},
        "crop_scale (0.1, 1)": {**OFF, "crop_scale": (0.1, 1.0)},
        "brightness 0.5": {**OFF, "brightness": 0.5},
        "contrast 0.5": {**OFF, "contrast": 0.5},
        "saturation 0.9": {**OFF, "saturation": 0.9},
        "hue 0.5": {**OFF, "hue": 0.5},
        "operations 2": {**OFF, "operations": 2},
    }
    rows = {name: np.asarray(augment.rule(**options)(key, images)) for name, options in rules.items()}
    rows["mixup 1"] = _mixed(mixing.rule(mixup=1.0), key, images)
    rows["cutmix 1"] = _mixed(mixing.rule(cutmix=1.0), key, images)
    strength = np.float32(9.0 / randaugment.MOST)
    for name, operation in list(randaugment.OPERATIONS.items())[1:]:  # without the identity
        # The two signs take turns.
        signs = strength * (1 - 2 * (jnp.arange(len(images)) % 2)).astype(jnp.float32)
        rows[f"{name} 9"] = np.asarray(jax.jit(jax.vmap(operation))(images, signs))
    return rows


def _mixed(mix, key, images):
    return np.asarray(mix(key, images, jnp.eye(len(images)))[0])


def _strip(images):
    """uint8[h, n * (w + GAP), 3]: the images side by side."""
    colours = np.broadcast_to(images, (*images.shape[:3], 3))
    padded = np.pad(colours, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)


@plots.styled
def _figure(strips):
    from matplotlib.figure import Figure

    names, lines = list(strips), -(-len(strips) // 2)
    height, width, _ = strips["original"].shape
    row = STRIP * height / width + SPACE
    page_height, page_width = lines * row + SPACE, 2 * (LABEL + STRIP + SPACE)
    figure = Figure(figsize=(page_width, page_height))
    for place, name in enumerate(names):  # down the left column, then down the right
        column, line = divmod(place, lines)
        left, bottom = LABEL + column * (LABEL + STRIP + SPACE), page_height - (line + 1) * row
        box = (left / page_width, bottom / page_height, STRIP / page_width, (row - SPACE) / page_height)
        axes = figure.add_axes(box)
        axes.set_axis_off()
        axes.imshow(strips[name], interpolation="nearest")
        axes.text(-0.02, 0.5, name, transform=axes.transAxes, ha="right", va="center")
    return figure
