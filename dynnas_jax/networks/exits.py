"""Nets of several exits: a trunk in segments, each with a prediction at its end, that go on from what the one before left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from dynnas_jax.elastic import Block, image_struct
from dynnas_jax.networks.chains import ChainNet, counted


class Segment(NamedTuple):
    """The blocks from one exit to the next, and the exit behind them: it reads their carry and leaves it as it is."""

    blocks: tuple[Block, ...]
    exit: Block


def whole_chain(segments: Sequence[Segment]) -> tuple[Block, ...]:
    """The blocks of all segments and, behind those of each, its exit, past which the carry goes on."""
    found: list[Block] = []
    for blocks, end in segments:
        found += [*blocks, end._replace(leaves=unchanged)]
    return tuple(found)


def unchanged(carry: Any, logits: jax.Array) -> Any:
    """The carry behind an exit: that in front of it."""
    return carry


class ExitNet(ChainNet):
    """A net of S exits, from an arch with `segments(numerics)`: images uint8[b, h, w, c] -> (logits[b, classes], endpoints).

    The logits are those of the last exit; the endpoints hold those of every exit under its name.
    """

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """The trunk and its exits as this net computes them."""
        return self.arch.segments(self.numerics)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        endpoints, carry = {}, images
        for segment in self.segments():
            for block in segment.blocks:
                given = endpoints[block.name] = block.module(block.read(carry), train)
                carry = block.behind(carry, given)
            logits = endpoints[segment.exit.name] = segment.exit.module(segment.exit.read(carry), train)
        return logits, endpoints


class ExitCosts(NamedTuple):
    """Of every exit, all spent up to its answer, the heads of the exits before it too."""

    macs: tuple[int, ...]  # for one image
    params: tuple[int, ...]


def run(block: Block, variables: dict, carry: Any) -> Any:
    """What the module of one block of a net makes of a carry in evaluation, from the whole net's variables."""
    own = {collection: tree[block.name] for collection, tree in variables.items() if block.name in tree}
    return block.module.clone(name=None, parent=None).apply(own, block.read(carry))


def run_segment(segment: Segment, variables: dict, carry: Any) -> tuple[jax.Array, Any]:
    """(logits[b, classes], what the next segment goes on from), from the images or what the segment before left."""
    for block in segment.blocks:
        carry = block.behind(carry, run(block, variables, carry))
    return run(segment.exit, variables, carry), carry


def costs(net: ExitNet) -> ExitCosts:
    """MACs and params up to each exit, by abstract evaluation."""
    carry, spent, held, found = image_struct(net.arch), 0, 0, []
    for segment in net.clone(depthwise="conv").segments():
        trunk = counted(segment.blocks, carry)
        head = counted((segment.exit,), trunk.carry)
        spent, held, carry = spent + trunk.macs + head.macs, held + trunk.params + head.params, trunk.carry
        found.append((spent, held))
    return ExitCosts(*zip(*found, strict=True))
