"""Random search: the control that every other strategy has to beat at the same effort."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dynnas_jax.search import evolution
from dynnas_jax.search.measure import Measure, best_of
from dynnas_jax.search_space import SearchSpace

DRAWS = 32  # for each genome that is wanted; to draw one and look up its cost is next to nothing


def run(
    key: jax.Array,
    space: SearchSpace,
    fitness: Callable[[jax.Array], jax.Array],
    cost: Callable[[jax.Array], jax.Array],
    budget: float,
    mesh: Mesh | None = None,
    form: str = evolution.FORMS[0],
    *,
    evaluations: int,
) -> evolution.Found:
    """The fittest of `evaluations` random genomes, as many as `draw` gives; `history` is by genome.

    Arguments otherwise as in `evolution.run`.

    Raises:
        ValueError: for no evaluations, or an unknown form.
    """
    if evaluations < 1:
        raise ValueError(f"random_search.run: evaluations is {evaluations}; it must be at least 1")
    genomes = draw(key, space, cost, budget, evaluations)
    return best_of(space, Measure(fitness, cost, mesh, form)(genomes), budget)


def draw(
    key: jax.Array, space: SearchSpace, cost: Callable[[jax.Array], jax.Array], budget: float, count: int
) -> np.ndarray:
    """int32[n, G]: random genomes in canonical form whose cost is within the budget, no two alike.

    A control that evaluates what costs too much is easily beaten. n is `count`, or less where `DRAWS` times as many draws hold
    no more; the smallest genome alone where they hold none.
    """
    rows = jax.jit(lambda key: jax.vmap(space.canonical)(space.sample(key, DRAWS * count)))(key)
    within = np.asarray(jax.jit(jax.vmap(cost))(rows)) <= np.float32(budget)
    rows = np.asarray(rows)[within]
    if not len(rows):
        return np.asarray(space.canonical(jnp.asarray(space.smallest)))[None]
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return rows[first][:count]
