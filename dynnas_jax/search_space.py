"""Genes, genomes and the space they span.

A genome is an int32[genes] vector of choice indices: traced by JAX, sampled, mutated and crossed under jit and vmap.
Two genomes that build the same subnet have one canonical form: genes of skipped blocks do not count, and neither do
choices that the rounding of widths merges.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def make_divisible(width: float, divisor: int = 8) -> int:
    """The MobileNet rounding rule: the nearest multiple of `divisor`, never below 90 % of `width` (Sandler et al. 2018)."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


def first_equal(values: Sequence) -> tuple[int, ...]:
    """For each value the index of its first equal: how choices that build the same thing merge."""
    return tuple(list(values).index(value) for value in values)


class Gene(NamedTuple):
    """One choice of a space."""

    name: str  # "stage2.block0.kernel"
    choices: tuple[float, ...]  # ascending
    needs: tuple[str, int] | None = (
        None  # (gate gene, index): the gene counts only where the gate's index is at least this
    )
    parent: str | None = None  # the gene whose choice decides which choices of this one merge
    merged: tuple[tuple[int, ...], ...] | None = (
        None  # [parent choice (one row without a parent), choice] -> first equal
    )


class Equal(NamedTuple):
    """Choices of one gene that build the same thing."""

    choice: int  # that stands for them in the canonical form
    least: int
    most: int


@dataclass(frozen=True)
class SearchSpace:
    """The declared choices of a supernet and the rounding of its widths.

    A gate or a parent stands before the genes that name it and depends on no gene itself.

    Raises:
      ValueError: for a gene without choices, a name used twice, or a gate or parent that does not stand before its gene.
    """

    genes: tuple[Gene, ...]
    divisor: int = 8
    meaning: str = ""  # what a genome decodes to beyond its genes: two spaces of other widths are not the same

    def __post_init__(self):
        seen: dict[str, Gene] = {}
        for gene in self.genes:
            if gene.name in seen:
                raise ValueError(f"gene {gene.name!r} is declared twice")
            if not gene.choices or list(gene.choices) != sorted(set(gene.choices)):
                raise ValueError(f"gene {gene.name!r}: choices must ascend without repeats, got {gene.choices}")
            for other in (gene.needs[0] if gene.needs else None, gene.parent):
                if other is not None and (other not in seen or seen[other].needs or seen[other].parent):
                    raise ValueError(f"gene {gene.name!r} depends on {other!r}, which must be an earlier, free gene")
            seen[gene.name] = gene

    def index(self, name: str) -> int:
        """Position of the gene called `name`. Raises ValueError if there is none."""
        try:
            return self._index[name]
        except KeyError:
            raise ValueError(f"no gene {name!r} in this space") from None

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def round_width(self, width: float) -> int:
        """A width under this space's rounding rule."""
        return make_divisible(width, self.divisor)

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {gene.name: i for i, gene in enumerate(self.genes)}

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each gene."""
        return tuple(len(gene.choices) for gene in self.genes)

    @property
    def smallest(self) -> np.ndarray:
        """int32[genes]: the first choice of every gene."""
        return np.zeros(len(self.genes), np.int32)

    @property
    def largest(self) -> np.ndarray:
        """int32[genes]: the last choice of every gene."""
        return np.asarray(self.sizes, np.int32) - 1

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that gives a genome its meaning."""
        return hashlib.sha256(repr((self.genes, self.divisor, self.meaning)).encode()).hexdigest()[:16]

    def lowered(self, genome: np.ndarray) -> np.ndarray:
        """int32[genes]: the nearest genome of this space none of whose choices is above; where all go together, itself."""
        return genome

    # Random genomes: one key each, jit- and vmap-able.

    def sample(self, key: jax.Array, count: int | None = None, least: jax.Array | None = None) -> jax.Array:
        """Uniform genomes: int32[count, genes], or int32[genes] without `count`; no index below `least` int32[genes]."""
        sizes = jnp.asarray(self.sizes, jnp.int32)
        least = jnp.zeros_like(sizes) if least is None else least
        shape = (len(self.sizes),) if count is None else (count, len(self.sizes))
        uniform = jax.random.uniform(key, shape)
        room, first = (jnp.broadcast_to(x, shape) for x in ((sizes - least).astype(jnp.float32), least))
        return first + (uniform * room).astype(jnp.int32)

    def mutate(self, key: jax.Array, genome: jax.Array, probability: float | jax.Array) -> jax.Array:
        """int32[genes]: each gene drawn anew with `probability`."""
        which, what = jax.random.split(key)
        drawn = jax.random.uniform(which, genome.shape) < jnp.asarray(probability, jnp.float32)
        return jnp.where(drawn, self.sample(what), genome)

    def crossover(self, key: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        """int32[genes]: each gene from one of the two parents, by a fair coin."""
        return jnp.where(jax.random.bernoulli(key, 0.5, first.shape), first, second)

    # Canonical form, one-hot code, size.

    @functools.cached_property
    def _dependencies(self) -> dict[str, np.ndarray]:
        """Index arrays of gates and parents; `table[gene, parent choice, choice]` -> first equal choice."""
        count, widest = len(self.genes), max(self.sizes, default=1)
        gate, minimum = np.arange(count), np.zeros(count, np.int32)
        parent = np.full(count, -1)
        table = np.broadcast_to(np.arange(widest, dtype=np.int32), (count, widest, widest)).copy()
        for i, gene in enumerate(self.genes):
            if gene.needs:
                gate[i], minimum[i] = self._index[gene.needs[0]], gene.needs[1]
            if gene.parent:
                parent[i] = self._index[gene.parent]
            for row, equal in enumerate(gene.merged or ()):
                table[i, row, : len(equal)] = equal
        return {"gate": gate, "minimum": minimum, "parent": parent, "table": table}

    def _resolve(self, genome: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(merged int32[genes], counts bool[genes]) of one genome."""
        d = self._dependencies
        if not any(gene.merged for gene in self.genes):
            return genome, genome[d["gate"]] >= jnp.asarray(d["minimum"])
        table, rows = jnp.asarray(d["table"]), jnp.arange(len(self.genes))
        free = table[rows, 0, genome]
        parent_choice = jnp.where(jnp.asarray(d["parent"] >= 0), free[np.maximum(d["parent"], 0)], 0)
        merged = table[rows, parent_choice, genome]
        return merged, merged[d["gate"]] >= jnp.asarray(d["minimum"])

    def canonical(self, genome: jax.Array) -> jax.Array:
        """int32[genes]: the one genome that stands for all that build the same subnet."""
        merged, counts = self._resolve(jnp.asarray(genome, jnp.int32))
        return jnp.where(counts, merged, 0)

    def encode(self, genome: jax.Array) -> jax.Array:
        """float32[sum(sizes)]: one-hot of the canonical form; genes that do not count are all zero."""
        merged, counts = self._resolve(jnp.asarray(genome, jnp.int32))
        owner = np.repeat(np.arange(len(self.genes)), self.sizes)
        choice = np.concatenate([np.arange(size, dtype=np.int32) for size in self.sizes])
        return ((merged[owner] == jnp.asarray(choice)) & counts[owner]).astype(jnp.float32)

    def size(self) -> int:
        """Exact number of distinct subnets."""
        return self.count(1, lambda gene, equals: True)

    def count(self, subnets: int, allowed: Callable[[int, tuple[Equal, ...]], bool]) -> int:
        """Exact number of distinct tuples of so many subnets.

        Dynamic programming over the genes, remembering gates and parents only.

        Args:
          allowed: (index of a gene, what each subnet has of it) -> whether such tuples count.
        """
        last_use = {}
        for i, gene in enumerate(self.genes):
            for other in (gene.needs[0] if gene.needs else None, gene.parent):
                if other is not None:
                    last_use[self._index[other]] = i
        states: dict[tuple, int] = {((),) * subnets: 1}  # of each subnet: ((gene, choice), ...)
        for i in range(len(self.genes)):
            following: dict[tuple, int] = {}
            for state, ways in states.items():
                live = [dict(known) for known in state]
                for equals in itertools.product(*(self._equals(i, known) for known in live)):
                    if allowed(i, equals):
                        now = [{**known, i: equal.choice} for known, equal in zip(live, equals, strict=True)]
                        after = tuple(tuple((k, v) for k, v in x.items() if last_use.get(k, -1) > i) for x in now)
                        following[after] = following.get(after, 0) + ways
            states = following
        return sum(states.values())

    def _equals(self, index: int, live: dict[int, int]) -> list[Equal]:
        """The distinct meanings of a gene beside the choices of its gate and its parent."""
        gene, d = self.genes[index], self._dependencies
        if gene.needs and live[d["gate"][index]] < gene.needs[1]:
            return [Equal(0, 0, len(gene.choices) - 1)]
        row = d["table"][index, live[d["parent"][index]] if gene.parent else 0, : len(gene.choices)]
        places = ((value, np.flatnonzero(row == value)) for value in sorted(set(row.tolist())))
        return [Equal(value, int(where[0]), int(where[-1])) for value, where in places]

    # Values and files.

    def check(self, genome: Sequence[int] | np.ndarray) -> np.ndarray:
        """The genome as int32[genes]. Raises ValueError for a wrong length or an index out of range."""
        array = np.asarray(genome)
        if array.shape != (len(self.genes),) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"a genome of this space is {len(self.genes)} integers, got {array.dtype} of shape {array.shape}"
            )
        for gene, choice in zip(self.genes, array.tolist(), strict=True):
            if not 0 <= choice < len(gene.choices):
                raise ValueError(f"genome: {gene.name} is {choice}, out of range 0 to {len(gene.choices) - 1}")
        return array.astype(np.int32)

    def values(self, genome: Sequence[int] | np.ndarray) -> dict[str, float]:
        """The chosen value of every gene by name. Raises ValueError as `check`."""
        return {g.name: g.choices[i] for g, i in zip(self.genes, self.check(genome).tolist(), strict=True)}

    def to_json(self, genome: Sequence[int] | np.ndarray) -> dict:
        """A genome file: the space's fingerprint and the value of every gene."""
        return {"space": self.fingerprint, "genes": self.values(genome)}

    def from_json(self, data: dict) -> np.ndarray:
        """int32[genes] of a genome file. Raises ValueError for another space, a missing gene or an unknown value."""
        if not isinstance(data, dict) or not isinstance(data.get("genes"), dict):
            raise ValueError(f"not a genome file: {json.dumps(data)[:80]}")
        if data.get("space") != self.fingerprint:
            raise ValueError(f"genome file of space {data.get('space')!r}, but this space is {self.fingerprint!r}")
        genome = []
        for gene in self.genes:
            value = data["genes"].get(gene.name)
            if value not in gene.choices:
                raise ValueError(f"genome file: {gene.name} is {value!r}, choose from {list(gene.choices)}")
            genome.append(gene.choices.index(value))
        return np.asarray(genome, np.int32)
