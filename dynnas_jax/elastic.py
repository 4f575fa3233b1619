"""Everything elastic is a pure function on the variables of the largest net.

A net is a chain of named blocks. For each block this file learns, by tracing it once for every joint choice of the
genes that size it, how long every axis of every leaf is. Slicing crops to those lengths; `masking` zeroes what slicing
would cut away, so that the largest net computes the subnet (DESIGN: "there are no dynamic layers").
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dynnas_jax import kernel_transforms
from dynnas_jax.search_space import SearchSpace

DROP_PATH = "drop_path"  # the key that nets drop paths with in training; without it none is dropped


class Part(NamedTuple):
    """A module of a block whose leaves are windows in the supernet: of those of another block, or of larger ones of its own."""

    path: tuple[str, ...]  # of the module, inside either block
    home: str  # the block whose leaves they are
    start: int = 0  # where the windows begin along `axis`; along the others as those of any leaf
    axis: int = -1
    channels: tuple[str, ...] = ()  # of leaves of its own: (block, *module) whose last axis is of the same channels


class Block(NamedTuple):
    """One link of a net's chain: maps a carry to the next carry."""

    name: str  # its key in the variables
    module: nn.Module  # called as module(carry, train), or with what it reads of the carry
    genes: tuple[str, ...] = ()  # the genes that size it
    depth: tuple[str, int] | None = None  # (depth gene, index): present only where the gene's index is at least this
    reads: Callable[[Any], Any] | None = None  # carry -> what the module is called with, where that is not all of it
    leaves: Callable[[Any, Any], Any] | None = None  # (carry, what the module gave) -> the next, where that is not it
    parts: tuple[Part, ...] = ()

    def read(self, carry: Any) -> Any:
        """What the module is called with."""
        return carry if self.reads is None else self.reads(carry)

    def behind(self, carry: Any, given: Any) -> Any:
        """The next carry, from the one in front and what the module gave."""
        return given if self.leaves is None else self.leaves(carry, given)


class Coupling(NamedTuple):
    """What a supernet of coupled little and big subnets has beside its largest net."""

    add: Callable[[dict, dict, jax.Array], dict]  # (fresh variables, others of the same net, key) -> with what it adds
    as_little: Callable[[dict], dict]  # variables -> the same with little's head in place of big's
    # (variables, endpoint before little's head) -> logits[b], above 0 where little shall answer
    route: Callable[[dict, jax.Array], jax.Array]
    alike: tuple  # ((path, axis), (path, axis)): channels of a leaf of its own, and those of the net that they are


class Supernet(NamedTuple):
    """A space and the nets of its archs; the variables, those of the largest, travel beside it."""

    space: SearchSpace
    arch: Callable[[np.ndarray], Any]  # genome -> arch (hashable), on the host
    net: Callable[[Any], nn.Module]  # arch -> module
    blocks: Callable[[Any], tuple[Block, ...]]  # arch -> chain
    whole: Any = None  # the largest arch with the leaves that it lacks and some subnet has; None where it lacks none
    transforms: bool = False  # whether smaller kernels are learned transforms of larger ones, or their centres
    coupling: Coupling | None = None  # where little and big subnets are trained as pairs
    spread: Any = None  # where blocks have `parts`: the arch in which each has all its leaves, for masked variables
    exits: tuple[str, ...] = ()  # the endpoints of a net that are answers, in order, where there are several

    def answers(self, applied: tuple[jax.Array, dict[str, Any]]) -> tuple[jax.Array, ...]:
        """The logits[b, classes] of every exit, of what a net gave (logits, endpoints); one where there are no exits."""
        logits, endpoints = applied
        return tuple(endpoints[name] for name in self.exits) if self.exits else (logits,)

    def largest_net(self) -> nn.Module:
        """The net whose variables the supernet's are; with `whole`, it is the largest subnet only on masked variables."""
        return self.net(self.whole or self.arch(self.space.largest))

    def masked_net(self) -> nn.Module:
        """The net that computes any subnet on masked variables."""
        return self.net(self.spread) if self.spread else self.largest_net()


class Traced(NamedTuple):
    """What one trace of a block tells."""

    output: Any  # shapes of the carry behind it
    variables: dict  # shapes of its {"params", "batch_stats"}
    jaxpr: Any  # of its forward pass and initialisation
    reads: Any  # the tree of what it reads, whose leaves are those of `jaxpr`


class Position(NamedTuple):
    """One place in the chain, over all joint choices of the genes that size it (C order, last gene fastest)."""

    name: str
    genes: tuple[int, ...]  # indices in the space
    sizes: tuple[int, ...]  # choices of each
    depth: tuple[int, int] | None  # (index of the depth gene, smallest index at which the position exists)
    lengths: dict[tuple, np.ndarray]  # leaf path -> int32[joint choices, axes], zeros where there is no such leaf
    homes: Mapping[tuple, str] = MappingProxyType(
        {}
    )  # leaf path -> the block whose leaf of that path it is a window of, if not its own
    starts: Mapping[tuple, np.ndarray] = MappingProxyType(
        {}
    )  # of those, int32[joint choices]: the first channel, of the last axis
    channels: Mapping[tuple, tuple[str, ...]] = MappingProxyType({})  # of those, what `Part.channels` says, if anything


def init(net: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]) -> dict:
    """Fresh variables `{"params", "batch_stats"}` of a net for uint8 images of `image_shape` (height, width, channels)."""
    # A net without batch norm has no running statistics of its own accord.
    return {"batch_stats": {}, **jax.jit(net.init)(key, jnp.zeros((1, *image_shape), jnp.uint8))}


def init_supernet(supernet: Supernet, key: jax.Array, image_shape: tuple[int, int, int]) -> dict:
    """Fresh variables of a supernet: its largest net's, with kernel transforms (identities) and a coupling where it has them."""
    variables = init(supernet.largest_net(), key, image_shape)
    if supernet.transforms:
        transforms = kernel_transforms.identity(elastic_kernels(supernet))
        variables = {**variables, "params": {**variables["params"], kernel_transforms.PLACE: transforms}}
    if supernet.coupling:
        other_key, own_key = jax.random.split(jax.random.fold_in(key, 1))
        others = init(supernet.largest_net(), other_key, image_shape)
        variables = supernet.coupling.add(variables, others, own_key)
    return variables


def trace(block: Block, carry: Any) -> Traced:
    """The block's output, variables and jaxpr for a carry of `jax.ShapeDtypeStruct`s; each distinct block is traced once."""
    leaves, treedef = jax.tree.flatten(block.read(carry))
    module = block.module.clone(name=None, parent=None)
    return _trace(module, treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves))


@functools.cache
def _trace(module: nn.Module, treedef: Any, leaves: tuple) -> Traced:
    carry = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    closed, (output, variables) = jax.make_jaxpr(
        lambda x: module.init_with_output(jax.random.key(0), x), return_shape=True
    )(carry)
    return Traced(output, variables, closed, treedef)


def walk(blocks: tuple[Block, ...], carry: Any) -> dict[str, Traced]:
    """Every block of a chain traced in order, from the images' `jax.ShapeDtypeStruct` on."""
    traced = {}
    for block in blocks:
        traced[block.name] = trace(block, carry)
        carry = block.behind(carry, traced[block.name].output)
    return traced


def image_struct(arch: Any, batch: int = 1) -> jax.ShapeDtypeStruct:
    """The uint8 images an arch reads."""
    return jax.ShapeDtypeStruct((batch, arch.resolution, arch.resolution, arch.channels), jnp.uint8)


def joint_choices(supernet: Supernet, genes: tuple[int, ...]) -> list[np.ndarray]:
    """The largest genome with every joint choice of `genes` put in, in C order."""
    genomes = []
    for choice in itertools.product(*(range(supernet.space.sizes[g]) for g in genes)):
        genome = supernet.space.largest
        genome[list(genes)] = choice
        genomes.append(supernet.space.lowered(genome))
    return genomes


@functools.lru_cache(maxsize=256)
def traced_blocks(supernet: Supernet, arch: Any) -> dict[str, tuple[Block, Traced]]:
    """Every block of an arch with what its trace tells, by name; many genomes of joint choices have the same arch."""
    blocks = supernet.blocks(arch)
    traced = walk(blocks, image_struct(arch))
    return {block.name: (block, traced[block.name]) for block in blocks}


@functools.lru_cache(maxsize=16)
def positions(supernet: Supernet) -> tuple[Position, ...]:
    """The axes of every leaf of every block, over the joint choices of the genes that size it.

    Built by abstract evaluation alone, once per supernet.
    """
    found = []
    for block in supernet.blocks(supernet.arch(supernet.space.largest)):
        genes = tuple(supernet.space.index(name) for name in block.genes)
        shapes, parts = [], []
        for genome in joint_choices(supernet, genes):
            own, traced = traced_blocks(supernet, supernet.arch(genome))[block.name]
            leaves = traverse_util.flatten_dict(traced.variables)
            shapes.append({path: leaf.shape for path, leaf in leaves.items()})
            parts.append({path: part for path in leaves if (part := _part(own.parts, path[1:]))})
        ranks = {path: len(shape) for choice in shapes for path, shape in choice.items()}
        lengths = {path: np.asarray([s.get(path, (0,) * n) for s in shapes], np.int32) for path, n in ranks.items()}
        depth = (supernet.space.index(block.depth[0]), block.depth[1]) if block.depth else None
        sizes = tuple(supernet.space.sizes[g] for g in genes)
        found.append(Position(block.name, genes, sizes, depth, lengths, *_windows(parts)))
    return tuple(found)


def _part(parts: tuple[Part, ...], path: tuple[str, ...]) -> Part | None:
    """The part that a leaf, by its path inside a block, belongs to."""
    return next((part for part in parts if path[:-1] == part.path), None)


def _windows(parts: list[dict[tuple, Part]]) -> tuple[dict[tuple, Any], ...]:
    """`homes`, `starts` and `channels` of a position, from the parts that the leaves of each joint choice belong to."""
    homes = {path: part.home for choice in parts for path, part in choice.items()}
    channels = {path: part.channels for choice in parts for path, part in choice.items() if part.channels}
    starts = {}
    for path in homes:
        known = (choice.get(path) for choice in parts)
        first = [part.start if part and part.axis == -1 else 0 for part in known]
        starts[path] = np.asarray(first, np.int32)
    return homes, starts, channels


def joint_index(position: Position, genome: jax.Array) -> jax.Array:
    """int32[]: where a genome's choices stand in the position's tables."""
    index = jnp.zeros((), jnp.int32)
    for gene, size in zip(position.genes, position.sizes, strict=True):
        index = index * size + genome[gene]
    return index


def leaf_rule(path: tuple[str, ...], lengths: dict[tuple[str, ...], np.ndarray]) -> str | None:
    """What masking does to a leaf: "channels" (last axis), "ring" (spatial axes of a kernel) or nothing.

    Channels are cut at the norms (a zeroed norm gives act(0) = 0), and at the output of a convolution with no norm behind
    it: `x_conv` has its norm, if it has one, beside it as `x_norm`. Other kernels stay as they are.
    """
    collection, *module, leaf = path
    table = lengths[path]
    varies = (table != table[:1]).any(axis=0)
    if collection != "params":
        return None
    norm = (collection, *module, "scale") in lengths
    if varies[-1] and (norm or not _norm_behind(path, lengths)):
        return "channels"
    if leaf == "kernel" and table.shape[1] == 4 and varies[:2].any():
        return "ring"
    return None


def _norm_behind(path: tuple[str, ...], lengths: dict[tuple[str, ...], np.ndarray]) -> bool:
    """Whether the convolution that a leaf belongs to is followed by a norm."""
    collection, *module, _ = path
    parent, name = module[:-1], module[-1]
    return (collection, *parent, name.removesuffix("conv") + "norm", "scale") in lengths


def elastic_kernels(supernet: Supernet) -> dict[str, tuple[int, ...]]:
    """The sides, ascending, of every block's depthwise kernel that has several."""
    return {
        position.name: tuple(np.unique(table[:, 0]).tolist())
        for position in positions(supernet)
        for path, table in position.lengths.items()
        if leaf_rule(path, position.lengths) == "ring" and position.homes.get(path, position.name) == position.name
    }


# Slicing.


def _crop(leaf: jax.Array, shape: tuple[int, ...], part: Part | None) -> jax.Array:
    """The centred window of a convolution's spatial axes, the leading part of every other axis, or where the part begins."""
    pairs = enumerate(zip(leaf.shape, shape, strict=True))
    starts = [(have - want) // 2 if leaf.ndim == 4 and axis < 2 else 0 for axis, (have, want) in pairs]
    if part:
        starts[part.axis] = part.start
    return leaf[tuple(slice(start, start + want) for start, want in zip(starts, shape, strict=True))]


def slice_variables(supernet: Supernet, variables: dict, arch: Any) -> dict:
    """The subnet's own variables, cut out of the supernet's: every leaf cropped, skipped blocks dropped.

    Raises:
      ValueError: if the arch is larger than the supernet somewhere.
    """
    cut: dict = {collection: {} for collection in variables}
    for name, (block, traced) in traced_blocks(supernet, arch).items():
        for collection, leaves in slice_block(variables, name, traced.variables, block.parts).items():
            cut[collection][name] = leaves
    return cut


def slice_block(variables: dict, name: str, shapes: dict, parts: tuple[Part, ...] = ()) -> dict:
    """One block's own variables, cut out of the supernet's to the `shapes` {"params", "batch_stats"} of a trace."""
    transforms, cut = variables["params"].get(kernel_transforms.PLACE, {}), {}
    for collection, wanted in shapes.items():
        own = {}
        for path, shape in traverse_util.flatten_dict(wanted).items():
            where, part = f"{name}/{'/'.join(path)} of the arch is", _part(parts, path)
            home = part.home if part else name
            source = traverse_util.flatten_dict(variables[collection].get(home, {}))
            if path not in source:
                raise ValueError(f"{where} a leaf the supernet does not have")
            leaf = source[path]
            if any(want > have for want, have in zip(shape.shape, leaf.shape, strict=True)):
                raise ValueError(f"{where} {shape.shape}, the supernet's is {leaf.shape}")
            if home in transforms and len(shape.shape) == 4 and shape.shape[0] < leaf.shape[0]:
                leaf = kernel_transforms.smaller(leaf, shape.shape[0], transforms[home])
            own[path] = _crop(leaf, shape.shape, part)
        cut[collection] = traverse_util.unflatten_dict(own)
    return cut


def extract(supernet: Supernet, variables: dict, genome: np.ndarray) -> tuple[nn.Module, dict]:
    """An ordinary module and its own variables for one genome."""
    arch = supernet.arch(supernet.space.check(genome))
    return supernet.net(arch), slice_variables(supernet, variables, arch)
