"""The stage that finds the best subnets and the pair, and the search of a finished run for one more budget."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dynnas_jax import devices, kinds, records
from dynnas_jax.costs import macs
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import targets
from dynnas_jax.job import Job, evaluator, supernet_of_run, supernet_variables
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import evolution, pairs, predictor
from dynnas_jax.search.collect import Answers
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.stages import exits_search, strategies
from dynnas_jax.stages import pair as pair_of
from dynnas_jax.stages.cost_tables import cost_tables, read_latency_table, tell_doubts
from dynnas_jax.workdir import read_config, write_json

CALIBRATION_IMAGES = 1024


def run(
    job: Job,
    folder: Path,
    *,
    budgets: int = 16,
    calibration_images: int = CALIBRATION_IMAGES,
    latency_table: str | None = None,
    strategy: str = strategies.RECORDS,
    effort_images: int | None = None,
    cost_weight: float = 0.0,
    **options,
) -> tuple[str, ...]:
    """The best subnet for each budget, all budgets at once, spread over the devices; then the pair, chosen on held-out images.

    Budgets are MACs, or with a `latency_table` (a file, or a folder of once-for-all's) milliseconds. Candidates are the subnets
    found, the smallest of each resolution and the largest; each is evaluated, not only predicted. The pair is made of them; or
    a `strategy` other than "records" finds it, for the target that their pair would have.
    """
    sections = {name: options.pop(name) for name in strategies.STRATEGIES if name in options}
    costs = cost_tables(job.supernet, latency_table, job.target)
    unit, space = "latency_ms" if latency_table else "macs", job.supernet.space
    limits, genomes, predicted = _predicted_best(job, costs[unit], budgets, options)
    evaluate, variables = evaluator(job, calibration_images, len(genomes)), supernet_variables(job)
    table = read_latency_table(latency_table, job.supernet, job.target) if latency_table else None
    seen = pair_of.Evaluated(job, variables, costs, evaluate, genomes, evaluate(variables, genomes), table)
    if strategy == strategies.RECORDS:
        pair, told = strategies.of_records(seen, calibration_images)
    else:
        own = {"effort_images": effort_images, "cost_weight": cost_weight, "options": sections.get(strategy)}
        pair, told = strategies.run(seen, strategy, calibration_images, **own)
    content = {"space": space.fingerprint, "cost": unit} | ({"latency_device": table.device} if table else {})
    content |= {"subnets": space.size(), "pairs": PairSpace(space).size()}
    for name in dict.fromkeys(("macs", unit)):
        content |= {f"{end}_{name}": costs[name].exact(getattr(space, end)) for end in ("smallest", "largest")}
    content["front"] = _front(seen, unit, limits, predicted)
    content["pair"] = pair_of.found(folder, seen, pair, calibration_images)
    write_json(folder / "found.json", content | told)
    return "found.json", "pair.msgpack", "routers.msgpack"


def _predicted_best(
    job: Job, table: macs.CostTable, budgets: int, options: dict
) -> tuple[list[float], np.ndarray, np.ndarray]:
    """(budgets [n], genomes int32[n, genes] that the predictor finds best within them, predicted accuracies [n]).

    The first are the smallest subnets, each its own budget, the last is the largest.
    """
    space, fitted = job.supernet.space, predictor.load(job.workdir.folder("predict"), job.supernet.space)
    ends = table.exact(space.smallest), table.exact(space.largest)
    limits = np.geomspace(*ends, budgets + 2)[1:-1].astype(np.float32)
    keys = jax.random.split(job.key(3), budgets)
    evolve = functools.partial(evolution.run, space=space, fitness=fitted, cost=table, **options)
    search = lambda key, budget: evolve(key, budget=budget)  # noqa: E731
    found = evolution.for_budgets(search, keys, limits * evolution.BELOW, devices.data_mesh())
    smallest = _smallest(space)
    genomes = np.concatenate([smallest, found.genome, [space.largest]])
    allowed = [*(table.exact(genome) for genome in smallest), *limits.tolist(), ends[1]]
    return allowed, genomes, np.asarray(jax.jit(jax.vmap(lambda genome: fitted(genome)))(genomes))


def _front(seen: pair_of.Evaluated, unit: str, limits: list[float], predicted: np.ndarray) -> list[dict]:
    """The best subnets as `found.json` lists them."""
    rows = zip(limits, seen.genomes, predicted, seen.answers.correct, strict=True)
    return [
        {
            "budget": float(budget),
            "feasible": seen.tables[unit].exact(genome) <= budget,
            "genome": seen.job.supernet.space.to_json(genome),
            **{name: table.exact(genome) for name, table in seen.tables.items()},
            "predicted_accuracy": float(guess),
            "holdout_accuracy": float(correct.mean()),
        }
        for budget, genome, guess, correct in rows
    ]


def check(
    job: Job,
    *,
    latency_table: str | None = None,
    strategy: str = strategies.RECORDS,
    effort_images: int | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    **options: object,
) -> None:
    """Raises ValueError for a latency table or an effort that cannot serve, before anything is trained."""
    if latency_table:
        tell_doubts(read_latency_table(latency_table, job.supernet, job.target), job.workdir.config)
    strategies.check_effort(job, strategy, calibration_images, effort_images, options.get(strategy))


def _smallest(space: SearchSpace) -> np.ndarray:
    """int32[resolutions, genes]: the smallest subnet at every resolution, so that big has a partner at its own."""
    if "resolution" not in space:
        return space.smallest[None]
    index = space.index("resolution")
    rows = np.repeat(space.smallest[None], space.sizes[index], axis=0)
    rows[:, index] = np.arange(space.sizes[index])
    return rows


class _Trained(NamedTuple):
    """What a search in a finished run needs of it."""

    path: Path
    config: dict
    supernet: Supernet
    costs: dict[str, macs.CostTable]
    unit: str
    budget: float  # in that unit


def best(
    path: Path,
    *,
    max_macs: float | None = None,
    max_latency_ms: float | None = None,
    target: str | None = None,
    table: str | Path | None = None,
    pair: bool = False,
    omega: float | None = None,
) -> dict:
    """The best subnet of a trained run within one budget, by predicted accuracy, as a genome and as an arch file.

    Args:
      max_macs, max_latency_ms: one of the two; of nets of several exits the average (see `exits_search.best`).
      target: of the latency table; the run's own if None. MACs are the same for all of them.
      table: a latency table; the run's `search.latency_table` if None.
      pair: the most accurate pair of the recorded subnets instead, whose average cost is within the budget, and its threshold;
        its accuracies are those on the held-out images.
      omega: of nets of several exits, how much the cost weighs in place of the run's `dynamic.omega`.

    Raises:
      ValueError: for a budget that is no number, an unknown target, an omega where there is none, a run without its predictor or
        records, a wrong table, or a budget below the least cost (named).
    """
    unit, budget = ("macs", max_macs) if max_latency_ms is None else ("latency_ms", max_latency_ms)
    if not budget > 0:
        raise ValueError(f"max_{unit} is {budget}, must be above 0")
    config = read_config(path)
    target = targets.target(config["target"] if target is None else target).name
    if (kind := kinds.of(config)) is kinds.MULTI_EXIT:
        if pair:
            raise ValueError(f"{path} is a run of {kind.words}: there are no pairs in it; leave out --pair")
        wanted = {"target_macs": (budget,)} if unit == "macs" else {"target_latency_ms": (budget,)}
        wanted["latency_table"] = _table_for(unit, table or config["dynamic"].get("latency_table"))
        found = exits_search.best(path, config, wanted, target, omega)
        return _on_device(found, wanted["latency_table"], supernet_of_run(path), config, target)
    if omega is not None:
        raise ValueError(f"{path} is a run of {kind.words}: --omega is for nets of several exits; leave it out")
    if kind is not kinds.SUPERNET:
        raise ValueError(f"{path} is a run of {kind.words}: there is nothing to search in it")
    for name in ("train", "collect" if pair else "predict"):
        if not (path / name / "manifest.json").is_file():
            raise ValueError(f"{path}: stage {name!r} is not done; `dynnas run` must come to it first")
    table = _table_for(unit, table or config["search"].get("latency_table"))
    supernet = supernet_of_run(path)
    costs = cost_tables(supernet, table, target)
    run = _Trained(path, config, supernet, costs, unit, budget)
    return _on_device(_best_pair(run) if pair else _best_subnet(run), table, supernet, config, target)


def _on_device(found: dict, table: str | Path | None, supernet: Supernet, config: dict, target: str) -> dict:
    """What was found, with the device whose milliseconds it has: machines of one target are not alike."""
    if not table:
        return found
    read = read_latency_table(table, supernet, target)
    tell_doubts(read, config, target)
    return {**found, "latency_device": read.device}


def _table_for(unit: str, table: str | Path | None) -> str | Path | None:
    """The latency table. Raises ValueError where a budget needs one and there is none."""
    if unit == "latency_ms" and not table:
        raise ValueError("max_latency_ms needs a latency table: pass --table=FILE; `dynnas table` builds one")
    return table


def _best_subnet(run: _Trained) -> dict:
    space, cost = run.supernet.space, run.costs[run.unit]
    fitted = predictor.load(run.path / "predict", space)
    if run.unit == "macs" and run.budget < (least := cost.exact(space.smallest)):
        raise ValueError(f"no subnet of this space costs {run.budget:.0f} MACs or less; the smallest costs {least}")
    known = inspect.signature(evolution.run).parameters
    options = {key: value for key, value in run.config["search"].items() if key in known}
    evolve = functools.partial(evolution.run, space=space, fitness=fitted, cost=cost, **options)
    found = jax.jit(lambda key: evolve(key, budget=run.budget * evolution.BELOW))(jax.random.key(0))
    # A budget of the smallest subnet's own cost is below it once rounded; the search then returns that one.
    genome = np.asarray(found.genome)
    if cost.exact(genome) > run.budget:
        # Of measured blocks a larger one may be the faster, so the smallest subnet need not be the fastest.
        raise ValueError(f"no subnet was found within {run.budget:g} ms; the fastest takes {cost.exact(genome):.4g} ms")
    return {**pair_of.described(run.supernet, run.costs, genome), "predicted_accuracy": float(found.fitness)}


def _best_pair(run: _Trained) -> dict:
    supernet = run.supernet
    store = records.open(run.path / "collect" / "records.zarr", supernet.space.fingerprint)
    rows = np.flatnonzero(store.done())
    genomes, score, correct = (store.read(name, rows) for name in ("genome", "score", "correct"))
    if score.shape[-1] != (2 if supernet.coupling else 1):
        raise ValueError(f"{store.path}: its records do not tell little's answers from big's; pass --redo=collect")
    littles, bigs = (Answers(score[..., role].astype(np.float32), correct[..., role]) for role in (0, -1))
    units = pair_of.costs(supernet, run.costs, genomes, genomes)
    resolution = np.asarray([supernet.arch(genome).resolution for genome in genomes])
    costs, as_little = units[run.unit], None
    if supernet.coupling:
        as_little = pairs.AsLittle(*littles, PairSpace(supernet.space).fits(genomes, genomes), costs.little)
    chosen = pairs.best_pair(*bigs, costs.big, costs.stem, resolution, as_little, max_cost=run.budget)
    if not chosen.point.feasible:
        raise ValueError(
            f"no pair of the recorded subnets keeps within {run.budget:g} {run.unit} on average; "
            f"the cheapest takes {chosen.point.average_cost:.6g}"
        )
    described = {}
    for which, index, role in (("little", chosen.little, littles), ("big", chosen.big, bigs)):
        described[which] = pair_of.described(supernet, run.costs, genomes[index])
        described[which]["holdout_accuracy"] = float(role.correct[index].mean())
    spent = pair_of.spent(chosen, units)
    return described | pair_of.described_point(chosen, run.unit, spent, *pair_of.answered(chosen, littles, bigs))
