"""Weights of a once-for-all supernet for a supernet of several exits, which then begins as parts of the trained nets.

The parts of every block, its norms and the stem are taken over; each exit gets a copy of what reads its own maps alone: the
norm behind a projection, and the head.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from flax import traverse_util

from dynnas_jax import channel_sorting, kernel_transforms
from dynnas_jax.elastic import Supernet


class Transferred(NamedTuple):
    """What was made of a supernet's variables."""

    variables: dict  # of the supernet of several exits
    taken: dict[
        str, str
    ]  # the place of every leaf that was taken over, and of the leaf it is: "params/exit1_stem/conv/kernel"
    fresh: tuple[str, ...]  # places of the leaves the source has nothing for: they stay as they were
    unused: tuple[str, ...]  # places of the source's leaves that have none here


def transferred(
    supernet: Supernet, variables: dict, source: Supernet, trained: dict, *, least: np.ndarray
) -> Transferred:
    """The variables of a supernet of several exits with the trained ones of the supernet it was built on in their place.

    Channels are put in the order of their importance (`channel_sorting`), so that exit 1 has the most important ones (ENAS4D,
    arXiv 2009.09182): where the source has an expansion to choose, within what its subnets of `least` keep, which
    stay what they are; else all of them.

    Args:
      variables: of the supernet of several exits, fresh.
      source: of MBConv nets; its blocks have the same names and sizes, whatever it has to choose.
      trained: the source's variables.
      least: int32[genes] of the source, the smallest choices it was trained with, whose subnets stay what they are; the
        largest, where only that was trained: then all channels are put in order.

    Raises:
      ValueError: for a leaf of another shape in the source.
    """
    ordered = channel_sorting.sort(source, trained["params"], trained, source.space.check(least))
    have, taken, fresh = traverse_util.flatten_dict(ordered), {}, []
    made = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        origin = _origin(path)
        if origin not in have:
            fresh.append("/".join(path))
            made[path] = leaf
            continue
        if have[origin].shape != leaf.shape:
            raise ValueError(
                f"{'/'.join(path)} is {leaf.shape}, but {'/'.join(origin)} of the trained supernet {have[origin].shape}: "
                "it is not the one this supernet was built on"
            )
        made[path], taken["/".join(path)] = have[origin], "/".join(origin)
    unused = tuple("/".join(path) for path in have if "/".join(path) not in set(taken.values()))
    made = traverse_util.unflatten_dict(made)
    if not any(gene.name.endswith(".expand") for gene in source.space.genes):
        made = channel_sorting.sort(supernet, made["params"], made, supernet.space.largest)
    return Transferred(made, taken, tuple(fresh), unused)


def _origin(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path of a leaf in the variables of MBConv nets."""
    place = 2 if path[1] == kernel_transforms.PLACE else 1
    _, _, name = path[place].partition("_")
    return (*path[:place], name or "head", *path[place + 1 :])
