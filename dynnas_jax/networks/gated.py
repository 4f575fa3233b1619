"""Running a dynamic slimmable network: any path of it as a net, and whole batches masked, every image at the width of its own.

Variables of such a network have a third part beside params and running statistics: `PATHS`, the statistics of every path where
it has batch norm, each leaf [paths, ...] of the widest net's shapes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dynnas_jax import relaxed, relaxed_reads
from dynnas_jax.elastic import Supernet, slice_block, traced_blocks
from dynnas_jax.networks import gate

PATHS = "paths"


class Ran(NamedTuple):
    """What a batch came to, every image at the width that its gates picked."""

    logits: jax.Array  # [b, classes]
    scores: tuple[jax.Array, ...]  # of each gate, float32[b, choices]
    genome: jax.Array  # float32[b, genes, most choices]: one-hot, with the gradient of the chances


def _net(supernet: Supernet, genome: Any) -> nn.Module:
    return supernet.net(supernet.arch(np.asarray(genome, np.int32)))


def with_statistics(variables: dict, path: Any) -> dict:
    """The variables with the running statistics of one path; themselves where it has none."""
    stats = variables.get(PATHS)
    plain = {name: leaves for name, leaves in variables.items() if name != PATHS}
    return {**plain, "batch_stats": jax.tree.map(lambda leaf: leaf[path], stats)} if stats else plain


def masked(supernet: Supernet, variables: dict, images: jax.Array, keys: jax.Array | None, temperature: float) -> Ran:
    """The images uint8[b, h, w, c], each on the widest net with the channels that its layers read masked to its own width.

    Args:
      keys: key[b], of the Gumbel noise that is added to the scores; None for none, which takes the highest score.
      temperature: of the chances, whose gradient the choices have (straight through; Jang et al. 2017, arXiv 1611.01144).
    """

    def one(image: jax.Array, key: jax.Array | None) -> Ran:
        return _masked_one(supernet, variables, image, key, temperature)

    found = jax.vmap(one, in_axes=(0, None if keys is None else 0))(images, keys)
    return Ran(found.logits[:, 0], tuple(score[:, 0] for score in found.scores), found.genome)


def _masked_one(
    supernet: Supernet, variables: dict, image: jax.Array, key: jax.Array | None, temperature: float
) -> Ran:
    chain = {block.name: block.module.clone(name=None, parent=None) for block in supernet.largest_net().chain()}
    genome, carry, scores = relaxed.one_hot(supernet.space, jnp.asarray(supernet.space.largest)), image[None], []
    for segment in supernet.arch.segments:
        if segment.gate:
            first = segment.blocks[0]
            with relaxed_reads.scaled(supernet, genome, (first, gate.NAME)):
                told = gate.scores(segment.gate, variables["params"][first][gate.NAME], carry)
            own_key = None if key is None else jax.random.fold_in(key, segment.gene)
            picked = straight_through(told[0], own_key, temperature)
            missing = genome.shape[1] - len(picked)
            genome = genome.at[segment.gene].set(jnp.pad(picked, (0, missing)))
            scores.append(told)
        # Blocks in front of a gate have the same statistics whatever it picks.
        own = with_statistics(variables, genome[0].argmax() if segment.gate else 0)
        for name in segment.blocks:
            leaves = {part: own[part][name] for part in ("params", "batch_stats") if name in own[part]}
            with relaxed_reads.scaled(supernet, genome, (name,)):
                carry = chain[name].apply(leaves, carry, False)
    return Ran(carry, tuple(scores), genome)


def straight_through(scores: jax.Array, key: jax.Array | None, temperature: float) -> jax.Array:
    """float32[choices]: one-hot of the highest score, with Gumbel noise where there is a key; its gradient is the softmax's."""
    if key is not None:
        scores = scores + jax.random.gumbel(key, scores.shape, scores.dtype)
    soft = jax.nn.softmax(scores / temperature)
    hard = jax.nn.one_hot(scores.argmax(), len(scores), dtype=soft.dtype)
    return hard + soft - jax.lax.stop_gradient(soft)


def path(supernet: Supernet, variables: dict, genome: np.ndarray) -> tuple[nn.Module, dict]:
    """An ordinary net of one path and its own variables."""
    arch = supernet.arch(supernet.space.check(genome))
    own = with_statistics(variables, int(genome[0]))
    cut: dict = {"params": {}, "batch_stats": {}}
    for name, (_, traced) in traced_blocks(supernet, arch).items():
        for collection, leaves in slice_block(own, name, traced.variables).items():
            cut[collection][name] = leaves
    return supernet.net(arch), cut


def has_batch_norm(variables: dict) -> bool:
    """Whether there are running statistics, which every path needs of its own."""
    return bool(traverse_util.flatten_dict(variables.get("batch_stats", {})))
