"""The ways a training step runs its subnets, and the pool that sliced random ones come from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax import switched
from dynnas_jax.elastic import Supernet, extract
from dynnas_jax.masking import mask_variables
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.train import incidents
from dynnas_jax.train.progressive_shrinking import Allowed


@functools.lru_cache(maxsize=4)
def drawn_pool(
    space: SearchSpace, seed: int, number: int, size: int, least: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...], ...]:
    """The genomes of pool `number`: uniform, no index below `least`; any genome may come, and a number has the same always.

    The seed may be that of `incidents.other_seed`: other genomes behind a roll-back.
    """
    key = jax.random.fold_in(jax.random.fold_in(incidents.pool_key(seed), 5), number)
    least = None if least is None else jnp.asarray(least, jnp.int32)
    return tuple(map(tuple, np.asarray(space.sample(key, size, least)).tolist()))


class Ran(NamedTuple):
    """What a subnet made of a batch."""

    answers: tuple[jax.Array, ...]  # logits[b, classes] of every exit, one where there are no exits
    batch_stats: dict | None = None
    endpoint: Any = None  # what its head read

    @property
    def logits(self) -> jax.Array:
        """Those of the last exit."""
        return self.answers[-1]


class Runs:
    """The ways a step runs subnets: each (variables, images) -> `Ran`.

    Statistics are taken over the devices that have other images: for the largest and the smallest, of a shared step, all.
    """

    def __init__(self, supernet: Supernet, axis_name: str | None, subnet_axis: str | None, form: str):
        self.supernet, space = supernet, supernet.space
        self._form, self._axis = form, axis_name
        axes = tuple(name for name in (axis_name, subnet_axis) if name is not None)
        self._all_axes = axes if len(axes) > 1 else (axes or (None,))[0]
        self.largest, self.smallest = (
            self._sliced(genome, self._all_axes) for genome in (space.largest, space.smallest)
        )
        if form == "switched":
            self._switched = switched.program(supernet, axis_name=axis_name)

    def _sliced(self, genome: Any, axis_name: Any) -> Callable:
        net = self.supernet.net(self.supernet.arch(genome)).clone(axis_name=axis_name)
        return lambda variables, images: self._train(net, extract(self.supernet, variables, genome)[1], images)

    def _masked(self, variables: dict, images: jax.Array, genome: jax.Array, axis_name: Any):
        net = self.supernet.masked_net().clone(axis_name=axis_name)
        return self._train(net, mask_variables(self.supernet, variables, genome), images)

    def _train(self, net: Any, variables: dict, images: jax.Array) -> Ran:
        applied, updated = net.apply(variables, images, True, mutable=["batch_stats"])
        return Ran(self.supernet.answers(applied), updated.get("batch_stats", {}), list(applied[1].values())[-2])

    def smallest_of(self, allowed: Allowed | None) -> Callable:
        """The smallest subnet that a phase allows; sliced where every phase allows all."""
        if allowed is None:
            return self.smallest
        return lambda variables, images: self._masked(variables, images, allowed.least, self._all_axes)

    def random(self, key: jax.Array, count: int, allowed: Allowed | None, members: tuple | None) -> tuple:
        """(what is drawn of `count` random subnets, [count, ...]; from one of them to the way it runs)."""
        if self._form == "pool":
            if members is None:
                raise ValueError("sandwich: random subnets come from a pool, and the step was given none")
            return jax.random.permutation(key, len(members))[:count], functools.partial(self._member, members)
        drawn = self.supernet.space.sample(key, count, None if allowed is None else allowed.least)
        return drawn, self.any_of

    def any_of(self, genome: jax.Array) -> Callable:
        """The way a genome runs, traced."""
        if self._form == "switched":
            return lambda variables, images: Ran((self._switched(variables, images, genome, True),))
        return lambda variables, images: self._masked(variables, images, genome, self._axis)

    def _member(self, members: tuple, index: jax.Array) -> Callable:
        """One of the pool, sliced: every member is a branch of the program."""
        runs = [self._sliced(np.asarray(genome, np.int32), self._axis) for genome in members]
        branches = [lambda variables, images, run=run: run(variables, images).answers for run in runs]
        return lambda variables, images: Ran(jax.lax.switch(index, branches, variables, images))
