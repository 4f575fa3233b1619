"""Inference of gated networks: one image by a switch over sliced widths, batches grouped by the width that each gate picks."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import cascade
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import functions
from dynnas_jax.networks import gated_parts
from dynnas_jax.networks.gated_parts import Cut, Part


class Answers(NamedTuple):
    """What a gated network answers on a batch."""

    logits: jax.Array  # [B, classes]
    path: jax.Array  # int32[B, gates]: the ratio that each gate picked, by its index


def paths(supernet: Supernet) -> np.ndarray:
    """int32[S, gates]: all paths, the last gate's choice fastest."""
    return np.asarray(list(itertools.product(*map(range, supernet.space.sizes))), np.int32)


def cost(supernet: Supernet) -> tuple[int, ...]:
    """All MACs of each of `paths`, its gates among them."""
    table = macs.table(supernet)
    return tuple(table.exact(genome) for genome in paths(supernet))


def number_of(supernet: Supernet, path: np.ndarray) -> np.ndarray:
    """int[B]: which of `paths` each of path[B, gates] is."""
    return np.ravel_multi_index(tuple(np.asarray(path).T), supernet.space.sizes)


def switched(supernet: Supernet) -> Callable[[dict | Cut, jax.Array], Answers]:
    """(variables, images[1, h, w, c]) -> Answers: at each gate a `lax.switch` over the sliced parts; jit-able.

    From what `gated_parts.cut` makes of the variables it slices nothing itself, and is faster. The batch takes the way of its
    first image.
    """
    segments = len(supernet.arch.segments)

    def step(given: dict | Cut, part: Part, carry: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        if part.number > 1:
            shape = gated_parts.carry_shape(supernet, Part(part.number - 1, 0, part.before))
            carry = _unpacked(carry, (len(carry), *shape))
        ran = gated_parts.run(supernet, given, part, carry)
        return (_packed(supernet, part.number, ran.carry) if 0 < part.number < segments - 1 else ran.carry), ran.scores

    def answer(given: dict | Cut, images: jax.Array) -> Answers:
        (carry, told), picked = step(given, Part(0), images), []
        for number in range(1, segments):
            picked.append(told[0].argmax().astype(jnp.int32))
            branches = [functools.partial(step, given, part) for part in gated_parts.of_segment(supernet, number)]
            carry, told = jax.lax.switch(_index(supernet, number, picked), branches, carry)
        return Answers(carry, jnp.broadcast_to(jnp.stack(picked)[None], (len(images), len(picked))))

    return answer


def _packed(supernet: Supernet, number: int, carry: jax.Array) -> jax.Array:
    """[b, rows, channels]: what a part of a segment left, at any width, in front; of one shape for all, contiguous as it was."""
    shapes = [gated_parts.carry_shape(supernet, part) for part in gated_parts.of_segment(supernet, number)]
    # The channels that all widths are multiples of: filling up rows of them is several times faster than a flat array.
    unit, room = math.gcd(*(shape[-1] for shape in shapes)), max(map(math.prod, shapes))
    rows = carry.reshape(len(carry), -1, unit)
    return jnp.pad(rows, ((0, 0), (0, room // unit - rows.shape[1]), (0, 0)))


def _unpacked(packed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[b, h, w, c] of what `_packed` made."""
    return packed[:, : math.prod(shape[1:]) // packed.shape[2]].reshape(shape)


def capacities(supernet: Supernet, batch: int, capacity: int | None = None) -> tuple[int, ...]:
    """Images of a chunk in every segment of the chain, where batches have so many.

    Each group of a segment fills up its last chunk, and a segment behind several gates has as many groups as pairs of choices: by
    default the chunks are the smaller the more groups share the batch, and at most `cascade.default_capacity`'s second. In front
    of the first gate, where all images are one group, they are its first.

    Args:
      capacity: behind a gate, in the place of the default.

    Raises:
      ValueError: for a capacity that is no whole number of at least 1.
    """
    if capacity is not None and (type(capacity) is not int or capacity < 1):
        raise ValueError(f"capacity is {capacity!r}, must be a whole number of images from 1")
    first, most = cascade.default_capacity(2)
    groups = [len(gated_parts.of_segment(supernet, number)) for number in range(1, len(supernet.arch.segments))]
    behind = [capacity or max(1, min(most, batch // count)) for count in groups]
    return tuple(min(batch, size) for size in (first, *behind))


def rows(supernet: Supernet, path: np.ndarray, capacity: int | None = None) -> tuple[int, ...]:
    """Images that `grouped` computes in every segment for a batch of path int[B, gates], with those that fill its chunks."""
    sizes, picked = capacities(supernet, len(path), capacity), path.T
    found = [-(-len(path) // sizes[0]) * sizes[0]]
    for number, size in enumerate(sizes[1:], 1):
        counts = np.bincount(np.asarray(_index(supernet, number, picked[:number])))
        found.append(int((-(-counts // size) * size).sum()))
    return tuple(found)


def grouped(supernet: Supernet, *, capacity: int | None = None) -> Callable[[dict | Cut, jax.Array], Answers]:
    """(variables, images[B, h, w, c]) -> Answers: at each gate images of one width run together, sliced; jit-able.

    Takes what `gated_parts.cut` makes of the variables in their place, too.

    Args:
      capacity: images of a chunk behind a gate, at most the batch; by default as `capacities` says.

    Raises:
      ValueError: as `capacities`, when it is called.
    """

    def answer(given: dict | Cut, images: jax.Array) -> Answers:
        sizes = capacities(supernet, len(images), capacity)

        def steps(number: int) -> list[Callable]:
            parts = gated_parts.of_segment(supernet, number)
            return [lambda v, x, part=part: gated_parts.run_padded(supernet, v, part, x) for part in parts]

        carry, picked = cascade.by_choice(steps(0), sizes[0], given, images, jnp.zeros(len(images), jnp.int32)), []
        for number in range(1, len(supernet.arch.segments)):
            picked.append(gated_parts.scores_padded(supernet, given, number, carry).argmax(-1).astype(jnp.int32))
            carry = cascade.by_choice(steps(number), sizes[number], given, carry, _index(supernet, number, picked))
        return Answers(carry, jnp.stack(picked, axis=1))

    return answer


def _index(supernet: Supernet, number: int, picked: Sequence[jax.Array]) -> jax.Array:
    """Which of `gated_parts.of_segment` the choices so far lead to."""
    size = supernet.space.sizes[supernet.arch.segments[number].gene]
    return picked[-1] if number == 1 else picked[-2] * size + picked[-1]


class Step(NamedTuple):
    """One part of a gated network as a function of its own."""

    call: Callable  # (variables, carry) -> (what it leaves, scores[b, s] of what may follow or None)
    reads: str  # the name of what it is given, and of what it leaves
    gives: str
    following: tuple[str, ...]  # the names of s parts; () for those that answer


def parts(supernet: Supernet, kept: Sequence[int] | None = None) -> dict[str, Step]:
    """The network in parts, for export: what stands in front of the first gate, and what follows each gate, at every width.

    With one gate they are `to_gate` and `path1` and on; with several `to_gate`, `gate1_1` and on for the first one's choices, and
    `gate2_1_3` for the third choice of the second behind the first choice of the first.

    Args:
      kept: of one gate the choices that there shall be, ascending; None for all.

    Raises:
      ValueError: for a choice of what is kept where there are several gates.
    """
    last = len(supernet.arch.segments) - 1
    if kept is not None and last > 1:
        raise ValueError(f"the network has {last} gates, must be one for some of its paths")
    every = {
        number: [p for p in gated_parts.of_segment(supernet, number) if not number or kept is None or p.own in kept]
        for number in range(last + 1)
    }

    def step(part: Part) -> Step:
        following = [other for other in every.get(part.number + 1, ()) if other.number == 1 or other.before == part.own]

        def call(variables: dict, carry: jax.Array) -> tuple[jax.Array, jax.Array | None]:
            left, told = gated_parts.run(supernet, variables, part, carry)
            if told is not None and len(following) < told.shape[1]:
                # Slices, which every converter knows; a gather it may not.
                told = jnp.concatenate([told[:, other.own : other.own + 1] for other in following], axis=1)
            return left, told

        reads = functions.IMAGE if not part.number else _carry(part.number - 1, part.before)
        gives = functions.LOGITS if part.number == last else _carry(part.number, part.own)
        return Step(call, reads, gives, tuple(_name(other, last) for other in following))

    return {_name(part, last): step(part) for own in every.values() for part in own}


def _name(part: Part, gates: int) -> str:
    if not part.number:
        return "to_gate"
    if gates == 1:
        return f"path{part.own + 1}"
    return f"gate{part.number}_" + (f"{part.before + 1}_" if part.number > 1 else "") + str(part.own + 1)


def _carry(number: int, own: int) -> str:
    return f"features{number}_{own + 1}" if number else "features"


class Spread(NamedTuple):
    """How the choices of one gate are spread over the images."""

    share: np.ndarray  # float64[choices]
    entropy: float  # of the shares, in nats
    largest_entropy: float  # were all alike

    @staticmethod
    def of(choice: np.ndarray, choices: int) -> Spread:
        """Of choice int[B]."""
        share = np.bincount(choice, minlength=choices) / max(1, len(choice))
        known = share[share > 0]
        return Spread(share, float(-(known * np.log(known)).sum()), float(np.log(choices)))
