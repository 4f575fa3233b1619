"""What a path costs on the clock by every way to run it (Table 1 of Li et al. 2021, arXiv 2103.13258); prints JSON.

    python benchmarks/slicing.py [--resolution=224] [--ratio=0.25] [--batch=1] [--repeats=30] [--small]

ds_resnet50, untrained: `full` is the widest path; the others compute the path whose gates all pick the ratio. `masking` has the
widest net with norms zeroed; `indexing` gathers the filters in use, by indices that are not known beforehand; `slicing` has the
gates and the switch; `ideal` is a net of that width alone, no gates. --small takes a net of 32 pixels, to try it.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import result

from dynnas_jax import masking
from dynnas_jax.dynamic import gates
from dynnas_jax.elastic import init, traced_blocks
from dynnas_jax.networks import ds_net, gate, gated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    supernet = ds_net.ds_resnet_small() if options.small else ds_net.ds_resnet50(resolution=options.resolution)
    choice = supernet.space.genes[0].choices.index(options.ratio)
    path = np.full(len(supernet.space.genes), choice, np.int32)
    side = supernet.arch(path).resolution
    variables = picking(init(supernet.largest_net(), jax.random.key(0), (side, side, 3)), choice)
    variables[gated.PATHS] = {}
    images = np.random.default_rng(0).integers(0, 256, (options.batch, side, side, 3)).astype(np.uint8)
    figures = measured(ways(supernet, variables, path, images), options.repeats)
    ideal = figures["ideal"]["median_ms"]
    figures["slicing_over_ideal"] = round(figures["slicing"]["median_ms"] / ideal, 3)
    result.show(f"{options.batch} image(s) of {side} pixels at ratio {options.ratio}", figures)


def picking(variables: dict, choice: int) -> dict:
    """The variables with gates that pick this choice whatever they see."""
    heads = gate.trained(variables["params"])
    for own in heads.values():
        last = own["choose_conv"]
        own["choose_conv"] = {**last, "bias": last["bias"].at[choice].add(1e3)}
    return {**variables, "params": gate.with_trained(variables["params"], heads)}


def ways(supernet, variables: dict, path: np.ndarray, images: np.ndarray) -> dict:
    """(program, its arguments) by name."""
    net, own = gated.path(supernet, variables, path)
    widest, whole = gated.path(supernet, variables, supernet.space.largest)
    plain = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    masked = jax.jit(lambda v, p: masking.mask_variables(supernet, v, p))(plain, jnp.asarray(path))
    batched = gates.switched(supernet) if len(images) == 1 else gates.grouped(supernet)
    indices = used(supernet, path)
    return {
        "full": (jax.jit(lambda v, x: widest.apply(v, x)[0]), whole, images),
        "masking": (jax.jit(lambda v, x: supernet.masked_net().apply(v, x)[0]), masked, images),
        "indexing": (jax.jit(lambda v, i, x: net.apply(gathered(v, i), x)[0]), plain, indices, images),
        "slicing": (jax.jit(batched), variables, images),
        "ideal": (jax.jit(lambda v, x: net.apply(v, x)[0]), own, images),
    }


def used(supernet, path: np.ndarray) -> dict:
    """Like the path's variables, the indices in use of every axis of each leaf."""
    traced = traced_blocks(supernet, supernet.arch(path))
    shapes = {name: found.variables["params"] for name, (_, found) in traced.items()}
    return {"params": jax.tree.map(lambda leaf: tuple(jnp.arange(n, dtype=jnp.int32) for n in leaf.shape), shapes)}


def gathered(variables: dict, indices: dict) -> dict:
    """The variables by their indices, an axis at a time."""

    def take(axes: tuple, leaf: jax.Array) -> jax.Array:
        for axis, own in enumerate(axes):
            leaf = jnp.take(leaf, own, axis=axis)
        return leaf

    is_axes = lambda node: isinstance(node, tuple)  # noqa: E731
    params = {
        name: jax.tree.map(take, own, {key: variables["params"][name][key] for key in own}, is_leaf=is_axes)
        for name, own in indices["params"].items()
    }
    return {**variables, "params": params}


def measured(programs: dict, repeats: int) -> dict:
    """Milliseconds of each, in turns, so that what slows the machine slows all."""
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 2):
        for name, (run, *arguments) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            if turn >= 2:  # the first compiles
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: result.times(values, "ms") for name, values in taken.items()}


if __name__ == "__main__":
    main()
