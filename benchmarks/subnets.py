"""Time the ways to run a step's random subnets: python benchmarks/subnets.py [--network digits|cifar10] [--forms shifts conv].

The gradient of one random subnet that learns a teacher's answers, on the nets of configs/digits.py and configs/cifar10.py:tiny:
masked (one program), switched (one program), and a pool (`--pool` sliced branches of one program); `sliced` is a program of one
genome, for comparison. Each takes its turn with each of the same genomes. Prints one JSON object: time of a gradient, of the
compilation, and the program's temporary memory.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import result

from dynnas_jax.costs import macs
from dynnas_jax.elastic import init
from dynnas_jax.networks import ofa
from dynnas_jax.train import distillation
from dynnas_jax.train.subnets import Runs

DIGITS = {"image_size": 8, "channels": 1, "mean": (0.5,), "std": (0.3,), "stem": 16, "stage_widths": (16, 32, 48)}
DIGITS |= {"stage_strides": (1, 2, 1), "head": 64, "depths": (1, 2), "kernels": (3, 5), "expands": (1, 2, 4)}
TINY = {"image_size": 32, "stem": 12, "stem_stride": 2, "stage_widths": (16, 24, 44), "stage_strides": (2, 1, 2)}
TINY |= {"head": 96, "depths": (1, 2), "kernels": (3, 5), "expands": (1, 2, 3), "divisor": 4}
NETWORKS = {"digits": DIGITS, "cifar10": TINY}
WAYS = ("masked", "switched", "pool", "sliced")


def gradient_program(supernet, way: str, members, drawn):
    """run(params, stats, images, teacher, index) -> gradient of the `index`-th genome of `drawn`."""
    runs = Runs(supernet, None, None, {"sliced": "pool"}.get(way, way))
    static = {"pool": members, "sliced": members[:1]}.get(way)
    _, run_of = runs.random(jax.random.key(0), 1, None, static)

    def loss(params, stats, images, teacher, index):
        which = index % len(static) if static else jnp.asarray(drawn)[index]
        ran = run_of(which)({"params": params, "batch_stats": stats}, images)
        return distillation.soft_cross_entropy(ran.logits, teacher)

    return jax.jit(jax.grad(loss))


def measure(supernet, ways, given, members, runs: int) -> dict:
    """Each way's figures; all take turns."""
    programs, found = {}, {}
    for way in ways:
        start = time.perf_counter()
        lowered = gradient_program(supernet, way, members, members).lower(*given, jnp.int32(0))
        traced = time.perf_counter()
        programs[way] = lowered.compile()
        memory = programs[way].memory_analysis()
        times = {"trace_s": round(traced - start, 1), "compile_s": round(time.perf_counter() - traced, 1)}
        found[way] = times | {"temporary_mb": round(memory.temp_size_in_bytes / 1e6, 1)}
        jax.block_until_ready(programs[way](*given, jnp.int32(0)))
    samples = {way: [] for way in ways}
    for number in range(runs):
        for way, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*given, jnp.int32(number % len(members))))
            samples[way].append((time.perf_counter() - start) * 1e3)
    for way, values in samples.items():
        found[way] |= result.times(values, "ms", 2)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted(NETWORKS), default="digits")
    parser.add_argument("--forms", nargs="+", choices=("shifts", "conv"), default=["shifts", "conv"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pool", type=int, default=4, help="genomes, of the pool and of the turns")
    parser.add_argument("--runs", type=int, default=20, help="timed gradients of each way")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    build, results = functools.partial(ofa.small_images, **NETWORKS[asked.network]), {}
    for form in asked.forms:
        supernet = build(depthwise=form)
        arch, generator = supernet.arch(supernet.space.largest), np.random.default_rng(0)
        shape = (asked.batch, arch.resolution, arch.resolution, arch.channels)
        images = jnp.asarray(generator.integers(0, 256, shape, np.uint8))
        teacher = jnp.asarray(generator.normal(size=(asked.batch, arch.classes)), jnp.float32)
        variables = init(supernet.largest_net(), jax.random.key(0), shape[1:])
        drawn = np.asarray(supernet.space.sample(jax.random.key(1), asked.pool)).tolist()
        members = tuple(map(tuple, drawn))
        given = variables["params"], variables["batch_stats"], images, teacher
        results[form] = measure(supernet, asked.ways, given, members, asked.runs)
    costs = macs.table(supernet)
    what = f"gradients of random subnets of the {asked.network} net, batch {asked.batch}, pool of {asked.pool}"
    counts = {
        "largest": costs.exact(supernet.space.largest),
        "subnets": [costs.exact(np.asarray(genome, np.int32)) for genome in members],
    }
    result.show(what, {"macs": counts, "results": results})


if __name__ == "__main__":
    main()
