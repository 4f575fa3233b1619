"""The stage that finds the best subnets and the pair, and the search of a finished run for one more budget."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dynnas_jax import devices, kinds, records
from dynnas_jax.costs import latency, macs, once_for_all
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import targets
from dynnas_jax.job import Job, evaluator, save_variables, supernet_of_run, supernet_variables
from dynnas_jax.networks import big_little
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import collect, evolution, pairs, predictor
from dynnas_jax.search.collect import Answers
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.stages import pair as pair_of
from dynnas_jax.stages import routers
from dynnas_jax.train import calibration
from dynnas_jax.workdir import read_config, write_json

BELOW = np.float32(1 - 1e-6)  # float32 sums of costs may be as far off; a budget is never exceeded for it


def run(
    job: Job,
    folder: Path,
    *,
    budgets: int = 16,
    calibration_images: int = 1024,
    latency_table: str | None = None,
    **options,
) -> tuple[str, ...]:
    """The best subnet for each budget, all budgets at once, spread over the devices; then the pair, chosen on held-out images.

    Budgets are MACs, or with a `latency_table` (a file, or a folder of once-for-all's) milliseconds. Candidates are the subnets
    found, the smallest of each resolution and the largest; each is evaluated, not only predicted.
    """
    supernet = job.supernet
    costs = cost_tables(supernet, latency_table, job.target)
    unit = "latency_ms" if latency_table else "macs"
    table, fitted = costs[unit], predictor.load(job.workdir.folder("predict"), supernet.space)
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
        front.append(
            {
                "budget": float(budget),
                "feasible": table.exact(genome) <= budget,
                "genome": supernet.space.to_json(genome),
                **_exact(costs, genome),
                "predicted_accuracy": float(guess),
                "holdout_accuracy": float(correct.mean()),
            }
        )
    found_pair = _pair(job, folder, variables, genomes, answers, costs, evaluate, calibration_images)
    space = {"space": supernet.space.fingerprint, "cost": unit}
    for name in dict.fromkeys(("macs", unit)):
        space |= {f"{end}_{name}": costs[name].exact(getattr(supernet.space, end)) for end in ("smallest", "largest")}
    write_json(folder / "found.json", {**space, "front": front, "pair": found_pair})
    return "found.json", "pair.msgpack", "routers.msgpack"


def check(job: Job, *, latency_table: str | None = None, **_: object) -> None:
    """Raises ValueError for a latency table that cannot serve, before anything is trained."""
    if latency_table:
        read_latency_table(latency_table, job.supernet, job.target)


def cost_tables(supernet: Supernet, latency_table: str | Path | None, target: str) -> dict[str, macs.CostTable]:
    """What a genome costs, by unit: "macs", "params", and "latency_ms" where a table of latencies is named.

    Raises:
      ValueError: for a table that cannot be read, or is of another space or target.
    """
    tables = {"macs": macs.table(supernet), "params": macs.params_table(supernet)}
    if latency_table:
        tables["latency_ms"] = read_latency_table(latency_table, supernet, target).of(supernet)
    return tables


def read_latency_table(path: str | Path, supernet: Supernet, target: str) -> latency.LatencyTable:
    """The latency table of a file of ours, or of a folder of once-for-all's.

    Raises:
      ValueError: as their readers do, and for a table of another space or target.
    """
    path = Path(path).expanduser()
    table = once_for_all.read(path, supernet) if path.is_dir() else latency.load(path)
    if table.target != targets.target(target).name:
        raise ValueError(
            f"{path} was measured for target {table.target!r}, not for {target!r}; `dynnas table` builds one"
        )
    table.check_space(supernet)
    return table


def _exact(costs: dict[str, macs.CostTable], genome: np.ndarray) -> dict[str, int | float]:
    return {name: table.exact(genome) for name, table in costs.items()}


def _smallest(space: SearchSpace) -> np.ndarray:
    """int32[resolutions, genes]: the smallest subnet at every resolution, so that big has a partner at its own."""
    if "resolution" not in space:
        return space.smallest[None]
    index = space.index("resolution")
    rows = np.repeat(space.smallest[None], space.sizes[index], axis=0)
    rows[:, index] = np.arange(space.sizes[index])
    return rows


def _little_ones(
    supernet: Supernet, genomes: np.ndarray, bigs: Answers, tables: dict, unit: str, big_net: str
) -> np.ndarray:
    """int32[k, genes]: the candidates cut down to what is no larger than big in any gene, no two of the same subnet."""
    costs = np.asarray([tables[unit].exact(genome) for genome in genomes])
    big = genomes[pairs.choose_big(bigs.correct, costs, big_net)]
    below = PairSpace(supernet.space).below(genomes, big)
    return np.unique(np.asarray(jax.vmap(supernet.space.canonical)(below)), axis=0)


def _pair(
    job: Job,
    folder: Path,
    variables: dict,
    genomes: np.ndarray,
    answers: Answers,
    tables: dict,
    evaluate: collect.Evaluator,
    calibration_images: int,
) -> dict:
    """Chooses the pair, extracts both nets with their own statistics, and describes it as `found.json` does."""
    supernet = job.supernet
    wanted, dynamic = routers.asked(job.dynamic)
    unit = pairs.unit(dynamic, "latency_ms" in tables)
    roles, littles, own = collect.roles(supernet, variables), genomes, answers
    if supernet.coupling:
        littles = _little_ones(supernet, genomes, answers, tables, unit, dynamic.get("big_net", pairs.BIG_NETS[0]))
        own = evaluate(roles[0], littles)
    units = pair_of.costs(supernet, tables, littles, genomes)
    resolution = np.asarray([supernet.arch(genome).resolution for genome in genomes])
    as_little = None
    if supernet.coupling:
        as_little = pairs.AsLittle(*own, PairSpace(supernet.space).fits(littles, genomes), units[unit].little)
    costs = units[unit].big, units[unit].stem
    chosen = pairs.choose_pair(answers.score, answers.correct, *costs, resolution, as_little, **dynamic)
    images = job.calibration_batches(calibration_images)
    nets, described = {}, {}
    both = {"little": (roles[0], littles[chosen.little]), "big": (roles[-1], genomes[chosen.big])}
    for which, (role, genome) in both.items():
        nets[which] = calibration.extract_calibrated(supernet, role, genome, images)[1]
        described[which] = pair_of.described(supernet, tables, genome) | {"params": macs.params(nets[which])}
    built = big_little.build(supernet, *(genome for _, genome in both.values()))
    tried = (routers.Tried(wanted.router, None, routers.RouterCost(0, 0), *_of_pair(chosen, own, answers)),)
    if wanted.compare or wanted.router.name != "confidence":
        tried = routers.fit(job, wanted, built, nets, variables)
    routed = _routed(tried, chosen, wanted, unit, units)
    save_variables(folder / "routers.msgpack", {one.router.label: one.params for one in tried if one.params})
    save_variables(folder / "pair.msgpack", {**nets, **({"router": tried[0].params} if tried[0].params else {})})
    return {
        **described,
        "stem_macs": units["macs"].stem[chosen.big].item(),
        "params": big_little.params(built, nets) + tried[0].cost.params,
        "score": job.score,
        **routed,
    }


def _routed(tried: tuple[routers.Tried, ...], chosen: pairs.ChosenPair, wanted, unit: str, units: dict) -> dict:
    """How the pair runs with the first router, and what each does for the same target."""
    target, rows, described = {"max_cost": chosen.max_cost, "min_accuracy": chosen.min_accuracy}, [], {}
    for one in tried:
        spent = pair_of.spent(chosen, units, router_macs=one.cost.macs, before_little=one.router.place == "stem")
        threshold = None if rows else wanted.threshold
        point = routers.point(one.score, one.correct, spent[unit], threshold, target)
        spec = {"cost": spent["macs"], "spec": one.router.to_json()}
        rows.append(routers.row(one, point, wanted.optimal) | spec)
        if not described:
            described = pair_of.described_point(chosen._replace(point=point), unit, spent, one.score, one.correct)
    return {**described, "optimal": wanted.optimal, "routers": rows}


def _of_pair(chosen: pairs.ChosenPair, littles: Answers, bigs: Answers) -> tuple[np.ndarray, np.ndarray]:
    """(score float32[m, 2], correct bool[m, 2]) of the two, from what candidates answered."""
    both = zip(littles, bigs, strict=True)
    return tuple(np.stack([little[chosen.little], big[chosen.big]], axis=-1) for little, big in both)


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
) -> dict:
    """The best subnet of a trained run within one budget, by predicted accuracy, as a genome and as an arch file.

    Args:
      max_macs, max_latency_ms: one of the two.
      target: of the latency table; the run's own if None.
      table: a latency table; the run's `search.latency_table` if None.
      pair: the most accurate pair of the recorded subnets instead, whose average cost is within the budget, and its threshold;
        its accuracies are those on the held-out images.

    Raises:
      ValueError: for a budget that is no number, a run without its predictor or records, a wrong table, or a budget below the
        least cost (named).
    """
    unit, budget = ("macs", max_macs) if max_latency_ms is None else ("latency_ms", max_latency_ms)
    if not budget > 0:
        raise ValueError(f"max_{unit} is {budget}, must be above 0")
    config = read_config(path)
    if (kind := kinds.of(config)) is not kinds.SUPERNET:
        raise ValueError(f"{path} is a run of {kind.words}: there is nothing to search in it")
    for name in ("train", "collect" if pair else "predict"):
        if not (path / name / "manifest.json").is_file():
            raise ValueError(f"{path}: stage {name!r} is not done; `dynnas run` must come to it first")
    table = table or config["search"].get("latency_table")
    if unit == "latency_ms" and not table:
        raise ValueError("max_latency_ms needs a latency table: pass --table=FILE; `dynnas table` builds one")
    supernet = supernet_of_run(path)
    costs = cost_tables(supernet, table, target or config["target"])
    run = _Trained(path, config, supernet, costs, unit, budget)
    return _best_pair(run) if pair else _best_subnet(run)


def _best_subnet(run: _Trained) -> dict:
    space, cost = run.supernet.space, run.costs[run.unit]
    fitted = predictor.load(run.path / "predict", space)
    if run.unit == "macs" and run.budget < (least := cost.exact(space.smallest)):
        raise ValueError(f"no subnet of this space costs {run.budget:.0f} MACs or less; the smallest costs {least}")
    filled = ("budgets", "calibration_images", "latency_table")
    options = {key: value for key, value in run.config["search"].items() if key not in filled}
    evolve = functools.partial(evolution.run, space=space, fitness=fitted, cost=cost, **options)
    found = jax.jit(lambda key: evolve(key, budget=run.budget * BELOW))(jax.random.key(0))
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
    return described | pair_of.described_point(chosen, run.unit, spent, *_of_pair(chosen, littles, bigs))
