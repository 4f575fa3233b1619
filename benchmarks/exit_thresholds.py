"""How long the thresholds of one subnet take, exactly and on quantiles, and what the quantiles lose; prints JSON.

    python benchmarks/exit_thresholds.py [--images=10000] [--exits 2 3 4 5]

Scores and hits are drawn: exits that get better, and are the surer the easier an image is. Goals for 10,000 images: exact at
most 60 ms for two or three exits, on quantiles at most 5 ms.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import result

from dynnas_jax.dynamic import exit_thresholds, metric, quantile_thresholds

SUBNETS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--exits", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    found = {f"{exits} exits": measured(options.images, exits, options.runs) for exits in options.exits}
    result.show(f"thresholds of a subnet on {options.images} images", {"results": found})


def measured(images: int, exits: int, runs: int) -> dict:
    score, correct = (np.stack(part) for part in zip(*(drawn(n, images, exits) for n in range(SUBNETS)), strict=True))
    cost = np.linspace(75, 240, exits)
    target = float(cost.mean() * 0.8)
    exact = functools.partial(exit_thresholds.best, cost=cost, target=target)
    points, times = [], []
    for one in range(SUBNETS):
        start = time.perf_counter()
        points.append(exact(score[one], correct[one]))
        times.append(time.perf_counter() - start)
    rewards = [metric.reward(point.accuracy, point.average_cost, target) for point in points]
    told = {"exact" if exits <= 3 else "coordinate_descent": summary(times)}
    if exits > 3:
        return told
    run = jax.jit(jax.vmap(functools.partial(quantile_thresholds.best, target=target), in_axes=(0, 0, None)))
    given = jnp.asarray(score), jnp.asarray(correct), jnp.asarray(cost, jnp.float32)
    found, times = jax.device_get(run(*given)), []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(run(*given))
        times.append((time.perf_counter() - start) / SUBNETS)
    gap = np.asarray(rewards) - found.reward
    told["quantiles_of_a_subnet"] = summary(times)
    return told | {"quantiles_lose": {"median": float(np.median(gap)), "most": float(gap.max())}}


def summary(times: list[float]) -> dict:
    """Of seconds, in ms."""
    return result.times(1e3 * np.asarray(times), "ms", 2)


def drawn(seed: int, images: int, exits: int) -> tuple[np.ndarray, np.ndarray]:
    """(score float32[m, S], correct bool[m, S])."""
    generator = np.random.default_rng(seed)
    sure = 1 / (1 + np.exp(-8 * (np.linspace(0.6, 0.9, exits) - generator.random((images, 1)))))
    score = np.clip(sure + generator.normal(0, 0.12, (images, exits)), 0, 1)
    return score.astype(np.float32), generator.random((images, exits)) < sure


if __name__ == "__main__":
    main()
