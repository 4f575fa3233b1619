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

ROUNDS = 3  # of mutants of what is predicted best
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
    """int32[n, G]: of the Pareto front of cost and predicted fitness the fittest, at most a quarter; then what is predicted best.

    Evolution looks for the best within each of a few budgets up to the one given. What it finds, random genomes, and mutants of
    the best of both are considered; to ask the predictor is next to nothing.

    Args:
      seen: int32[m, G], in canonical form, not to be returned again.
      count: n, or less where no more are found.
    """
    space, (run_key, pool_key) = fitted.space, jax.random.split(key)
    few = max(1, count // 4)
    limits = np.linspace(float(cost(np.asarray(space.smallest))), budget, few + 1)[1:].astype(np.float32)
    search = lambda key, limit: evolution.run(key, space, fitted, cost, limit, **options)  # noqa: E731
    found = evolution.for_budgets(search, jax.random.split(run_key, few), limits, mesh or devices.data_mesh())
    pool, price, predicted = _considered(pool_key, fitted, cost, budget, found.genome, count)
    fresh = ~(pool[:, None] == seen).all(axis=-1).any(axis=1)
    pool, price, predicted = pool[fresh], price[fresh], predicted[fresh]
    best = np.argsort(-predicted, kind="stable")
    first = best[pareto.front(price, predicted)[best]][:few]
    return pool[np.concatenate([first, best[~np.isin(best, first)]])][:count]


def _considered(key, fitted, cost, budget, found: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(genomes int32[n, G] within the budget, their costs [n], their predicted fitness [n]), in no order, no two alike."""
    price, predict = jax.jit(jax.vmap(cost)), jax.jit(jax.vmap(lambda genome: fitted(genome)))
    space, many = fitted.space, random_search.DRAWS * count
    draw_key, *round_keys = jax.random.split(key, 1 + ROUNDS)
    pool = np.concatenate([found, random_search.draw(draw_key, space, cost, budget, many)])
    for round_key in round_keys:
        best = pool[np.argsort(-np.asarray(predict(pool)), kind="stable")][:count]
        pool = np.unique(np.concatenate([pool, mutants(round_key, space, best, many)]), axis=0)
        pool = pool[np.asarray(price(pool)) <= np.float32(budget)]
    return pool, np.asarray(price(pool)), np.asarray(predict(pool))


def mutants(key: jax.Array, space: SearchSpace, parents: np.ndarray, count: int) -> np.ndarray:
    """int32[count, G], canonical: of each parent as many, with two genes drawn anew on average."""
    repeated = np.resize(parents, (count, parents.shape[1]))
    mutate = lambda key, genome: space.canonical(space.mutate(key, genome, 2 / len(space.sizes)))  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(mutate))(jax.random.split(key, count), repeated))
