"""A little and a big net behind one shared stem, each with its own blocks and head; or two nets that share nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.elastic import Supernet, image_struct

HEAD = "head"  # the last block of a net


class Pair(NamedTuple):
    """Two nets whose first blocks are the same. Their variables: {"little": variables, "big": variables}."""

    little: nn.Module
    big: nn.Module
    stem: tuple[str, ...]  # names of the shared blocks; () for two nets that read the image each


class PairCost(NamedTuple):
    """MACs for one image."""

    stem: int
    little: int  # stem included
    big: int  # stem included
    cumulative: tuple[int, int]  # all MACs spent when little, when big answers: the stem is counted once


def build(supernet: Supernet, little: np.ndarray, big: np.ndarray) -> Pair:
    """The pair of two genomes."""
    nets = (supernet.net(supernet.arch(supernet.space.check(genome))) for genome in (little, big))
    return Pair(*nets, shared_stem(supernet))


def shared_stem(supernet: Supernet) -> tuple[str, ...]:
    """The names of the fixed blocks that stand in front of every choice of the space: two of its nets share them."""
    blocks = supernet.blocks(supernet.arch(supernet.space.largest))
    fixed = next(i for i, block in enumerate(blocks) if block.genes or block.depth)
    return tuple(block.name for block in blocks[:fixed])


def _run(net: nn.Module, variables: dict, carry: Any, wanted: Callable[[str], bool]) -> Any:
    """The blocks of a net's chain whose names are wanted, in order."""
    for block in net.chain():
        if wanted(block.name):
            own = {collection: tree[block.name] for collection, tree in variables.items() if block.name in tree}
            with jax.named_scope(block.name):
                carry = block.module.clone(name=None, parent=None).apply(own, carry)
    return carry


def run_stem(pair: Pair, variables: dict, images: jax.Array) -> jax.Array:
    """images[b, h, w, c] in [0, 255] -> what both nets read."""
    return _run(pair.little, variables["little"], images, lambda name: name in pair.stem)


def before_head(pair: Pair, which: str, variables: dict, stem: jax.Array) -> jax.Array:
    """What the head of the "little" or the "big" net reads, [b, h, w, c], from the stem's output."""
    return _run(getattr(pair, which), variables[which], stem, lambda name: name not in (*pair.stem, HEAD))


def head(pair: Pair, which: str, variables: dict, features: jax.Array) -> jax.Array:
    """Logits[b, classes] of a net from what its head reads."""
    return _run(getattr(pair, which), variables[which], features, lambda name: name == HEAD)


def after_stem(pair: Pair, which: str, variables: dict, stem: jax.Array) -> jax.Array:
    """Logits[b, classes] of the "little" or the "big" net from the stem's output."""
    return head(pair, which, variables, before_head(pair, which, variables, stem))


def in_form(pair: Pair, depthwise: str) -> Pair:
    """The same pair computing its convolutions in another form."""
    return pair._replace(little=pair.little.clone(depthwise=depthwise), big=pair.big.clone(depthwise=depthwise))


def shapes(pair: Pair) -> tuple[dict, jax.ShapeDtypeStruct]:
    """Those of the pair's variables and of one image."""
    image = image_struct(pair.little.arch)
    nets = {"little": pair.little, "big": pair.big}
    return {which: jax.eval_shape(net.init, jax.random.key(0), image) for which, net in nets.items()}, image


def cost(pair: Pair) -> PairCost:
    """The MACs of the pair and of its parts, by abstract evaluation."""
    pair = in_form(pair, "conv")
    variables, image = shapes(pair)
    stem = jax.eval_shape(functools.partial(run_stem, pair), variables, image)
    in_stem = macs.macs(functools.partial(run_stem, pair), variables, image)
    little, big = (
        macs.macs(functools.partial(after_stem, pair, which), variables, stem) for which in ("little", "big")
    )
    return PairCost(in_stem, in_stem + little, in_stem + big, (in_stem + little, in_stem + little + big))


def params(pair: Pair, variables: dict) -> int:
    """Params of both nets, the shared stem counted once."""
    own = {name: tree for name, tree in variables["big"]["params"].items() if name not in pair.stem}
    return macs.params(variables["little"]) + macs.params({"params": own})
