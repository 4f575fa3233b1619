"""What a path costs on the clock by every way to run it (Table 1 of Li et al. 2021, arXiv 2103.13258); prints JSON.

    python benchmarks/slicing.py [--resolution=224] [--ratio=0.25] [--batch=1] [--repeats=30] [--small] [--only=slicing,ideal]

ds_resnet50, untrained: `full` is the widest path; the others compute the path whose gates all pick the ratio. `masking` has the
widest net, its norms zeroed as it runs, by a path that is not known beforehand; `indexing` gathers the filters in use, by such
indices; `slicing` has the gates and the switch, on variables that were cut for every part once, and copied so;
`slicing_each_call` slices them as it runs, where they are: what is claimed of slicing is to hold for both; `ideal` is a net of
that width alone, without gates, `attention` the same with their attention heads. Ratios are of `ideal`, turn by turn. --small
takes a net of 32 pixels, to try it; the whole one's 53 parts compile for minutes.
"""

import argparse
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import result

from dynnas_jax import masking
from dynnas_jax.dynamic import gates
from dynnas_jax.elastic import init, traced_blocks
from dynnas_jax.networks import ds_net, gate, gated, gated_parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", help="of the ways, with commas; ideal is always there")
    options = parser.parse_args()
    supernet = (
        ds_net.ds_resnet_small(depthwise="auto")
        if options.small
        else ds_net.ds_resnet50(resolution=options.resolution, depthwise="auto")
    )
    choice = supernet.space.genes[0].choices.index(options.ratio)
    path = np.full(len(supernet.space.genes), choice, np.int32)
    side = supernet.arch(path).resolution
    variables = picking(init(supernet.largest_net(), jax.random.key(0), (side, side, 3)), choice)
    variables[gated.PATHS] = {}
    images = np.random.default_rng(0).integers(0, 256, (options.batch, side, side, 3)).astype(np.uint8)
    programs = ways(supernet, variables, path, images)
    wanted = {*options.only.split(","), "ideal"} if options.only else set(programs)
    figures = measured({name: made() for name, made in programs.items() if name in wanted}, options.repeats)
    result.show(f"{options.batch} image(s) of {side} pixels at ratio {options.ratio}", figures)


def picking(variables: dict, choice: int) -> dict:
    """The variables with gates that pick this choice whatever they see."""
    heads = gate.trained(variables["params"])
    for own in heads.values():
        last = own["choose_conv"]
        own["choose_conv"] = {**last, "bias": last["bias"].at[choice].add(1e3)}
    return {**variables, "params": gate.with_trained(variables["params"], heads)}


def ways(supernet, variables: dict, path: np.ndarray, images: np.ndarray) -> dict:
    """What makes (a program, its arguments) by name."""
    plain = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    batched = jax.jit(gates.switched(supernet) if len(images) == 1 else gates.grouped(supernet))

    def alone(genome: np.ndarray, attention: bool = True) -> tuple:
        net, own = gated.path(supernet, variables, genome)
        if not attention:
            net, own = without_gates(supernet, net, own)
        return jax.jit(lambda v, x: net.apply(v, x)[0]), own, images

    def masking_it() -> tuple:
        run = jax.jit(lambda v, p, x: supernet.masked_net().apply(masking.mask_variables(supernet, v, p), x)[0])
        return run, plain, jnp.asarray(path), images

    def indexing() -> tuple:
        net, _ = gated.path(supernet, variables, path)
        run = jax.jit(lambda v, i, x: net.apply(gathered(v, i), x)[0])
        return run, plain, used(supernet, path), images

    return {
        "full": lambda: alone(supernet.space.largest),
        "masking": masking_it,
        "indexing": indexing,
        "slicing": lambda: (batched, jax.jit(lambda v: gated_parts.cut(supernet, v))(variables), images),
        "slicing_each_call": lambda: (batched, variables, images),
        "attention": lambda: alone(path),
        "ideal": lambda: alone(path, attention=False),
    }


def without_gates(supernet, net, variables: dict) -> tuple:
    """The net and its variables less the gates of all blocks."""
    blocks = tuple((name, replace(spec, gate=None)) for name, spec in net.arch.blocks)
    params = {
        block: {name: leaf for name, leaf in own.items() if name != gate.NAME}
        for block, own in variables["params"].items()
    }
    return supernet.net(replace(net.arch, blocks=blocks)), {**variables, "params": params}


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
    """Milliseconds of each, in turns, so that what slows the machine slows all; and how much longer than `ideal` they take."""
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 2):
        for name, (run, *arguments) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            if turn >= 2:  # the first compiles
                taken[name].append(1e3 * (time.perf_counter() - start))
    ideal = np.asarray(taken["ideal"])
    over = {name: result.ratios(np.asarray(values) / ideal) for name, values in taken.items() if name != "ideal"}
    return {name: result.times(values, "ms") for name, values in taken.items()} | {"over_ideal": over}


if __name__ == "__main__":
    main()
