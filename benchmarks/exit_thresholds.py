"""How long the thresholds of one subnet take, exactly and on quantiles, and what the quantiles lose; prints JSON.

    python benchmarks/exit_thresholds.py [--images=10000] [--exits 2 3 4 5]

Scores and hits are drawn, the surer the easier an image is: of exits that get better, and of exits that are all as good as each
other, where more cells of thresholds could hold the best; for targets that are 0.6, 0.8 and 1 of the mean of the exits' costs.
Three exits have further cases that are hard for the exact search: scores that tell nothing, targets above every cost, costs that
hardly differ. The exact times are the processor's, so that other work beside it does not count.
Goals for 10,000 images: exact at most 60 ms for two or three exits, on quantiles at most 5 ms.
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
SKILLS = {"better and better": (0.6, 0.9), "all alike": (0.8, 0.8)}  # of the first and the last exit
TARGETS = (0.6, 0.8, 1.0)  # of the mean of the exits' costs
COST = (75.0, 150.0, 240.0)
# Of three exits: (skills, or None for scores that tell nothing; which part of the images each has right then; costs; target).
HARD = {
    "scores that tell nothing": (None, 0.6, COST, 120.0),
    "scores that tell nothing, target above every cost": (None, 0.6, COST, 300.0),
    "all alike, target above every cost": ((0.8, 0.8), None, COST, 300.0),
    "all alike, costs nearly so": ((0.8, 0.8), None, (1496.0, 1565.0, 1634.0), 980.0),
    "hardly better": ((0.6, 0.64), None, COST, 120.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--exits", type=int, nargs="+", default=[2, 3, 4, 5])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    found = {}
    for exits in options.exits:
        cost = np.linspace(75, 240, exits)
        for name, skill in SKILLS.items():
            answers = [drawn(n, options.images, np.linspace(*skill, exits)) for n in range(SUBNETS)]
            found[f"{exits} exits, {name}"] = {
                f"target {part}": measured(answers, cost, float(cost.mean() * part), options.runs) for part in TARGETS
            }
    for name, (skill, right, cost, target) in HARD.items() if 3 in options.exits else ():
        skills = None if skill is None else np.linspace(*skill, 3)
        answers = [
            telling_nothing(n, options.images, right) if skill is None else drawn(n, options.images, skills)
            for n in range(SUBNETS)
        ]
        found[f"3 exits, {name}"] = measured(answers, np.asarray(cost), target, options.runs)
    result.show(f"thresholds of a subnet on {options.images} images", {"results": found})


def measured(answers: list[tuple], cost: np.ndarray, target: float, runs: int) -> dict:
    score, correct = (np.stack(rows) for rows in zip(*answers, strict=True))
    exits = len(cost)
    exact = functools.partial(exit_thresholds.best, cost=cost, target=target)
    points, times = [], []
    for one in range(SUBNETS):
        start = time.process_time()
        points.append(exact(score[one], correct[one]))
        times.append(time.process_time() - start)
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


def drawn(seed: int, images: int, skill: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(score float32[m, S], correct bool[m, S]) of exits of so much skill each."""
    generator = np.random.default_rng(seed)
    sure = 1 / (1 + np.exp(-8 * (skill - generator.random((images, 1)))))
    score = np.clip(sure + generator.normal(0, 0.12, sure.shape), 0, 1)
    return score.astype(np.float32), generator.random(sure.shape) < sure


def telling_nothing(seed: int, images: int, right: float) -> tuple[np.ndarray, np.ndarray]:
    """The same of three exits that have as many images right each, whatever their scores."""
    generator = np.random.default_rng(seed)
    return generator.random((images, 3)).astype(np.float32), generator.random((images, 3)) < right


if __name__ == "__main__":
    main()
