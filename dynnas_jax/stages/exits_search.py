"""The stage that finds, for every target, the net of several exits that is worth most, and the single net of its average cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dynnas_jax import records
from dynnas_jax.dynamic import metric
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import Job, evaluator, save_variables, supernet_of_run, supernet_variables
from dynnas_jax.networks import exits as exit_nets
from dynnas_jax.networks import multi_costs, multi_exit
from dynnas_jax.search import collect, evolution, exit_rewards, predictor
from dynnas_jax.stages import exits
from dynnas_jax.stages.exits_predict import SINGLE, target_folder
from dynnas_jax.train import calibration
from dynnas_jax.workdir import write_json

CALIBRATION_IMAGES = 1024


def run(
    job: Job,
    folder: Path,
    *,
    calibration_images: int = CALIBRATION_IMAGES,
    recorded_candidates: int = 4,
    aging: bool = True,
    **options,
) -> tuple[str, ...]:
    """For every target the best of what evolution finds by the predicted reward, and of the best records; all are evaluated.

    Beside each, the single net for the average cost that it came to, found in the same way: what evolution finds by predicted
    accuracy within it, and the best records that cost no more, are evaluated as first exits, which are ordinary subnets.

    Args:
      calibration_images: for the statistics of the nets.
      recorded_candidates: of each target, and of each single net, records that compete with what evolution finds.
      aging, options: of `evolution.run`.
    """
    aims, options = exits.of_job(job), options | {"aging": aging}
    evolve = [_program(job.supernet, table, options) for table in (aims.own[-1], aims.own[0])]
    evaluate = evaluator(job, calibration_images, recorded_candidates + 1)
    search = _Search(job, aims, supernet_variables(job), evaluate, *evolve, _recorded(job, aims))
    nets, kept = [], {}
    for number, target in enumerate(aims.targets.costs):
        candidates, predicted = _candidates(search, number, recorded_candidates)
        judged = search.judged(candidates, target)
        best = max(range(len(judged)), key=lambda place: judged[place].reward)
        entry = exits.described(job, judged[best], target, aims)
        entry |= {"origin": "evolution" if best == 0 else "records", "predicted_reward": float(predicted[best])}
        single = _single(search, entry["holdout"][f"average_{aims.targets.unit}"], recorded_candidates)
        nets.append(entry | {"single": search.described_single(single)})
        kept[str(number)] = _variables(search, judged[best].genome, calibration_images)
        kept[f"{SINGLE}{number}"] = _variables(search, single.genome, calibration_images)
    save_variables(folder / "nets.msgpack", kept)
    write_json(folder / "found.json", exits.found(job, aims, nets))
    return "found.json", "nets.msgpack"


def check(job: Job, *, aging: bool = True, **options) -> None:
    """Raises ValueError for settings that evolution does not take."""
    evolution.check(aging=aging, **options)


class _Recorded(NamedTuple):
    """What the records are worth."""

    genomes: np.ndarray  # int32[n, genes]
    rewards: np.ndarray  # float64[targets, n]
    first_cost: np.ndarray  # float64[n], of the first exit alone, in the unit of the targets
    first_accuracy: np.ndarray  # float64[n], of the first exit on all held-out images


class _Single(NamedTuple):
    """A net of one exit: the first of a net of several."""

    genome: np.ndarray  # of the net of several
    origin: str
    accuracy: float  # on the held-out images
    feasible: bool  # whether it costs no more than it may


def _recorded(job: Job, aims: exits.Aims) -> _Recorded:
    store = records.open(job.workdir.folder("collect") / "records.zarr", job.supernet.space.fingerprint)
    rows = np.flatnonzero(store.done())
    cost = aims.of_records(job.supernet, store, rows)
    rewards = exit_rewards.of_records(store, rows, cost, aims.targets.costs, aims.targets.omega)
    return _Recorded(store.read("genome", rows), rewards, cost[:, 0], store.accuracy()[rows, 0])


class _Search(NamedTuple):
    """What the search of every target needs."""

    job: Job
    aims: exits.Aims
    variables: dict  # the supernet's
    evaluate: collect.Evaluator
    evolve: Callable  # of `_program`, by what is spent up to the last exit
    evolve_single: Callable  # by what is spent up to the first
    recorded: _Recorded

    def judged(self, genomes: np.ndarray, target: float) -> list[exits.Judged]:
        """Genomes evaluated on the held-out images, each with its best thresholds."""
        answers, spent = self.evaluate(self.variables, genomes), self.aims.spent(self.job.supernet)
        rows = zip(genomes, answers.score, answers.correct, strict=True)
        return [
            exits.judged(genome, (score, correct), np.asarray(spent(genome)), target, self.aims.targets.omega)
            for genome, score, correct in rows
        ]

    def described_single(self, single: _Single) -> dict:
        """What `found.json` says of a single net."""
        genome, supernet = single.genome, self.job.supernet
        costs = exit_nets.costs(supernet.net(first_alone(supernet.arch(genome))))
        return {
            "genome": supernet.space.to_json(genome),
            "origin": single.origin,
            "feasible": single.feasible,
            "macs": costs.macs[0],
            **{unit: spent[0] for unit, spent in self.aims.others(supernet, genome).items()},
            "params": costs.params[0],
            "holdout_accuracy": single.accuracy,
        }


def first_alone(arch: multi_exit.Arch) -> multi_exit.Arch:
    """The ordinary net that the first exit of a net of several is."""
    return multi_exit.Arch(
        arch.exits[:1], tuple(name for name in arch.reuse if name in dict(arch.exits[0].named_blocks()))
    )


def _candidates(search: _Search, number: int, recorded: int) -> tuple[np.ndarray, np.ndarray]:
    """(genomes int32[1 + n, genes]: what evolution finds for a target, and the best records; their predicted rewards)."""
    job, space, known = search.job, search.job.supernet.space, search.recorded
    fitted = predictor.load(job.workdir.folder("predict") / target_folder(number), space)
    # The reward has the cost in it: there is no budget beside.
    found = search.evolve(jax.random.fold_in(job.key(3), number), fitted, np.inf)
    best = known.genomes[np.sort(np.argsort(-known.rewards[number], kind="stable")[:recorded])]
    genomes = np.stack([multi_costs.settled(job.supernet, genome) for genome in (found, *best)])
    return genomes, np.asarray(jax.jit(jax.vmap(lambda genome: fitted(genome)))(genomes))


def _single(search: _Search, most: float, recorded: int) -> _Single:
    """The most accurate first exit within a cost: of what evolution finds, and the best records that cost no more.

    Where none of these is within it, what evolution found, which is the cheapest that it saw.
    """
    job, known = search.job, search.recorded
    fitted = predictor.load(job.workdir.folder("predict") / SINGLE, job.supernet.space)
    found = search.evolve_single(jax.random.fold_in(job.key(3), len(search.aims.targets.costs)), fitted, most)
    within = np.flatnonzero(known.first_cost <= most)
    best = within[np.argsort(-known.first_accuracy[within], kind="stable")[:recorded]]
    genomes = np.stack([found, *known.genomes[np.sort(best)]])
    accuracy = search.evaluate(search.variables, genomes).correct[:, :, 0].mean(axis=1)
    feasible = search.aims.spent(job.supernet)(found)[0] <= most
    place = int(accuracy.argmax()) if feasible or not len(best) else 1 + int(accuracy[1:].argmax())
    origin = "evolution" if place == 0 else "records"
    return _Single(genomes[place], origin, float(accuracy[place]), feasible or place > 0)


def _program(supernet: Supernet, cost: Callable, options: dict) -> Callable:
    """(key, predictor, budget) -> the genome int32[genes] that evolution finds, by one program for all predictors and budgets."""

    @jax.jit
    def run(key: jax.Array, params: dict, budget: jax.Array) -> jax.Array:
        fitness = lambda genome: predictor.predicted(supernet.space, params, genome)  # noqa: E731
        return evolution.run(key, supernet.space, fitness, cost, budget, **options).genome

    def evolve(key: jax.Array, fitted: predictor.Predictor, budget: float) -> np.ndarray:
        return np.asarray(run(key, fitted.params, np.float32(budget) * evolution.BELOW))

    return evolve


def best(path: Path, config: dict, wanted: dict, target: str, omega: float | None = None) -> dict:
    """The net of a finished run for one more target, and the best of the recorded ones, which has thresholds.

    Rewards are told anew from the records, a predictor is fitted to them, and evolution asks it; no net is run.

    Args:
      wanted: as a section `dynamic` has it, one target.
      target: of the latency table.
      omega: how much the cost weighs; None: as much as in the run.

    Raises:
      ValueError: for an omega below 0, a run whose records are not complete, a target below the cheapest net's first exit, or
        a latency table that does not serve.
    """
    if not (path / "collect" / "manifest.json").is_file():
        raise ValueError(f"{path}: stage 'collect' is not done; `dynnas run` must come to it first")
    supernet = supernet_of_run(path)
    omega = config["dynamic"].get("omega", metric.OMEGA) if omega is None else omega
    aims, space = exits.aims(supernet, {**wanted, "omega": omega}, target), supernet.space
    (limit,) = aims.targets.costs
    store = records.open(path / "collect" / "records.zarr", space.fingerprint)
    rows = np.flatnonzero(store.done())
    genomes, cost = store.read("genome", rows), aims.of_records(supernet, store, rows)
    reward = exit_rewards.of_records(store, rows, cost, (limit,), omega)[0]
    known = [inspect.signature(one).parameters for one in (predictor.fit, evolution.run)]
    fit, evolve = (
        {key: value for key, value in config[section].items() if key in of}
        for section, of in zip(("predict", "search"), known, strict=True)
    )
    fitted = predictor.fit(space, genomes, reward, key=jax.random.key(0), **fit)
    run = _program(supernet, aims.own[-1], {"aging": True, **evolve})
    genome = run(jax.random.key(1), fitted, np.inf)
    place = int(reward.argmax())
    answers = (store.read(name, rows[place : place + 1])[0] for name in ("score", "correct"))
    judged = exits.judged(genomes[place], tuple(answers), cost[place], limit, omega)
    told = {"predicted_reward": float(fitted(genome)), "kendall_tau": fitted.kendall_tau}
    recorded = {"reward": judged.reward, "holdout_accuracy": judged.point.accuracy}
    recorded |= {f"average_{aims.targets.unit}": judged.point.average_cost, "thresholds": list(judged.point.thresholds)}
    return {
        **_named(supernet, genome, aims),
        **told,
        "recorded": {**_named(supernet, judged.genome, aims), **recorded},
    }


def _named(supernet: Supernet, genome: np.ndarray, aims: exits.Aims) -> dict:
    genome = multi_costs.settled(supernet, genome)
    told = {"genome": supernet.space.to_json(genome), "arch": supernet.arch.file(genome)}
    return told | {unit: multi_costs.spent(supernet, tables)(genome) for unit, tables in aims.tables.items()}


def _variables(search: _Search, genome: np.ndarray, calibration_images: int) -> dict:
    """A net's own, with its own statistics."""
    job = search.job
    images = job.calibration_batches(calibration_images)
    return calibration.extract_calibrated(job.supernet, search.variables, genome, images)[1]
