"""Time the evolution of once-for-all's MobileNetV3 space: python benchmarks/evolution.py [--runs N].

100 genomes for 500 generations under one MACs budget, and under 50 budgets at once; the fitness is the 3 x 400 MLP of
`search.predictor` (with random weights: its time does not depend on them). Then the MACs of a million genomes, from the table.
Prints one JSON object; compile times stand apart from run times.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import result

from dynnas_jax.costs import macs
from dynnas_jax.networks import ofa
from dynnas_jax.search import evolution, predictor

POPULATION, GENERATIONS, BUDGETS, GENOMES = 100, 500, 50, 1_000_000


def timed(function, *arguments, runs: int) -> dict:
    """Compile time, median and spread of the run time, in seconds."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_s = time.perf_counter() - start
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return {"compile_s": round(compile_s, 2), **result.times(seconds, "s", 4)}


def random_mlp(features: int):
    """A fitness's MLP with random weights in every layer."""
    inputs = jnp.zeros((features,), jnp.float32)
    params = predictor.MLP().init(jax.random.key(0), inputs)["params"]
    last = f"Dense_{len(predictor.WIDTHS)}"
    kernel = jax.random.normal(jax.random.key(1), params[last]["kernel"].shape)
    return {**params, last: {**params[last], "kernel": kernel}}


def searcher(space, cost, generations: int = GENERATIONS):
    """search(key, budget) -> what evolution finds with the random predictor."""
    params = random_mlp(sum(space.sizes))

    def search(key, budget):
        def fitness(genome):
            return predictor.MLP().apply({"params": params}, space.encode(genome))

        return evolution.run(key, space, fitness, cost, budget, population=POPULATION, generations=generations)

    return search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="timed runs with one budget; a third as many with 50")
    runs = parser.parse_args().runs
    supernet = ofa.ofa_mobilenet_v3()
    space, cost = supernet.space, macs.table(supernet)
    search = searcher(space, cost)
    low, high = cost.exact(space.smallest), cost.exact(space.largest)
    budgets = jnp.linspace(1.05 * low, high, BUDGETS, dtype=jnp.float32)
    keys = jax.random.split(jax.random.key(2), BUDGETS)
    one = timed(search, keys[0], budgets[BUDGETS // 3], runs=runs)
    many = timed(jax.vmap(search), keys, budgets, runs=max(1, runs // 3))
    genomes = space.sample(jax.random.key(3), GENOMES)
    costs = timed(cost, genomes, runs=runs)
    what = (
        f"evolution of {POPULATION} genomes x {GENERATIONS} generations, ofa_mobilenet_v3 "
        f"({len(space.sizes)} genes), 3 x 400 MLP fitness, MACs table"
    )
    result.show(what, {"one_budget": one, f"{BUDGETS}_budgets_vmapped": many, f"macs_of_{GENOMES}_genomes": costs})


if __name__ == "__main__":
    main()
