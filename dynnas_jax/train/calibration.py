"""Batch-norm statistics of any subnet, summed explicitly over calibration images."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynnas_jax.data.resize import resized
from dynnas_jax.elastic import Supernet, extract


def batches(images: jax.Array, batch_size: int) -> jax.Array:
    """[n, ...] -> [n // batch_size, batch_size, ...]; what does not fill a batch is left out.

    Raises:
      ValueError: if there is not one full batch.
    """
    count = len(images) // batch_size
    if not count:
        raise ValueError(f"calibration: {len(images)} images do not fill one batch of {batch_size}")
    return images[: count * batch_size].reshape(count, batch_size, *images.shape[1:])


def recalibrate(net: nn.Module, variables: dict, images: jax.Array) -> dict:
    """The variables with statistics of `images` uint8[batches, b, h, w, c], every batch weighing the same.

    The pooled variance is E[var] + Var[mean] over the batches. Jit- and vmap-able over the variables.
    """
    # Without momentum the updated running statistics are the moments of the batch.
    net = net.clone(momentum=0.0)

    def moments(sums, batch):
        _, updated = net.apply(variables, batch, True, mutable=["batch_stats"])
        stats = updated.get("batch_stats", {})
        squares = jax.tree.map(jnp.square, stats)
        return jax.tree.map(jnp.add, sums, (stats, squares)), None

    zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    sums, _ = jax.lax.scan(moments, (zeros, zeros), images)
    stats, squares = jax.tree.map(lambda leaf: leaf / len(images), sums)

    def pool(path, leaf):
        if path[-1].key != "var":
            return leaf
        mean, square = (_at(tree, path[:-1])["mean"] for tree in (stats, squares))
        return leaf + square - jnp.square(mean)

    return {**variables, "batch_stats": jax.tree_util.tree_map_with_path(pool, stats)}


def _at(tree: dict, path: tuple) -> dict:
    for entry in path:
        tree = tree[entry.key]
    return tree


def extract_calibrated(supernet: Supernet, variables: dict, genome, images: jax.Array) -> tuple[nn.Module, dict]:
    """`elastic.extract`, with the subnet's own statistics of `images` uint8[batches, b, h, w, c] at its resolution."""
    net, own = extract(supernet, variables, genome)
    side = supernet.arch(genome).resolution
    return net, jax.jit(lambda v, x: recalibrate(net, v, resized(x, side)))(own, images)
