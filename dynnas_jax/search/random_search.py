"""Random search: the control that every other strategy has to beat at the same effort."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dynnas_jax.search import evolution
from dynnas_jax.search.measure import Measure, best_of
from dynnas_jax.search_space import SearchSpace

DRAWS = 32  # for each genome that is wanted, in a round; to draw one and look up its cost is next to nothing
ROUNDS = 32  # at most, where those before found too few within a narrow budget


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

    A control that evaluates what costs too much is easily beaten. n is `count`, or less where `ROUNDS` rounds of `DRAWS` times as
    many draws hold no more, or one of them nothing new; the smallest genome alone where they hold none.
    """
    drawn = jax.jit(lambda key: jax.vmap(space.canonical)(space.sample(key, DRAWS * count)))
    price = jax.jit(jax.vmap(cost))
    found = np.zeros((0, len(space.sizes)), np.int32)
    for number in range(ROUNDS):
        rows = drawn(jax.random.fold_in(key, number) if number else key)
        within = np.asarray(price(rows)) <= np.float32(budget)
        known = len(found)
        found = _different(np.concatenate([found, np.asarray(rows)[within]]))
        if len(found) >= count or 0 < known == len(found):
            break
    return found[:count] if len(found) else np.asarray(space.canonical(jnp.asarray(space.smallest)))[None]


def _different(rows: np.ndarray) -> np.ndarray:
    """The rows in their order, each where it is first."""
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
