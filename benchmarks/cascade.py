"""Time the cascade against big alone: python benchmarks/cascade.py [--network full|tiny] [--batch 256] [--quick].

A pair of the space of configs/cifar10.py, of random variables: big is the largest subnet, little the drawn subnet whose MACs
come nearest to a share of big's. Thresholds are quantiles of little's scores, so that a part of the images goes on to big.
Big alone runs in chunks of several sizes, the cascade in chunks of several capacities; all take turns, so that what else runs
on the machine meets them alike. Prints one JSON object; the ratios are the result, the times depend on the load. For each part:
`promised` is big's MACs over the average MACs of an image, `speed_up` the time of big alone at its best chunk size over the
cascade's, `reached` the one as a part of the other. `by_cpu` counts processor time, against big's best chunk size in that.
`reached_of_own_times` puts, in place of MACs, the times of both nets alone at their best: what is lacking there the cascade
costs, the rest the little net.
"""

import argparse
import resource
import runpy
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import result
from step import summary

from dynnas_jax.costs import macs
from dynnas_jax.dynamic import cascade, protocol
from dynnas_jax.elastic import Supernet, init
from dynnas_jax.networks import big_little, ofa
from dynnas_jax.pipeline import keep_memory

RECIPE = Path(__file__).parents[1] / "configs" / "cifar10.py"
IMAGE = (32, 32, 3)
PASSED = (0.2, 0.4, 0.6)  # parts of the images that go on to big
CHUNKS = (4, 8, 16, 32, 64, 128, 256)
DRAWN = 4096  # subnets little is taken from


def space_of_recipe(mode: str) -> Supernet:
    options = runpy.run_path(str(RECIPE))["get_config"]("" if mode == "full" else mode).supernet.to_dict()
    options.pop("network")
    return ofa.small_images(image_size=IMAGE[0], depthwise="auto", **options)


def little_genome(supernet: Supernet, share: float) -> np.ndarray:
    """The smallest subnet, or the drawn one, whose MACs are nearest to a share of the largest's."""
    table, space = macs.table(supernet), supernet.space
    genomes = np.concatenate([space.smallest[None], np.asarray(space.sample(jax.random.key(0), DRAWN))])
    costs = np.asarray(jax.jit(jax.vmap(table))(genomes))
    return genomes[np.argmin(np.abs(costs - share * table.exact(space.largest)))]


def in_chunks(function, size: int):
    """(variables, images[B, ...]) -> logits[B, C], `size` images at a time in one compiled program."""

    def run(variables, images):
        chunks = images.reshape(-1, size, *images.shape[1:])
        return jax.lax.map(lambda chunk: function(variables, chunk), chunks).reshape(len(images), -1)

    return jax.jit(run)


class Runner:
    """A compiled call; calling it times it: (seconds, processor seconds)."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments
        start = time.perf_counter()
        self.result = jax.block_until_ready(function(*arguments))
        self.first_s = time.perf_counter() - start

    def __call__(self) -> tuple[float, float]:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        jax.block_until_ready(self.function(*self.arguments))
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.perf_counter() - start, cpu


def runners(pair, variables, images, chunks) -> tuple[dict, dict]:
    """(big and little alone, by net and chunk; the cascade, by part that goes on and capacity)."""
    dynamic = protocol.confident_pair(pair)
    alone = {}
    for size in chunks:
        for which in ("big", "little"):
            net = getattr(pair, which)
            run = in_chunks(lambda own, x, net=net: net.apply(own, x)[0], size)
            alone[which, size] = Runner(run, variables[which], images)
    score = np.sort(np.asarray(jax.jit(lambda v, x: dynamic.steps[0](v, x)[1])(variables, images)))
    cascades = {}
    for capacity in (*chunks, None):
        run = cascade.build(dynamic, capacity=capacity)
        for part in PASSED:
            place = round(part * len(score))
            threshold = jnp.float32((float(score[place - 1]) + float(score[place])) / 2)
            cascades[part, capacity] = Runner(run, variables, images, threshold[None])
    return alone, cascades


def best_chunks(samples: dict, which: str) -> tuple[int, int]:
    """The chunk sizes at which a net alone is fastest: on the clock, and by processor time."""
    medians = {key[1]: np.median(values, axis=0) for key, values in samples.items() if key[0] == which}
    return tuple(min(medians, key=lambda size, column=column: medians[size][column]) for column in (0, 1))


def compared(samples: np.ndarray, references: list[np.ndarray], promised: float) -> dict:
    """Turn by turn, on the clock and by processor time: both halves of a ratio met the same load."""
    found = {"promised": round(promised, 3)}
    for column, (kind, reference) in enumerate(zip(("", "_by_cpu"), references, strict=True)):
        turns = reference[:, column] / np.maximum(samples[:, column], 1e-9)
        told = result.ratios(turns)
        found |= {f"speed_up{kind}": told["median"], f"spread{kind}": told["spread"]}
        found[f"reached{kind}"] = round(float(np.median(turns)) / promised, 3)
    return found


def measure(mode: str, batch: int, turns: int, chunks: tuple[int, ...], share: float) -> dict:
    """The facts of one pair."""
    supernet = space_of_recipe(mode)
    pair = big_little.build(supernet, little_genome(supernet, share), supernet.space.largest)
    variables = {
        which: init(getattr(pair, which), jax.random.key(s), IMAGE) for s, which in enumerate(("little", "big"))
    }
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (batch, *IMAGE), np.uint8))
    chunks = tuple(size for size in chunks if batch % size == 0)
    alone, cascades = runners(pair, variables, images, chunks)
    samples = {key: [] for key in (*alone, *cascades)}
    for _ in range(turns):
        for key, run in (alone | cascades).items():
            samples[key].append(run())
    return report(pair, alone, cascades, {key: np.asarray(values) for key, values in samples.items()}, batch)


def report(pair, alone: dict, cascades: dict, samples: dict, batch: int) -> dict:
    cost, best, least = big_little.cost(pair), best_chunks(samples, "big"), best_chunks(samples, "little")[0]
    facts = {"macs": {"little": cost.little, "big": cost.big, "stem": cost.stem}, "best_chunks_of_big": best}
    for which, size in alone:
        facts.setdefault(f"{which}_alone", {})[size] = summary(samples[which, size], batch)
    clock = {key: np.median(values[:, 0]) for key, values in samples.items()}
    for (part, capacity), run in cascades.items():
        answered = run.result.answered.tolist()
        promised = cost.big * batch / float(np.dot(answered, cost.cumulative))
        row = {"answered": answered}
        row |= compared(samples[part, capacity], [samples["big", size] for size in best], promised)
        own = clock["little", least] + answered[1] / batch * clock["big", best[0]]
        row["reached_of_own_times"] = round(float(own / clock[part, capacity]), 3)
        row |= summary(samples[part, capacity], batch) | {"first_call_s": round(run.first_s, 1)}
        name = "default" if capacity is None else capacity
        facts.setdefault("cascade", {}).setdefault(f"{part:.0%} go on", {})[name] = row
    return facts


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=("full", "tiny", "both"), default="both")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--turns", type=int, default=9, help="timed calls of each kind")
    parser.add_argument("--chunks", default=",".join(map(str, CHUNKS)), help="images, as far as they divide the batch")
    parser.add_argument("--little_share", type=float, default=0.15, help="of big's MACs")
    parser.add_argument("--quick", action="store_true", help="the tiny pair, 64 images, 3 turns, two chunk sizes")
    parser.add_argument("--keep_memory", action="store_true", help="let glibc keep freed memory (Linux, process-wide)")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.keep_memory:
        keep_memory()
    modes = ("full", "tiny") if asked.network == "both" else (asked.network,)
    batch, turns, chunks = asked.batch, asked.turns, tuple(int(size) for size in asked.chunks.split(","))
    if asked.quick:
        modes, batch, turns, chunks = ("tiny",), 64, 3, (8, 32)
    pairs = {mode: measure(mode, batch, turns, chunks, asked.little_share) for mode in modes}
    what = f"a cascade of two nets of configs/cifar10.py, batch {batch}, n {turns}, keep_memory {asked.keep_memory}"
    result.show(what, {"default_capacity": cascade.default_capacity(2), "pairs": pairs})


if __name__ == "__main__":
    main()
