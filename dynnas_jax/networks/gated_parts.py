"""A dynamic slimmable network in parts: what runs between two gates, at every width that they can pick.

A part reads what the one before it left, at the width that left it, and gives the scores of the gate behind it. The filters it
uses are the leading ones of the widest net's: sliced as it runs, or once for all parts, by `cut`, where the variables stay.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from flax import traverse_util

from dynnas_jax.elastic import Supernet, slice_block, traced_blocks
from dynnas_jax.networks import gate
from dynnas_jax.networks.gated import with_statistics
from dynnas_jax.networks.slimmable_blocks import zeros_behind


class Part(NamedTuple):
    """One segment of the chain at one width."""

    number: int  # of the segment
    before: int = 0  # what the gate before picked, by its index; 0 where it does not matter
    own: int = 0  # what this segment's gate picked; 0 for the first, which has none


class Cut(NamedTuple):
    """Variables sliced to every part's shapes; a leaf that several parts use alike is there once."""

    leaves: dict[str, jax.Array]  # by block, collection, path and shape


class Ran(NamedTuple):
    """What a part leaves."""

    carry: jax.Array  # for the next part; of the last the logits [b, classes]
    scores: jax.Array | None  # float32[b, choices] of the gate behind it; None behind the last


def of_segment(supernet: Supernet, number: int) -> list[Part]:
    """All parts of a segment, its own gate's choice fastest."""
    segments, sizes = supernet.arch.segments, supernet.space.sizes
    own = range(sizes[segments[number].gene]) if number else range(1)
    before = range(sizes[segments[number - 1].gene]) if number > 1 else range(1)
    return [Part(number, *pair) for pair in itertools.product(before, own)]


def every(supernet: Supernet) -> list[Part]:
    """The parts of all segments, in order."""
    return [part for number in range(len(supernet.arch.segments)) for part in of_segment(supernet, number)]


def cut(supernet: Supernet, variables: dict) -> Cut:
    """The variables of all parts, to run from; jit-able."""
    found: dict[str, jax.Array] = {}
    for part in every(supernet):
        sliced = _sliced(supernet, variables, part)
        for key, path in _keys(supernet, part):
            if key not in found:
                found[key] = sliced[path[0]][path[1:]]
    return Cut(found)


def run(supernet: Supernet, given: dict | Cut, part: Part, carry: jax.Array) -> Ran:
    """Runs a part on what the one before it left (the images for the first), and the gate behind it.

    Args:
      given: the network's variables, or what `cut` makes of them.
    """
    arch, own = _arch(supernet, part), _leaves(supernet, given, part)
    chain = {block.name: block.module.clone(name=None, parent=None) for block in supernet.net(arch).chain()}
    for name in supernet.arch.segments[part.number].blocks:
        carry = chain[name].apply(own[name], carry, False)
    if part.number == len(supernet.arch.segments) - 1:
        return Ran(carry, None)
    return Ran(carry, scores(supernet, given, part.number + 1, part.own, carry))


def run_padded(supernet: Supernet, given: dict | Cut, part: Part, carry: jax.Array) -> jax.Array:
    """As `run`, from and to the widest path's channels, with zeros behind those in use; logits of the last."""
    last = part.number == len(supernet.arch.segments) - 1
    if part.number:
        carry = carry[..., : _channels(supernet, part.number - 1, part.before)]
    left = run(supernet, given, part, carry).carry
    return left if last else zeros_behind(left, _channels(supernet, part.number, _choices(supernet, part.number) - 1))


def scores(supernet: Supernet, given: dict | Cut, number: int, before: int, carry: jax.Array) -> jax.Array:
    """float32[b, choices]: what the gate in front of segment `number` gives each ratio, where the one before picked `before`."""
    segment = supernet.arch.segments[number]
    own = _leaves(supernet, given, Part(number, before if number > 1 else 0), segment.blocks[:1])
    return gate.scores(segment.gate, own[segment.blocks[0]]["params"][gate.NAME], carry)


def scores_padded(supernet: Supernet, given: dict | Cut, number: int, carry: jax.Array) -> jax.Array:
    """As `scores`, of what `run_padded` leaves, whatever width left it."""
    return scores(supernet, given, number, _choices(supernet, number - 1) - 1, carry)


def carry_shape(supernet: Supernet, part: Part) -> tuple[int, ...]:
    """(height, width, channels) that a part leaves."""
    name = supernet.arch.segments[part.number].blocks[-1]
    return traced_blocks(supernet, _arch(supernet, part))[name][1].output.shape[1:]


def kernels(supernet: Supernet, part: Part) -> dict[str, int]:
    """How many numbers each kernel of a part has, by its name in a `Cut`, where parts share those of one name."""
    traced, found = traced_blocks(supernet, _arch(supernet, part)), {}
    flat = {name: traverse_util.flatten_dict(own.variables) for name, (_, own) in traced.items()}
    for key, (name, *path) in _keys(supernet, part):
        leaf = flat[name][tuple(path)]
        if leaf.ndim > 1:
            found[key] = leaf.size
    return found


def _channels(supernet: Supernet, number: int, own: int) -> int:
    return carry_shape(supernet, Part(number, 0, own))[-1]


def _choices(supernet: Supernet, number: int) -> int:
    """Of the gate in front of a segment; one where there is none."""
    return supernet.space.sizes[supernet.arch.segments[number].gene] if number else 1


def _arch(supernet: Supernet, part: Part) -> Any:
    genome, segments = supernet.space.smallest, supernet.arch.segments
    if part.number > 1:
        genome[segments[part.number - 1].gene] = part.before
    if part.number:
        genome[segments[part.number].gene] = part.own
    return supernet.arch(genome)


def _keys(supernet: Supernet, part: Part, blocks: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name in a `Cut`, block, collection and path) of every leaf of a part, or of some of its blocks."""
    traced = traced_blocks(supernet, _arch(supernet, part))
    for name in blocks or supernet.arch.segments[part.number].blocks:
        for path, leaf in traverse_util.flatten_dict(traced[name][1].variables).items():
            # Running statistics are a path's own; other leaves of one shape are the same leading channels.
            which = f"/{part.own}" if path[0] == "batch_stats" else ""
            yield f"{name}/{'/'.join(path)}/{'x'.join(map(str, leaf.shape))}{which}", (name, *path)


def _leaves(supernet: Supernet, given: dict | Cut, part: Part, blocks: tuple[str, ...] = ()) -> dict:
    """{block: {collection: leaves}} of a part."""
    if isinstance(given, Cut):
        flat = {path: given.leaves[key] for key, path in _keys(supernet, part, blocks)}
    else:
        flat = {
            (name, *path): leaf
            for name, own in _sliced(supernet, given, part, blocks).items()
            for path, leaf in own.items()
        }
    return traverse_util.unflatten_dict(flat)


def _sliced(supernet: Supernet, variables: dict, part: Part, blocks: tuple[str, ...] = ()) -> dict[str, dict]:
    """{block: {path: leaf}} of a part, cut out of the variables."""
    traced, own = traced_blocks(supernet, _arch(supernet, part)), with_statistics(variables, part.own)
    return {
        name: traverse_util.flatten_dict(slice_block(own, name, traced[name][1].variables))
        for name in blocks or supernet.arch.segments[part.number].blocks
    }
