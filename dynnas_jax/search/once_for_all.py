"""Search by a predictor: some genomes are evaluated, a predictor is fitted on them, and what it finds best is evaluated too.

The way of once-for-all (Cai et al., 2020): evolution asks the predictor, which costs next to nothing, and nothing is trained.
"""

import inspect
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from dynnas_jax import devices
from dynnas_jax.search import evolution, pareto, predictor, random_search
from dynnas_jax.search.measure import Measure, best_of, joined
from dynnas_jax.search_space import SearchSpace

FEWEST = predictor.FEWEST_SUBNETS + 1  # evaluations: records, and one of what is predicted


def run(
    key: jax.Array,
    space: SearchSpace,
    fitness: Callable[[jax.Array], jax.Array],
    cost: Callable[[jax.Array], jax.Array],
    budget: float,
    mesh: Mesh | None = None,
    form: str = evolution.FORMS[0],
    tell: Callable[[predictor.Predictor], None] = lambda _: None,
    *,
    evaluations: int,
    records: float = 0.75,
    **options: float,
) -> evolution.Found:
    """The fittest of all genomes evaluated: random ones, on which a predictor is fitted, and the best of what it predicts.

    Where the budget admits no more genomes than are to be recorded, those are all. `history` is by genome evaluated.

    Args:
        key, space, fitness, cost, budget, mesh, form: as in `evolution.run`.
        tell: is called with the predictor, where there is one.
        evaluations: at most so many, all in all.
        records: the part of them that the predictor is fitted on.
        options: of `predictor.fit`, and of the `evolution.run` that asks the predictor.

    Raises:
        ValueError: for too few evaluations, or an option out of range.
    """
    if evaluations < FEWEST or not 0 < records < 1:
        raise ValueError(
            f"once_for_all.run: evaluations is {evaluations} and records {records}; "
            f"they must be at least {FEWEST}, and between 0 and 1"
        )
    count = min(max(round(records * evaluations), predictor.FEWEST_SUBNETS), evaluations - 1)
    keys, measure = jax.random.split(key, 3), Measure(fitness, cost, mesh, form)
    seen = measure(random_search.draw(keys[0], space, cost, budget, count))
    usable = np.isfinite(seen.fitness)
    if len(usable) < count or usable.sum() < predictor.FEWEST_SUBNETS:
        return best_of(space, seen, budget)
    own = inspect.signature(predictor.fit).parameters
    fitting = {name: value for name, value in options.items() if name in own}
    fitted = predictor.fit(space, seen.genome[usable], seen.fitness[usable], key=keys[1], **fitting)
    tell(fitted)
    asking = {name: value for name, value in options.items() if name not in own}
    best = promising(keys[2], fitted, cost, budget, seen.genome, evaluations - count, measure.mesh, **asking)
    return best_of(space, joined(seen, measure(best)) if len(best) else seen, budget)


def promising(
    key: jax.Array,
    fitted: predictor.Predictor,
    cost: Callable[[jax.Array], jax.Array],
    budget: float,
    seen: np.ndarray,
    count: int,
    mesh: Mesh | None = None,
    **options: float,
) -> np.ndarray:
    """int32[n, G]: the Pareto front of cost and predicted fitness, the fittest first, then what is predicted next best.

    Evolution looks for the best within each of `count` budgets up to the one given; random genomes stand behind them.

    Args:
        seen: int32[m, G], in canonical form, not to be returned again.
        count: n, or less where no more are found.
    """
    space, (run_key, draw_key) = fitted.space, jax.random.split(key)
    least = float(cost(np.asarray(space.smallest)))
    limits = np.linspace(least, budget, count + 1)[1:].astype(np.float32)
    search = lambda key, limit: evolution.run(key, space, fitted, cost, limit, **options)  # noqa: E731
    found = evolution.for_budgets(search, jax.random.split(run_key, count), limits, mesh or devices.data_mesh())
    drawn = random_search.draw(draw_key, space, cost, budget, count + len(seen))
    pool = np.unique(np.concatenate([found.genome[found.feasible], drawn]), axis=0)
    old = (pool[:, None] == seen[None]).all(axis=-1).any(axis=1)
    price, predicted = (np.asarray(jax.jit(jax.vmap(lambda g, f=f: f(g)))(pool)) for f in (cost, fitted))
    order = np.lexsort((-predicted, ~pareto.front(price, predicted)))
    return pool[order[~old[order]]][:count]
