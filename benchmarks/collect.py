"""Time collecting: python benchmarks/collect.py [--recipe digits|cifar10_tiny] [--widths 1 2 4 8 16] [--devices N] [--runs N].

Subnets per second of `search.collect` with so many subnets at once on a device (1: one after the other), on the net of a recipe
and random images of its number and size. All take turns, so that what else runs on the machine meets them alike. Prints one JSON
object; the ratios to the first width are the result, the speeds depend on the load. `cpu_ms` is the processor time of a subnet,
over all threads.
"""

import argparse
import resource
import time
from pathlib import Path

import jax
import numpy as np
import result

from dynnas_jax import devices, settings
from dynnas_jax.data.splits import Split
from dynnas_jax.elastic import init_supernet
from dynnas_jax.job import build_supernet
from dynnas_jax.pipeline import keep_memory
from dynnas_jax.search import collect

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# (config, shape of an image, held-out images)
RECIPES = {"digits": ("digits.py", (8, 8, 1), 215), "cifar10_tiny": ("cifar10.py:tiny", (32, 32, 3), 2000)}


def problem(asked) -> tuple:
    """(supernet, its variables, calibration images, held-out split) of the recipe."""
    file, shape, held_out = RECIPES[asked.recipe]
    config = settings.as_dict(settings.load([f"--config={CONFIGS / file}"]))
    moments = [0.5] * shape[-1]
    supernet = build_supernet(
        config["supernet"], {"image_shape": shape, "classes": range(10), "mean": moments, "std": moments}
    )
    generator, held_out = np.random.default_rng(0), asked.images or held_out
    calibration = asked.calibration_images or config["collect"]["calibration_images"]
    pixels = generator.integers(0, 256, (calibration + held_out, *shape), np.uint8)
    labels = generator.integers(0, 10, held_out).astype(np.int32)
    split = Split(pixels[calibration:], labels, np.arange(held_out))
    return supernet, init_supernet(supernet, jax.random.key(0), shape), pixels[:calibration], split


class Collector:
    """An evaluator that has compiled; a call evaluates one chunk: (subnets/s, processor seconds of a subnet)."""

    def __init__(self, asked, width: int, given: tuple):
        supernet, variables, calibration, split = given
        options = {"width": width, "chunk": asked.chunk, "mesh": devices.data_mesh(asked.devices)}
        self.evaluate = collect.Evaluator(supernet, calibration, split, **options)
        self.variables = self.evaluate.placed(variables)
        self.genomes = collect.distinct(supernet.space, jax.random.key(1), asked.chunk)
        start = time.perf_counter()
        self.evaluate(self.variables, self.genomes)
        self.first_call_s = time.perf_counter() - start

    def __call__(self) -> tuple[float, float]:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        self.evaluate(self.variables, self.genomes)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return len(self.genomes) / seconds, cpu / len(self.genomes)


def summary(samples: np.ndarray, first: np.ndarray) -> dict:
    """Of one width: samples [turns, 2], and those of the first width."""
    return {
        "subnets_per_s": result.ratios(samples[:, 0]),
        "ratio_to_the_first": result.ratios(samples[:, 0] / first[:, 0]),
        "cpu_ms": round(float(np.median(samples[:, 1])) * 1e3, 1),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="digits")
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="subnets at once on a device")
    parser.add_argument("--chunk", type=int, default=16, help="subnets of a call")
    parser.add_argument("--runs", type=int, default=7, help="timed chunks of each kind")
    parser.add_argument("--devices", type=int, help="all by default")
    parser.add_argument("--images", type=int, help="held-out images, instead of the recipe's")
    parser.add_argument("--calibration_images", type=int, help="instead of the recipe's")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    keep_memory()
    given = problem(asked)
    collectors = {width: Collector(asked, width, given) for width in asked.widths}
    samples = {width: [] for width in collectors}
    for _ in range(asked.runs):
        for width, collector in collectors.items():
            samples[width].append(collector())
    found = {width: np.asarray(values) for width, values in samples.items()}
    results = {
        f"{collector.evaluate.width} at once": summary(found[width], found[asked.widths[0]])
        | {"first_call_s": round(collector.first_call_s, 1)}
        for width, collector in collectors.items()
    }
    evaluate = collectors[asked.widths[0]].evaluate
    what = f"collecting subnets of {asked.recipe}: {len(given[2])} calibration, {len(given[3])} held-out images"
    default = collect.Evaluator(given[0], *given[2:], chunk=asked.chunk, mesh=evaluate.mesh).width
    result.show(what, {"devices": evaluate.mesh.size, "width_by_default": default, "results": results})


if __name__ == "__main__":
    main()
