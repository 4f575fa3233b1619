"""Evaluating any number of genomes by one compiled program, for searches that look at them on the host."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dynnas_jax import devices, progress
from dynnas_jax.search import evolution
from dynnas_jax.search.evolution import Found, Population
from dynnas_jax.search_space import SearchSpace

CHUNK = 16  # genomes of a call, more where there are more devices


class Measure:
    """measure(genomes int32[n, G]) -> Population of NumPy arrays, in the same order.

    Args:
      fitness, cost: of one genome, as in `evolution.run`. A fitness that is a `jax.tree_util.Partial` has its arrays on every
        device of the mesh, and they are arguments of the program.
      mesh: over whose devices the genomes of a call are spread; by default all of every process.
      form: as in `evolution.run`.

    Raises:
      ValueError: for an unknown form.
    """

    def __init__(
        self,
        fitness: Callable[[jax.Array], jax.Array],
        cost: Callable[[jax.Array], jax.Array],
        mesh: Mesh | None = None,
        form: str = evolution.FORMS[0],
    ):
        self.mesh = mesh or devices.data_mesh()
        self.chunk = -(-CHUNK // self.mesh.size) * self.mesh.size
        spread = self.mesh if self.mesh.size > 1 else None
        self.fitness = evolution.as_tree(fitness) if spread else evolution.unless_filling(fitness)
        evolution.check_form(form)
        program = lambda fitness, genomes: evolution.evaluator(fitness, cost, spread, form)(genomes)  # noqa: E731
        self.program = evolution.together(program, self.mesh)

    def __call__(self, genomes: np.ndarray) -> Population:
        genomes, found = np.asarray(genomes, np.int32), []
        with progress.counted("evaluating", len(genomes), "genomes") as advance:
            for start in range(0, len(genomes), self.chunk):
                some = genomes[start : start + self.chunk]
                rows = np.full((self.chunk, genomes.shape[1]), evolution.FILLING, np.int32)
                rows[: len(some)] = some
                measured = self.program(self.fitness, devices.replicated(self.mesh, rows))
                found.append(Population(*(values[: len(some)] for values in measured)))
                advance(len(some))
        return joined(*found)


def joined(*populations: Population) -> Population:
    """All candidates of several, one after the other."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *populations)


def best_of(space: SearchSpace, seen: Population, budget: float) -> Found:
    """What a search that has evaluated these candidates, in this order, found; `history` is by candidate."""
    best = int(evolution.ranking(seen, jnp.float32(budget))[0])
    within = np.where(seen.cost <= np.float32(budget), seen.fitness, -np.inf).astype(np.float32)
    genome, fitness, cost = (rows[best] for rows in seen)
    feasible = cost <= np.float32(budget)
    return Found(
        np.asarray(space.canonical(jnp.asarray(genome))), fitness, cost, feasible, np.maximum.accumulate(within)
    )
