"""Constrained evolution of genomes under a cost budget, as one `lax.scan`.

The effort is fixed: `generations` times `children` evaluations, whatever the budget; nothing is rejected and redrawn.
Candidates are ordered by the rule of Deb, "An efficient constraint handling method for genetic algorithms" (2000):
a feasible one beats an infeasible one, two feasible ones compare by fitness, two infeasible ones by cost. The loop is
that of once-for-all (Cai et al., 2020: half the children mutated, half crossed over) or, with `aging`, that of
regularized evolution (Real et al., 2019).
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dynnas_jax import devices, processes
from dynnas_jax.search_space import SearchSpace

FORMS = ("vmapped", "mapped")
FILLING = -1  # stands in a row that is no genome
BELOW = np.float32(1 - 1e-6)  # float32 sums of costs may be as far off; a budget times this is never exceeded for it


class Found(NamedTuple):
    """What a search found."""

    genome: jax.Array  # int32[G], canonical; the cheapest one seen if no candidate was feasible
    fitness: jax.Array  # float32[], of that genome
    cost: jax.Array  # float32[], of that genome, in the unit of the budget
    feasible: jax.Array  # bool[], whether cost <= budget
    history: jax.Array  # float32[generations], best feasible fitness so far; -inf before the first feasible candidate


class Population(NamedTuple):
    """Evaluated genomes."""

    genome: jax.Array  # int32[P, G]
    fitness: jax.Array  # float32[P]
    cost: jax.Array  # float32[P]


def run(
    key: jax.Array,
    space: SearchSpace,
    fitness: Callable[[jax.Array], jax.Array],
    cost: Callable[[jax.Array], jax.Array],
    budget: jax.Array | float,
    mesh: Mesh | None = None,
    form: str = FORMS[0],
    start: jax.Array | None = None,
    *,
    population: int = 100,
    generations: int = 500,
    children: int | None = None,
    tournament: int = 4,
    mutation_share: float = 0.5,
    mutation_probability: float = 0.1,
    aging: bool = False,
) -> Found:
    """Search for the fittest genome whose cost is at most `budget`.

    Pure and traceable: wrap it in `jax.jit`, and in `jax.vmap` over keys and budgets. The smallest genome of the space
    is in the first population, so a budget that admits it always yields a feasible result.

    Args:
        key: PRNG key.
        space: the space to search.
        fitness: genome int32[G] -> float32 scalar, more is better; NaN counts as the worst.
        cost: genome int32[G] -> float32 scalar.
        budget: scalar, the largest cost allowed.
        mesh: devices over which the genomes of a population are spread to be evaluated, where one fitness is much work;
            for the search of many budgets rather spread those, with `for_budgets`.
        form: "vmapped", a device's genomes are evaluated together; "mapped", one after the other, where one fitness takes much
            memory, such as that of a whole net.
        start: int32[n, G], genomes of the first population beside the smallest, at most the population less one; the others
            are drawn.
        population: genomes alive at a time.
        generations: steps of the scan.
        children: genomes born and evaluated in a generation; if None as many as the population, or a quarter of it with `aging`,
            in which none would see its second generation otherwise.
        tournament: contestants for each parent's place.
        mutation_share: share of the children made by mutation; the others are crossed over.
        mutation_probability: probability of each gene to be redrawn in a mutation.
        aging: the oldest die instead of the worst (then the best found is kept outside the population).

    Raises:
        ValueError: for a setting outside its range.
    """
    children = _born(children, population, aging)
    _check(population, generations, children, tournament, mutation_share, mutation_probability, aging)
    budget = jnp.asarray(budget, jnp.float32)
    evaluate = evaluator(fitness, cost, mesh, form)
    sample_key, scan_key = jax.random.split(key)

    def generation(carry, step_key):
        alive, order, best = carry
        select_key, vary_key = jax.random.split(step_key)
        places = order[tournaments(select_key, population, tournament, 2 * children)]
        born = evaluate(offspring(vary_key, space, alive.genome[places], mutation_share, mutation_probability))
        alive, order = survivors(born, alive, budget, aging)
        best = better(best, _take(alive, order[0]), budget)
        return (alive, order, best), jnp.where(best.cost <= budget, best.fitness, -jnp.inf)

    drawn = space.sample(sample_key, population - 1)
    if start is not None:
        drawn = jnp.concatenate([jnp.asarray(start, jnp.int32), drawn])[: population - 1]
    first = evaluate(jnp.concatenate([jnp.asarray(space.smallest, jnp.int32)[None], drawn]))
    order = ranking(first, budget)
    carry = (first, order, _take(first, order[0]))
    (_, _, best), history = jax.lax.scan(generation, carry, jax.random.split(scan_key, generations))
    return Found(space.canonical(best.genome), best.fitness, best.cost, best.cost <= budget, history)


def check(**options) -> None:
    """Raises ValueError for settings that `run` does not take, with its defaults for those that are not given."""
    names, parameters = inspect.signature(_check).parameters, inspect.signature(run).parameters
    settings = {name: options.get(name, parameters[name].default) for name in names}
    _check(**settings | {"children": _born(settings["children"], settings["population"], settings["aging"])})


def schedule(evaluations: int, population: int | None = None) -> dict[str, int]:
    """`population` and `generations` of a search that evaluates at most so many genomes; as many of each by default.

    Raises:
        ValueError: for fewer evaluations than a first population and one generation of children take.
    """
    population = max(2, round(evaluations**0.5)) if population is None else population
    if population < 2 or evaluations < 2 * population:
        raise ValueError(
            f"evolution: {evaluations} evaluations are no population of {population}, which must be at least 2, "
            "and one generation of as many children"
        )
    return {"population": population, "generations": evaluations // population - 1}


def for_budgets(
    search: Callable[[jax.Array, jax.Array], Found], keys: jax.Array, budgets: np.ndarray, mesh: Mesh
) -> Found:
    """What `search(key, budget)` finds for keys[n] and budgets float32[n]: NumPy arrays with a leading axis n.

    One compiled program. Each device of the mesh does a part of the budgets, and every process has all results.
    """
    count, axes = len(budgets), PartitionSpec(mesh.axis_names)
    missing, kind = -count % mesh.size, jax.random.key_impl(keys)
    asked = np.asarray(jax.random.key_data(keys)), np.asarray(budgets, np.float32)
    asked = [np.concatenate([values, values[:1].repeat(missing, axis=0)]) for values in asked]

    def own(keys, budgets):
        return jax.vmap(search)(jax.random.wrap_key_data(keys, impl=kind), budgets)

    spread = jax.shard_map(own, mesh=mesh, in_specs=axes, out_specs=axes, check_vma=False)
    found = together(spread, mesh)(*devices.replicated(mesh, asked))
    return jax.tree.map(lambda rows: rows[:count], found)


def together(function: Callable, mesh: Mesh) -> Callable:
    """`function` compiled, of arguments that lie on every device of the mesh; its result as NumPy arrays in every process."""
    program = processes.Together(jax.jit(function, out_shardings=NamedSharding(mesh, PartitionSpec())))
    return lambda *arguments: devices.on_host(program(*arguments))


def evaluator(
    fitness: Callable[[jax.Array], jax.Array],
    cost: Callable[[jax.Array], jax.Array],
    mesh: Mesh | None = None,
    form: str = FORMS[0],
) -> Callable[[jax.Array], Population]:
    """The function from genomes int32[P, G] to the same with their fitness and cost; a NaN fitness becomes -inf.

    `mesh` and `form` as in `run`. Raises ValueError for an unknown form.
    """
    check_form(form)

    def evaluate(fitness: Callable, genome: jax.Array) -> Population:
        of_all = jax.vmap(fitness) if form == "vmapped" else functools.partial(jax.lax.map, fitness)
        value, price = (function(genome).astype(jnp.float32) for function in (of_all, jax.vmap(cost)))
        return Population(genome, jnp.where(jnp.isnan(value), -jnp.inf, value), price)

    if mesh is None:
        return functools.partial(evaluate, as_tree(fitness))
    return functools.partial(_spread(evaluate, mesh), unless_filling(fitness))


def as_tree(fitness: Callable) -> jax.tree_util.Partial:
    """The function as a pytree of the arrays that it holds on to: a `Partial` as it is; any other has none of its own."""
    return fitness if isinstance(fitness, jax.tree_util.Partial) else jax.tree_util.Partial(fitness)


def unless_filling(fitness: Callable) -> jax.tree_util.Partial:
    """The fitness, -inf without evaluating it for `FILLING`; vmapped it is evaluated for that too."""
    return jax.tree_util.Partial(_unless_filling, as_tree(fitness))


def _unless_filling(fitness: Callable, genome: jax.Array) -> jax.Array:
    evaluate = lambda genome: fitness(genome).astype(jnp.float32)  # noqa: E731
    return jax.lax.cond(genome[0] == FILLING, lambda _: jnp.float32(-jnp.inf), evaluate, genome)


def check_form(form: str) -> None:
    """Raises ValueError for an unknown form."""
    if form not in FORMS:
        raise ValueError(f"evolution: form is {form!r}, choose from {list(FORMS)}")


def _spread(evaluate: Callable[[Callable, jax.Array], Population], mesh: Mesh) -> Callable:
    """`evaluate` with the genomes dealt out to the devices of a mesh, and the results whole on every one."""
    axes = mesh.axis_names

    def own(fitness: jax.tree_util.Partial, genome: jax.Array) -> Population:
        each = -(-len(genome) // mesh.size)
        filled = jnp.pad(genome, ((0, each * mesh.size - len(genome)), (0, 0)), constant_values=FILLING)
        mine = jax.lax.dynamic_slice_in_dim(filled, jax.lax.axis_index(axes) * each, each)
        together = jax.lax.all_gather(evaluate(fitness, mine), axes, tiled=True)
        return jax.tree.map(lambda rows: rows[: len(genome)], together)

    whole = PartitionSpec()
    return jax.shard_map(own, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)


def ranking(candidates: Population, budget: jax.Array) -> jax.Array:
    """int32[P]: the candidates' indices from best to worst: the feasible by fitness, the others by cost, copies last.

    A copy is a candidate that equals a better-placed one in cost and fitness: mostly the same subnet again, whatever
    its genome says in genes that do not count. Left among the others, copies of the best fill the population and end
    the search early.
    """
    over = _overrun(candidates, budget)
    indices = jnp.arange(over.shape[0], dtype=jnp.int32)
    over, loss, indices = jax.lax.sort((over, -candidates.fitness, indices), num_keys=2)
    copy = jnp.zeros(over.shape, bool).at[1:].set((over[1:] == over[:-1]) & (loss[1:] == loss[:-1]))
    return jax.lax.sort((copy.astype(jnp.int32), indices), num_keys=1, is_stable=True)[1]


def better(a: Population, b: Population, budget: jax.Array) -> Population:
    """The better of two candidates (fields without the leading axis), `a` if they are equal."""
    over_a, over_b = _overrun(a, budget), _overrun(b, budget)
    b_wins = (over_b < over_a) | ((over_b == over_a) & (b.fitness > a.fitness))
    return jax.tree.map(lambda x, y: jnp.where(b_wins, y, x), a, b)


def survivors(born: Population, alive: Population, budget: jax.Array, aging: bool) -> tuple[Population, jax.Array]:
    """The next population, of the size of `alive`, and its ranking int32[P]: the best live on, or the youngest."""
    size = alive.cost.shape[0]
    pool = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), born, alive)  # youngest first
    if aging:
        youngest = _take(pool, slice(size))
        return youngest, ranking(youngest, budget)
    return _take(pool, ranking(pool, budget)[:size]), jnp.arange(size, dtype=jnp.int32)


def tournaments(key: jax.Array, population: int, size: int, winners: int) -> jax.Array:
    """int32[winners]: for each winner the best (the least) rank among `size` contestants drawn with replacement."""
    return jax.random.randint(key, (winners, size), 0, population).min(axis=1)


def offspring(
    key: jax.Array, space: SearchSpace, parents: jax.Array, mutation_share: float, mutation_probability: float
) -> jax.Array:
    """int32[n, G] from parents int32[2n, G]: the first share are mutants of parent i, the others cross i and n + i."""
    first, second = jnp.split(parents, 2)
    count = first.shape[0]
    mutants = round(count * mutation_share)
    keys = jax.random.split(key, count)
    mutated = jax.vmap(space.mutate, in_axes=(0, 0, None))(keys[:mutants], first[:mutants], mutation_probability)
    crossed = jax.vmap(space.crossover)(keys[mutants:], first[mutants:], second[mutants:])
    return jnp.concatenate([mutated, crossed])


def _overrun(candidates: Population, budget: jax.Array) -> jax.Array:
    """The cost of the infeasible, -inf for the feasible; not cost - budget, whose rounding would merge costs."""
    return jnp.where(candidates.cost <= budget, -jnp.inf, candidates.cost)


def _take(candidates: Population, indices) -> Population:
    return jax.tree.map(lambda x: x[indices], candidates)


def _born(children: int | None, population: int, aging: bool) -> int:
    """How many are born in a generation where that is left open."""
    if children is not None:
        return children
    return max(1, population // 4) if aging else population


def _check(population, generations, children, tournament, mutation_share, mutation_probability, aging) -> None:
    for name, value, least in (
        ("population", population, 2),
        ("generations", generations, 1),
        ("children", children, 1),
        ("tournament", tournament, 1),
    ):
        if value < least:
            raise ValueError(f"evolution.run: {name} is {value}; it must be at least {least}")
    for name, value in (("mutation_share", mutation_share), ("mutation_probability", mutation_probability)):
        if not 0 <= value <= 1:
            raise ValueError(f"evolution.run: {name} is {value}; it must lie in [0, 1]")
    if aging and children > population:
        raise ValueError(
            f"evolution.run: {children} children cannot all live in a population of {population}; "
            "with aging, children must be at most population"
        )
