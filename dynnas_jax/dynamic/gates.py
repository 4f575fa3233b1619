"""Inference of gated networks: one image by a switch over sliced widths, batches grouped by the width that each gate picks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import cascade
from dynnas_jax.elastic import Supernet
from dynnas_jax.networks import gated


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


def switched(supernet: Supernet) -> Callable[[dict, jax.Array], Answers]:
    """(variables, images[1, h, w, c]) -> Answers: at each gate a `lax.switch` over the sliced segments; jit-able.

    The batch takes the way of its first image.
    """

    def answer(variables: dict, images: jax.Array) -> Answers:
        def run(number: int, before: jax.Array, own: jax.Array, carry: jax.Array) -> jax.Array:
            pairs = _pairs(supernet, number)
            branches = [functools.partial(gated.run_segment, supernet, variables, number, *pair) for pair in pairs]
            return jax.lax.switch(_index(supernet, number, before, own), branches, carry)

        carry, picked = gated.run_segment(supernet, variables, 0, 0, 0, images), []
        for number in range(1, len(supernet.arch.segments)):
            picked.append(gated.choose(supernet, variables, number, carry[:1])[0])
            carry = run(number, picked[-2] if number > 1 else picked[-1], picked[-1], carry)
        return Answers(carry, jnp.broadcast_to(jnp.stack(picked)[None], (len(images), len(picked))))

    return answer


def grouped(supernet: Supernet, *, capacity: int | None = None) -> Callable[[dict, jax.Array], Answers]:
    """(variables, images[B, h, w, c]) -> Answers: at each gate images of one width run together, sliced; jit-able.

    Args:
      capacity: images of a chunk, at most the batch; by default `cascade.default_capacity`'s first.
    """
    size = cascade.default_capacity(1)[0] if capacity is None else capacity

    def answer(variables: dict, images: jax.Array) -> Answers:
        everyone = jnp.zeros(len(images), jnp.int32)

        def steps(number: int) -> list[Callable]:
            pairs = _pairs(supernet, number) if number else [(0, 0)]
            return [lambda v, x, pair=pair: gated.run_segment(supernet, v, number, *pair, x) for pair in pairs]

        carry, picked = cascade.by_choice(steps(0), size, variables, images, everyone), []
        for number in range(1, len(supernet.arch.segments)):
            picked.append(gated.choose(supernet, variables, number, carry))
            index = _index(supernet, number, picked[-2] if number > 1 else picked[-1], picked[-1])
            carry = cascade.by_choice(steps(number), size, variables, carry, index)
        return Answers(carry, jnp.stack(picked, axis=1))

    return answer


def parts(supernet: Supernet, kept: Sequence[int] | None = None) -> tuple[Callable, dict[str, Callable]]:
    """A network of one gate in parts, for export: what stands in front of the gate with it, and each path behind it, by name.

    Args:
      kept: indices of the paths that there shall be, ascending; None for all.

    Returns:
      (variables, images) -> (scores[b, kept], features), and (variables, features) -> logits of each path, narrowest first.
    """
    every = range(supernet.space.sizes[0])
    kept = tuple(every if kept is None else kept)
    segments = supernet.arch.segments
    if len(segments) != 2:
        raise ValueError(f"the network has {len(segments) - 1} gates, must be one")

    def front(variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = gated.run_segment(supernet, variables, 0, 0, 0, images)
        told = gated.scores(supernet, variables, 1, features)
        # Slices, which every converter knows; a gather it may not.
        told = told if len(kept) == len(every) else jnp.concatenate([told[:, n : n + 1] for n in kept], axis=1)
        return told, features

    behind = {n: functools.partial(gated.run_segment, supernet, number=1, before=0, own=n) for n in kept}
    steps = {f"path{n + 1}": lambda v, x, run=run: run(variables=v, carry=x) for n, run in behind.items()}
    return front, steps


def _pairs(supernet: Supernet, number: int) -> list[tuple[int, int]]:
    """What the gate before and a segment's own can have picked, in the order of `_index`."""
    segments, sizes = supernet.arch.segments, supernet.space.sizes
    own = range(sizes[segments[number].gene])
    if number == 1:
        return [(0, index) for index in own]
    return list(itertools.product(range(sizes[segments[number - 1].gene]), own))


def _index(supernet: Supernet, number: int, before: jax.Array, own: jax.Array) -> jax.Array:
    size = supernet.space.sizes[supernet.arch.segments[number].gene]
    return own if number == 1 else before * size + own


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
