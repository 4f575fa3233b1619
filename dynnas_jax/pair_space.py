"""The space of pairs: one genome holds a little and a big subnet of one space, little no larger than big in any gene.

A pair genome is int32[2 genes]: little's, then big's. Sampling, mutating and crossing put the two choices of each gene in
order, so that nothing is rejected. Both nets read the same images: they share the resolution, where the space has one.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.search_space import Equal, Gene, SearchSpace

NETS = ("little", "big")


class Halves(NamedTuple):
    """The two genomes of a pair, int32[..., genes] each."""

    little: jax.Array
    big: jax.Array


@dataclass(frozen=True)
class PairSpace:
    """What `SearchSpace` offers a search, for pairs of its genomes."""

    space: SearchSpace

    @functools.cached_property
    def genes(self) -> tuple[Gene, ...]:
        """Little's genes, then big's, by the names "little.NAME" and "big.NAME"."""
        return tuple(
            gene._replace(
                name=f"{net}.{gene.name}",
                needs=gene.needs and (f"{net}.{gene.needs[0]}", gene.needs[1]),
                parent=gene.parent and f"{net}.{gene.parent}",
            )
            for net in NETS
            for gene in self.space.genes
        )

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each gene."""
        return self.space.sizes * 2

    @property
    def smallest(self) -> np.ndarray:
        """int32[2 genes]: the smallest subnet twice."""
        return np.tile(self.space.smallest, 2)

    @property
    def largest(self) -> np.ndarray:
        """int32[2 genes]: the largest subnet twice."""
        return np.tile(self.space.largest, 2)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that gives a pair genome its meaning."""
        return hashlib.sha256(f"pair of {self.space.fingerprint}".encode()).hexdigest()[:16]

    @functools.cached_property
    def _shared(self) -> np.ndarray:
        """bool[genes]: the genes that both nets have in common."""
        return np.asarray([gene.name == "resolution" for gene in self.space.genes], bool)

    def halves(self, genome: jax.Array) -> Halves:
        """The genomes of little and big of int32[..., 2 genes]."""
        count = len(self.space.genes)
        return Halves(genome[..., :count], genome[..., count:])

    def ordered(self, genome: jax.Array) -> jax.Array:
        """int32[..., 2 genes]: of each gene the lesser choice for little and the greater for big; what is shared is big's."""
        first, second = self.halves(jnp.asarray(genome, jnp.int32))
        big = jnp.maximum(first, second)
        return jnp.concatenate([jnp.where(jnp.asarray(self._shared), big, jnp.minimum(first, second)), big], axis=-1)

    def fits(self, little: np.ndarray, big: np.ndarray) -> np.ndarray:
        """bool[k, n]: whether int32[k, genes] may be the little ones of int32[n, genes]."""
        below = little[:, None] <= big[None]
        return (below & (~self._shared | (little[:, None] == big[None]))).all(axis=-1)

    def below(self, genomes: np.ndarray, big: np.ndarray) -> np.ndarray:
        """int32[k, genes]: genomes cut down, gene by gene, to what fits below int32[genes]; what is shared is big's."""
        return np.where(self._shared, big, np.minimum(genomes, big))

    def sample(self, key: jax.Array, count: int | None = None, least: jax.Array | None = None) -> jax.Array:
        """Two uniform genomes put in order: int32[count, 2 genes], or int32[2 genes] without `count`.

        No index is below `least` int32[genes].
        """
        little, big = (self.space.sample(each, count, least) for each in jax.random.split(key))
        return self.ordered(jnp.concatenate([little, big], axis=-1))

    def mutate(self, key: jax.Array, genome: jax.Array, probability: float | jax.Array) -> jax.Array:
        """int32[2 genes]: each gene of either net drawn anew with `probability`, then put in order."""
        keys, parents = jax.random.split(key), self.halves(genome)
        drawn = (self.space.mutate(each, half, probability) for each, half in zip(keys, parents, strict=True))
        return self.ordered(jnp.concatenate(list(drawn), axis=-1))

    def crossover(self, key: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        """int32[2 genes]: each gene, of both nets alike, from one of the two parents by a fair coin."""
        coin = jnp.tile(jax.random.bernoulli(key, 0.5, (len(self.space.genes),)), 2)
        return jnp.where(coin, first, second)

    def canonical(self, genome: jax.Array) -> jax.Array:
        """int32[2 genes]: the one genome that stands for all pairs of the same two subnets."""
        return jnp.concatenate([self.space.canonical(half) for half in self.halves(genome)], axis=-1)

    def encode(self, genome: jax.Array) -> jax.Array:
        """float32[2 sum(sizes)]: the codes of both."""
        return jnp.concatenate([self.space.encode(half) for half in self.halves(genome)], axis=-1)

    def size(self) -> int:
        """Exact number of distinct pairs, two equal subnets among them: those with genomes that are in order."""

        def in_order(gene: int, equals: tuple[Equal, ...]) -> bool:
            little, big = equals
            return little.choice == big.choice if self._shared[gene] else little.least <= big.most

        return self.space.count(2, in_order)

    def check(self, genome: Sequence[int] | np.ndarray) -> np.ndarray:
        """The pair genome as int32[2 genes].

        Raises:
          ValueError: for a wrong length, an index out of range, or a little that exceeds its big (the gene is named).
        """
        array = np.asarray(genome)
        if array.shape != (len(self.genes),):
            raise ValueError(f"a pair of this space is {len(self.genes)} integers, got shape {array.shape}")
        little, big = (self.space.check(half) for half in self.halves(array))
        for gene, low, high, shared in zip(
            self.space.genes, little.tolist(), big.tolist(), self._shared.tolist(), strict=True
        ):
            if low > high or (shared and low != high):
                wanted = "must be big's" if shared else "must not exceed big's"
                raise ValueError(f"pair: little's {gene.name} is {gene.choices[low]}, {wanted} {gene.choices[high]}")
        return np.concatenate([little, big])

    def to_json(self, genome: Sequence[int] | np.ndarray) -> dict:
        """A pair file: the genome files of both nets. Raises ValueError as `check`."""
        return {net: self.space.to_json(half) for net, half in zip(NETS, self.halves(self.check(genome)), strict=True)}

    def from_json(self, data: dict) -> np.ndarray:
        """int32[2 genes] of a pair file. Raises ValueError for no pair file, and as `SearchSpace.from_json` and `check`."""
        if not isinstance(data, dict) or not all(net in data for net in NETS):
            raise ValueError('not a pair file: it must have "little" and "big"')
        return self.check(np.concatenate([self.space.from_json(data[net]) for net in NETS]))
