"""The stage that finds the best subnets and the pair, and the search of a finished run for one more budget."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np

from dynnas_jax import devices
from dynnas_jax.costs import macs
from dynnas_jax.job import Job, evaluator, save_variables, supernet_of_run, supernet_variables
from dynnas_jax.networks import big_little
from dynnas_jax.search import evolution, predictor
from dynnas_jax.search.pairs import choose_pair
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.train import calibration
from dynnas_jax.workdir import read_config, write_json

BELOW = np.float32(1 - 1e-6)  # float32 sums of costs may be as far off; a budget is never exceeded for it


def run(job: Job, folder: Path, *, budgets: int = 16, calibration_images: int = 1024, **options) -> tuple[str, ...]:
    """The best subnet for each budget, all budgets at once, spread over the devices; then the pair, chosen on held-out images.

    Candidates are the subnets found, the smallest of each resolution and the largest; each is evaluated, not only predicted.
    """
    supernet = job.supernet
    table, fitted = macs.table(supernet), predictor.load(job.workdir.folder("predict"), supernet.space)
    ends = table.exact(supernet.space.smallest), table.exact(supernet.space.largest)
    limits = np.geomspace(*ends, budgets + 2)[1:-1].astype(np.float32)
    keys = jax.random.split(job.key(3), budgets)
    run = functools.partial(evolution.run, space=supernet.space, fitness=fitted, cost=table, **options)
    search = lambda key, budget: run(key, budget=budget)  # noqa: E731
    found = evolution.for_budgets(search, keys, limits * BELOW, devices.data_mesh())
    smallest = _smallest(supernet.space)
    genomes = np.concatenate([smallest, found.genome, [supernet.space.largest]])
    allowed = [*(table.exact(genome) for genome in smallest), *limits.tolist(), ends[1]]
    evaluate = evaluator(job, calibration_images, len(genomes))
    variables = supernet_variables(job)
    answers = evaluate(variables, genomes)
    predicted = np.asarray(jax.jit(jax.vmap(lambda genome: fitted(genome)))(genomes))
    front = []
    for budget, genome, guess, correct in zip(allowed, genomes, predicted, answers.correct, strict=True):
        cost = table.exact(genome)
        front.append(
            {
                "budget": float(budget),
                "feasible": cost <= budget,
                "genome": supernet.space.to_json(genome),
                "macs": cost,
                "params": macs.params_table(supernet).exact(genome),
                "predicted_accuracy": float(guess),
                "holdout_accuracy": float(correct.mean()),
            }
        )
    pair = _pair(job, folder, variables, genomes, answers, calibration_images)
    space = {"space": supernet.space.fingerprint, "smallest_macs": ends[0], "largest_macs": ends[1]}
    write_json(folder / "found.json", {**space, "front": front, "pair": pair})
    return "found.json", "pair.msgpack"


def _smallest(space: SearchSpace) -> np.ndarray:
    """int32[resolutions, genes]: the smallest subnet at every resolution, so that big has a partner at its own."""
    if "resolution" not in space:
        return space.smallest[None]
    index = space.index("resolution")
    rows = np.repeat(space.smallest[None], space.sizes[index], axis=0)
    rows[:, index] = np.arange(space.sizes[index])
    return rows


def _pair(job, folder, variables, genomes, answers, calibration_images) -> dict:
    """Chooses the pair, extracts both nets with their own statistics, and describes it as `found.json` does."""
    supernet = job.supernet
    dynamic = {key: value for key, value in job.dynamic.items() if key != "score"}
    costs = np.asarray([macs.table(supernet).exact(genome) for genome in genomes])
    stem = np.asarray([big_little.cost(big_little.build(supernet, genome, genome)).stem for genome in genomes])
    resolution = np.asarray([supernet.arch(genome).resolution for genome in genomes])
    chosen = choose_pair(answers.score, answers.correct, costs, stem, resolution, **dynamic)
    images = job.calibration_batches(calibration_images)
    own, described = {}, {}
    for which, index in (("little", chosen.little), ("big", chosen.big)):
        own[which] = calibration.extract_calibrated(supernet, variables, genomes[index], images)[1]
        described[which] = {
            "genome": supernet.space.to_json(genomes[index]),
            "arch": supernet.arch.file(genomes[index]),
            "macs": int(costs[index]),
            "params": macs.params(own[which]),
        }
    pair = big_little.build(supernet, genomes[chosen.little], genomes[chosen.big])
    cost = big_little.cost(pair)
    save_variables(folder / "pair.msgpack", own)
    point = chosen.point
    return {
        **described,
        "stem_macs": cost.stem,
        "cost": list(cost.cumulative),
        "params": big_little.params(pair, own),
        "thresholds": list(point.thresholds),
        "score": job.score,
        "target": {"max_macs": chosen.max_cost, "min_accuracy": chosen.min_accuracy},
        "feasible": point.feasible,
        "holdout": {
            "accuracy": point.accuracy,
            "average_macs": point.average_cost,
            "exit_rate": list(point.exit_rate),
        },
    }


def best_subnet(path: Path, max_macs: float) -> dict:
    """The subnet of a trained run with the best predicted accuracy within a budget, as a genome and as an arch file.

    Raises:
      ValueError: for a budget that is no number, a run without its predictor, or a budget below the smallest cost (named).
    """
    if not max_macs > 0:
        raise ValueError(f"max_macs is {max_macs}, must be above 0")
    config = read_config(path)
    for name in ("train", "predict"):
        if not (path / name / "manifest.json").is_file():
            raise ValueError(f"{path}: stage {name!r} is not done; `dynnas run` must come to it first")
    supernet = supernet_of_run(path)
    table, fitted = macs.table(supernet), predictor.load(path / "predict", supernet.space)
    if max_macs < (least := table.exact(supernet.space.smallest)):
        raise ValueError(f"no subnet of this space costs {max_macs:.0f} MACs or less; the smallest costs {least}")
    options = {key: value for key, value in config["search"].items() if key not in ("budgets", "calibration_images")}
    run = functools.partial(evolution.run, space=supernet.space, fitness=fitted, cost=table, **options)
    found = jax.jit(lambda key: run(key, budget=max_macs * BELOW))(jax.random.key(0))
    # A budget of the smallest subnet's own cost is below it once rounded; the search then returns that one.
    genome = np.asarray(found.genome)
    return {
        "macs": table.exact(genome),
        "params": macs.params_table(supernet).exact(genome),
        "predicted_accuracy": float(found.fitness),
        "genome": supernet.space.to_json(genome),
        "arch": supernet.arch.file(genome),
    }
