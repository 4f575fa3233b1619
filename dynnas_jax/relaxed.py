"""Relaxed genomes: chances in the place of choices, so that a loss has a gradient in what is searched.

A relaxed genome is float[genes, most choices]: row g has the chance of every choice of gene g, zeros behind its last one.
The genes are drawn independently. Where all chances are 0 or 1 it is a genome (`one_hot`), and all here equals what is known
of that genome: the masks compute its subnet, the cost is its cost. In between both are multilinear in the genes' rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dynnas_jax import kernel_transforms
from dynnas_jax.elastic import Position, Supernet
from dynnas_jax.masking import LeafMask, identity_kernel, mask_plan
from dynnas_jax.pair_space import Halves, PairSpace
from dynnas_jax.search_space import SearchSpace

# Modules of an inverted residual whose channels are masked further on: at the norm behind the depthwise convolution.
MASKED_LATER = ("expand_norm", "expand_conv")
LAST_NORM = "project_norm"  # the one that a skipped block is gated at


class Fitness(NamedTuple):
    """How good relaxed genomes are, by weights that learn meanwhile.

    `given` and the state are pytrees of arrays. They are arguments of the compiled program: arrays that the functions close
    over would be constants in it.
    """

    value: (
        Callable  # (given, state, genome, key) -> (float32[], more is better; what a cost asks for beside the genome)
    )
    learn: Callable | None = None  # (given, state, genome, key) -> state after an update of the weights
    given: Any = ()  # what no update changes, such as images
    start: Any = ()  # the state before the first update
    images: tuple[int, int] = (0, 0)  # forwarded by one `value`, by one `learn`


def allowed(space: SearchSpace | PairSpace, held: dict[str, int] | None = None) -> np.ndarray:
    """bool[genes, most choices]: the choices that a gene has, of those `held` the given index alone.

    Args:
      held: gene name -> index; of a space of pairs the name in either net, for both.

    Raises:
      ValueError: for an unknown gene, an index out of range, or a resolution that is not held: masks cannot relax it.
    """
    held, pairs = dict(held or {}), isinstance(space, PairSpace)
    found = np.arange(max(space.sizes)) < np.asarray(space.sizes)[:, None]
    for i, gene in enumerate(space.genes):
        own = gene.name.partition(".")[2] if pairs else gene.name
        if own == "resolution" and own not in held:
            raise ValueError(f"{gene.name} cannot be relaxed by masks; hold it at one choice")
        if own in held:
            if not 0 <= held[own] < len(gene.choices):
                raise ValueError(f"held: {own} is {held[own]}, out of range 0 to {len(gene.choices) - 1}")
            found[i] = np.arange(found.shape[1]) == held[own]
    known = {gene.name for gene in (space.space if pairs else space).genes}
    if unknown := sorted(set(held) - known):
        raise ValueError(f"held: no gene {unknown[0]!r} in this space")
    return found


def chances(
    space: SearchSpace | PairSpace,
    logits: jax.Array,
    choices: np.ndarray,
    temperature: jax.Array | float,
    key: jax.Array | None = None,
) -> jax.Array:
    """The relaxed genome of logits float[genes, most choices]: softmax(logits / temperature) over the allowed choices.

    With a key Gumbel noise is added to the logits (Jang et al. 2017, arXiv 1611.01144, equation 2). Of a pair, the first half
    of the logits is about little within big: little's choice is the lesser of its own and big's, drawn independently, so that
    little is no larger than big, in every gene and in every mask.

    Args:
      choices: as `allowed` makes them.
    """
    if key is not None:
        logits = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
    scaled = logits / jnp.asarray(temperature, logits.dtype)
    genome = jax.nn.softmax(jnp.where(jnp.asarray(choices), scaled, -jnp.inf), axis=-1)
    if not isinstance(space, PairSpace):
        return genome
    own, big = halves(genome)
    return jnp.concatenate([_lesser(own, big), big])


def _lesser(first: jax.Array, second: jax.Array) -> jax.Array:
    """Chances of the lesser of two independent choices: P(k) = P1(k) P2(>= k) + P1(> k) P2(k)."""
    from_first, from_second = (jnp.cumsum(half[:, ::-1], axis=-1)[:, ::-1] for half in (first, second))
    above_first = jnp.pad(from_first[:, 1:], ((0, 0), (0, 1)))
    return first * from_second + above_first * second


def halves(genome: jax.Array) -> Halves:
    """Little's and big's half of a relaxed pair, or of its logits."""
    return Halves(*jnp.split(genome, 2))


def one_hot(space: SearchSpace | PairSpace, genome: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """The relaxed genome that is the genome int32[genes]."""
    return jax.nn.one_hot(genome, max(space.sizes), dtype=dtype)


def read_off(space: SearchSpace | PairSpace, logits: jax.Array, choices: np.ndarray) -> jax.Array:
    """int32[genes]: the likeliest choice of every gene; of a pair, little's own or big's where that is less."""
    genome = jnp.where(jnp.asarray(choices), logits, -jnp.inf).argmax(axis=-1).astype(jnp.int32)
    if not isinstance(space, PairSpace):
        return genome
    little, big = space.halves(genome)
    return space.ordered(jnp.concatenate([jnp.minimum(little, big), big]))


def joint(position: Position, genome: jax.Array) -> jax.Array:
    """float[joint choices]: the chance of each joint choice of a position's genes, in the order of its tables."""
    found = jnp.ones((1,), genome.dtype)
    for gene, size in zip(position.genes, position.sizes, strict=True):
        found = (found[:, None] * genome[gene, None, :size]).reshape(-1)
    return found


def kept_chances(position: Position, kept: np.ndarray, genome: jax.Array) -> jax.Array:
    """float[channels]: the chance that each is there, of what every joint choice keeps, bool[joint choices, channels]."""
    return _weighted(joint(position, genome), kept)


def exists(position: Position, genome: jax.Array) -> jax.Array:
    """float[]: the chance that a position is not skipped."""
    if position.depth is None:
        return jnp.ones((), genome.dtype)
    gene, least = position.depth
    return genome[gene, least:].sum()


def expected_cost(table: Any, genome: jax.Array) -> jax.Array:
    """float[]: the mean cost of the genomes that a relaxed one draws, by a `costs.macs.CostTable` of one net's space."""
    total = jnp.asarray(table.overhead, genome.dtype)
    for position, costs in table.rows:
        mean = _weighted(joint(position, genome), np.asarray(costs))
        total = total + exists(position, genome) * mean
    return total


def _weighted(weights: jax.Array, values: jax.Array | np.ndarray) -> jax.Array:
    """The sum of values[n, ...] by weights[n]."""
    return jnp.tensordot(weights, jnp.asarray(values, weights.dtype), axes=1, precision="highest")


def mask_variables(supernet: Supernet, variables: dict, genome: jax.Array) -> dict:
    """Variables with which the *largest* net computes a relaxed subnet, as `masking.mask_variables` a genome's.

    A channel is scaled by the chance that it is kept, a skippable residual block by the chance that it is there, the rings of
    a depthwise kernel by the chance that they are used; learned kernels of several sizes are mixed. Two norms on one path
    would count a chance twice: hidden channels are scaled at the norm behind the depthwise convolution only, and a block as a
    whole at its last norm. (In training a norm divides out what scales its input's channels one by one.)

    Raises:
      ValueError: for a block that can be skipped and has no last norm, or nets whose parts share leaves.
    """
    if supernet.spread is not None:
        raise ValueError("nets of several exits, whose blocks share their leaves, cannot be relaxed")
    transforms = variables["params"].get(kernel_transforms.PLACE, {})
    params = traverse_util.flatten_dict(variables["params"])
    for position, masks in mask_plan(supernet):
        if position.depth and not any(LAST_NORM in mask.path for mask in masks):
            raise ValueError(f"{position.name} can be skipped, but has no {LAST_NORM}: it cannot be relaxed")
        weights, present = joint(position, genome), exists(position, genome)
        for mask in masks:
            key, module = (position.name, *mask.path[1:]), mask.path[-2]
            if module in MASKED_LATER:
                continue
            if mask.rule == "ring" and position.name in transforms:
                params[key] = _mixed(params[key], mask.lengths, weights, transforms[position.name])
            else:
                gate = present if module == LAST_NORM else None
                params[key] = _scaled(params[key], mask, weights, gate)
    return {**variables, "params": traverse_util.unflatten_dict(params)}


def _scaled(leaf: jax.Array, mask: LeafMask, weights: jax.Array, gate: jax.Array | None) -> jax.Array:
    """A leaf, each entry by the chance that it is used; a convolution that may be left out becomes the identity as likely."""
    kept = _weighted(weights, _used(mask, leaf.shape))
    scaled = leaf * (kept if gate is None else gate * kept).astype(leaf.dtype)
    absent = mask.lengths == 0
    if absent.any():
        scaled = scaled + _weighted(weights, absent).astype(leaf.dtype) * identity_kernel(leaf)
    return scaled


def _used(mask: LeafMask, shape: tuple[int, ...]) -> np.ndarray:
    """bool[joint choices, ...], of a leaf's rank behind the first axis: what of it the subnets use."""
    lengths = mask.lengths[:, None]
    if mask.rule == "channels":
        return (np.arange(shape[-1]) < lengths).reshape(-1, *(1,) * (len(shape) - 1), shape[-1])
    side, edge = np.arange(shape[0]), (shape[0] - lengths) // 2
    inside = (side >= edge) & (side < edge + lengths)
    return (inside[:, :, None] & inside[:, None, :])[..., None, None]


def _mixed(kernel: jax.Array, lengths: np.ndarray, weights: jax.Array, matrices: dict) -> jax.Array:
    """The candidate kernels of all sizes, each by its chance."""
    sides = np.unique(lengths)
    shares = _weighted(weights, lengths[:, None] == sides)
    return _weighted(shares.astype(kernel.dtype), kernel_transforms.candidates(kernel, sides.tolist(), matrices))
