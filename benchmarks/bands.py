"""Depthwise convolutions in LiteRT, whole and in bands: python benchmarks/bands.py --precision=int8.

Each is a file of its own; all are timed in interleaved rounds, and the time of a call that computes next to nothing is taken off.
Prints one JSON object with the times and, for each kernel, size and stride, how many times as long the whole one takes.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np
import result

from dynnas_jax.export import latency_table, rounds
from dynnas_jax.networks import blocks

CHANNELS = 64
CASES = [(kernel, side, stride) for kernel in (3, 5, 7) for side in (32, 16, 8) for stride in (1, 2)]


def part(kernel: int, side: int, stride: int, form: str) -> latency_table.Part:
    module = blocks.Depthwise(kernel, stride, form)
    weights = {"params": {"kernel": jax.random.normal(jax.random.key(0), (kernel, kernel, 1, CHANNELS))}}
    name = f"{kernel}x{kernel}, {side} pixels, stride {stride}, {form}"
    return latency_table.block(name, lambda x: module.apply(weights, x), [(1, side, side, CHANNELS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--rounds", type=int, default=25)
    known = parser.parse_args()
    asked = [(*case, form) for case in CASES for form in ("conv", "bands") if form == "conv" or case[0] > 5]
    parts = [latency_table.EMPTY, *(part(*each) for each in asked)]
    with tempfile.TemporaryDirectory() as folder:
        options = {"precision": known.precision, "threads": 1, "rounds": known.rounds}
        samples = latency_table.timed(parts, Path(folder) / "parts", plan={}, **options)
    times, spread = rounds.typical(samples)
    own = {part.name: max(0.0, float(time - times[0])) for part, time in zip(parts[1:], times[1:], strict=True)}
    wide = [name.removesuffix(", bands") for name in own if name.endswith("bands")]
    report = {
        "microseconds": {name: round(1e3 * time, 2) for name, time in own.items()},
        "whole_over_bands": {name: round(own[f"{name}, conv"] / own[f"{name}, bands"], 1) for name in wide},
        "relative_spread_median": float(np.median(spread / times)),
        "n": known.rounds,
    }
    what = f"depthwise convolutions of {CHANNELS} channels, {known.precision}, LiteRT, one thread"
    result.show(what, report, packages=("ai-edge-litert",))


if __name__ == "__main__":
    main()
