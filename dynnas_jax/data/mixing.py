"""Mixing pairs of images and their labels inside jit: mixup and CutMix."""

import jax
import jax.numpy as jnp
import numpy as np

_QUANTILES = 4096


def rule(*, mixup=0.0, cutmix=0.0, probability=1.0):
    """A mixing `mix(key, images, labels) -> (images, targets)` within a batch.

    Every image has a partner, the first the last and so on, and draws its own share and box. Where both kinds are given, each
    image takes either with probability 1/2. (Batches are drawn at random already; and of a batch split over devices only the
    parts that lie opposite are exchanged, where a random permutation would gather it whole on each.)

    Args:
      mixup: alpha; the image's share is drawn from Beta(alpha, alpha) and the pixels are averaged by it, rounded (Zhang et
        al. 2017, https://arxiv.org/abs/1710.09412). 0: none.
      cutmix: alpha; a box of the partner, its centre uniform, its sides sqrt(1 - share) of the image's before they are cut
        off at the borders, replaces the image's own (Yun et al. 2019, https://arxiv.org/abs/1905.04899). 0: none.
      probability: that an image is mixed at all.

    Returns:
      mix(key, images uint8[b, h, w, c], labels float32[b, C], one-hot or soft) -> (uint8[b, h, w, c], float32[b, C]); the
      targets weight both labels by their shares, for a box by the pixels in it.

    Raises:
      ValueError: a negative alpha, none at all, or a probability outside 0 to 1.
    """
    for name, value in (("mixup", mixup), ("cutmix", cutmix)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value!r} in data.mixing.rule: give a number of at least 0, 0 for none")
    if not mixup and not cutmix:
        raise ValueError("mixup=0 and cutmix=0 in data.mixing.rule: give one of them, or leave the mixing out")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability!r} in data.mixing.rule: must lie in 0 to 1")

    draws = {alpha: _beta(alpha) for alpha in (mixup, cutmix) if alpha}
    boxed_part = 0.5 if mixup and cutmix else float(cutmix > 0)

    def mix(key, images, labels):
        batch, height, width, _ = images.shape
        share_key, box_key, kind_key, use_key = jax.random.split(key, 4)
        boxed = jax.random.bernoulli(kind_key, boxed_part, (batch,))
        quantile = jax.random.uniform(share_key, (batch,))
        # The share of the image itself, float32[b].
        share = jnp.where(boxed, draws[cutmix or mixup](quantile), draws[mixup or cutmix](quantile))
        share = jnp.where(jax.random.bernoulli(use_key, float(probability), (batch,)), share, 1.0)
        own = jnp.broadcast_to(share[:, None, None], (batch, height, width))
        if cutmix:
            own = jnp.where(boxed[:, None, None], _outside_boxes(box_key, share, height, width), own)
            share = jnp.where(boxed, own.mean(axis=(1, 2)), share)
        own = own[..., None]
        mixed = own * images.astype(jnp.float32) + (1 - own) * images[::-1].astype(jnp.float32)
        weight = share[:, None]
        return jnp.round(mixed).astype(images.dtype), weight * labels + (1 - weight) * labels[::-1]

    return mix


def _beta(alpha):
    """quantile[...] -> the value of Beta(alpha, alpha) there, by a table: JAX's own draws take 5 s to compile."""
    from scipy import special  # here, since only mixing needs it

    places = np.linspace(0, 1, _QUANTILES + 1)
    values = special.betaincinv(alpha, alpha, places).astype(np.float32)
    return lambda quantile: jnp.interp(quantile, places.astype(np.float32), values)


def _outside_boxes(key, share, height, width):
    """float32[b, h, w], 0 in a random box of each image, 1 outside."""
    row, column = jax.random.uniform(key, (2, len(share)))

    def inside(length, centre):
        middle = jnp.floor(centre * length)
        side = jnp.floor(length * jnp.sqrt(1 - share))
        place = jnp.arange(length, dtype=jnp.float32)[None]
        first = middle - jnp.floor(side / 2)
        return (place >= first[:, None]) & (place < (first + side)[:, None])

    box = inside(height, row)[:, :, None] & inside(width, column)[:, None, :]
    return 1 - box.astype(jnp.float32)
