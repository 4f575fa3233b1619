"""The pair of a search: chosen among candidates or made of a genome, extracted, routed, and described as `found.json` has it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dynnas_jax.costs import latency, macs
from dynnas_jax.dynamic import protocol, routing, thresholds
from dynnas_jax.dynamic.routers import Router
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import Job, save_variables
from dynnas_jax.networks import big_little
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import collect, pairs
from dynnas_jax.search.collect import Answers
from dynnas_jax.stages import routers
from dynnas_jax.train import calibration


class Costs(NamedTuple):
    """What the candidates for a pair cost, in one unit."""

    little: np.ndarray  # [k], each alone
    big: np.ndarray  # [n], each alone
    stem: np.ndarray  # [n], of that the blocks that a pair shares

    def spent(self, little: int, big: int) -> list:
        """What is spent when little, and when big answers."""
        first = self.little[little].item()
        return [first, first + self.big[big].item() - self.stem[big].item()]


def costs(supernet: Supernet, tables: dict[str, macs.CostTable], littles: np.ndarray, bigs: np.ndarray) -> dict:
    """`Costs` by unit (but params) of the candidates int32[k, genes] for little and int32[n, genes] for big."""
    stem = big_little.build(supernet, bigs[0], bigs[0]).stem
    return {
        unit: Costs(*(_exact(*of) for of in ((table, littles), (table, bigs), (table.only(stem), bigs))))
        for unit, table in tables.items()
        if unit != "params"
    }


def _exact(table: macs.CostTable, genomes: np.ndarray) -> np.ndarray:
    return np.asarray([table.exact(genome) for genome in genomes])


def described(supernet: Supernet, tables: dict[str, macs.CostTable], genome: np.ndarray) -> dict:
    """A subnet as an answer has it."""
    exact = {name: table.exact(genome) for name, table in tables.items()}
    return {"genome": supernet.space.to_json(genome), "arch": supernet.arch.file(genome), **exact}


def spent(
    chosen: pairs.ChosenPair,
    units: dict[str, Costs],
    *,
    router: dict[str, float] | None = None,
    before_little: bool = False,
) -> dict[str, list]:
    """By unit, what is spent when little, and when big answers.

    Args:
      router: what the router itself spends, by unit; nothing where a unit is left out.
      before_little: whether the router comes first, so that big answers without little.
    """
    found = {name: costs.spent(chosen.little, chosen.big) for name, costs in units.items()}
    if before_little:
        found = {name: [cost[0], units[name].big[chosen.big].item()] for name, cost in found.items()}
    return {name: [each + (router or {}).get(name, 0) for each in cost] for name, cost in found.items()}


def described_point(
    chosen: pairs.ChosenPair, unit: str, spent: dict[str, list], score: np.ndarray, correct: np.ndarray
) -> dict:
    """How a pair runs: what it costs, its threshold, its target, and, from its score and correct [m, 2], what it does."""
    point = chosen.point
    average = {
        f"average_{name}": thresholds.evaluate(score, correct, cost, point.thresholds).average_cost
        for name, cost in spent.items()
    }
    return {
        "cost": spent["macs"],
        **{name: cost for name, cost in spent.items() if name != "macs"},
        "thresholds": list(point.thresholds),
        "target": {f"max_{unit}": chosen.max_cost, "min_accuracy": chosen.min_accuracy},
        "feasible": point.feasible,
        "holdout": {"accuracy": point.accuracy, **average, "exit_rate": list(point.exit_rate)},
    }


class Evaluated(NamedTuple):
    """The subnets that a search may make its pair of, and what else it takes to make and evaluate one."""

    job: Job
    variables: dict  # the trained supernet's
    tables: dict[str, macs.CostTable]  # by unit
    evaluate: collect.Evaluator  # on the held-out images
    genomes: np.ndarray  # int32[n, genes]
    answers: Answers  # theirs, as big
    latencies: latency.LatencyTable | None = None  # that of "latency_ms"

    @property
    def roles(self) -> tuple[dict, dict]:
        """The variables that little and big run on."""
        found = collect.roles(self.job.supernet, self.variables)
        return found[0], found[-1]

    @property
    def target(self) -> dict:
        """What the config's section `dynamic` says of the target: keys of `pairs.choose_pair`."""
        return routers.asked(self.job.dynamic)[1]

    @property
    def unit(self) -> str:
        """What costs that target is about: "macs" or "latency_ms"."""
        return pairs.unit(self.target, "latency_ms" in self.tables)

    @property
    def big(self) -> int:
        """Which of the subnets would be the big one of their pair."""
        cost = _exact(self.tables[self.unit], self.genomes)
        return pairs.choose_big(self.answers.correct, cost, self.target.get("big_net", pairs.BIG_NETS[0]))


class Candidates(NamedTuple):
    """The subnets that a pair is made of, what they answered on the held-out images, and which are chosen."""

    littles: np.ndarray  # int32[k, genes]
    bigs: np.ndarray  # int32[n, genes]
    as_little: Answers
    as_big: Answers
    chosen: pairs.ChosenPair


def answered(chosen: pairs.ChosenPair, littles: Answers, bigs: Answers) -> tuple[np.ndarray, np.ndarray]:
    """(score float32[m, 2], correct bool[m, 2]) of a pair, from what candidates answered."""
    both = zip(littles, bigs, strict=True)
    return tuple(np.stack([little[chosen.little], big[chosen.big]], axis=-1) for little, big in both)


def of_candidates(seen: Evaluated) -> Candidates:
    """The pair that `pairs.choose_pair` makes of the subnets evaluated.

    Where little nets have a head of their own, little is one of the candidates cut down, gene by gene, to what big has.
    """
    supernet, genomes, space = seen.job.supernet, seen.genomes, PairSpace(seen.job.supernet.space)
    littles, own, as_little = genomes, seen.answers, None
    if supernet.coupling:
        below = space.below(genomes, genomes[seen.big])
        littles = np.unique(np.asarray(jax.vmap(supernet.space.canonical)(below)), axis=0)
        own = seen.evaluate(seen.roles[0], littles)
    spends = costs(supernet, seen.tables, littles, genomes)[seen.unit]
    resolution = np.asarray([supernet.arch(genome).resolution for genome in genomes])
    if supernet.coupling:
        as_little = pairs.AsLittle(*own, space.fits(littles, genomes), spends.little)
    chosen = pairs.choose_pair(*seen.answers, spends.big, spends.stem, resolution, as_little, **seen.target)
    return Candidates(littles, genomes, own, seen.answers, chosen)


def of_genome(seen: Evaluated, genome: np.ndarray, max_cost: float) -> Candidates:
    """The pair int32[2 genes] at its best threshold within `max_cost`."""
    halves = [half[None] for half in PairSpace(seen.job.supernet.space).halves(np.asarray(genome))]
    answers = [seen.evaluate(role, half) for role, half in zip(seen.roles, halves, strict=True)]
    spends = costs(seen.job.supernet, seen.tables, *halves)[seen.unit].spent(0, 0)
    only = pairs.ChosenPair(0, 0, None, max_cost, None)
    point = thresholds.choose(*answered(only, *answers), spends, max_cost=max_cost)
    return Candidates(*halves, *answers, only._replace(point=point))


def found(folder: Path, seen: Evaluated, candidates: Candidates, calibration_images: int) -> dict:
    """Extracts both nets of the chosen pair with their own statistics, fits its routers, and describes it."""
    job, supernet, chosen = seen.job, seen.job.supernet, candidates.chosen
    wanted, _ = routers.asked(job.dynamic)
    pair = {"little": candidates.littles[chosen.little], "big": candidates.bigs[chosen.big]}
    images, nets, both = job.calibration_batches(calibration_images), {}, {}
    for (which, genome), role in zip(pair.items(), seen.roles, strict=True):
        nets[which] = calibration.extract_calibrated(supernet, role, genome, images)[1]
        both[which] = described(supernet, seen.tables, genome) | {"params": macs.params(nets[which])}
    built = big_little.build(supernet, *pair.values())
    answers = answered(chosen, candidates.as_little, candidates.as_big)
    tried = (routers.Tried(wanted.router, None, routers.RouterCost(0, 0), *answers),)
    if wanted.compare or wanted.router.name != "confidence":
        tried = routers.fit(job, wanted, built, nets, seen.variables)
    units = costs(supernet, seen.tables, candidates.littles, candidates.bigs)
    routed = _routed(tried, chosen, wanted, seen.unit, units, functools.partial(_router_ms, seen.latencies, built))
    save_variables(folder / "routers.msgpack", {one.router.label: one.params for one in tried if one.params})
    save_variables(folder / "pair.msgpack", {**nets, **({"router": tried[0].params} if tried[0].params else {})})
    return {
        **both,
        "stem_macs": units["macs"].stem[chosen.big].item(),
        "params": big_little.params(built, nets) + tried[0].cost.params,
        "score": job.score,
        **routed,
    }


def _router_ms(table: latency.LatencyTable | None, pair: big_little.Pair, router: Router) -> float | None:
    """What a table of latencies says of a router; None where it was built without it."""
    if router.name == "confidence":
        return 0.0
    features, _ = protocol.looked_at(pair, router.place)
    return table and table.router_ms(tuple(features.shape), latency.router_spec(router.to_json()))


def _routed(
    tried: tuple[routers.Tried, ...],
    chosen: pairs.ChosenPair,
    wanted: routing.Asked,
    unit: str,
    units: dict,
    router_ms: Callable[[Router], float | None],
) -> dict:
    """How the pair runs with the first router, and what each does for the same target."""
    target, rows, routed = {"max_cost": chosen.max_cost, "min_accuracy": chosen.min_accuracy}, [], {}
    for one in tried:
        own_ms = router_ms(one.router) if "latency_ms" in units else None
        own = {"macs": one.cost.macs, "latency_ms": own_ms or 0.0}
        spends = spent(chosen, units, router=own, before_little=one.router.place == "stem")
        threshold = None if rows else wanted.threshold
        point = routers.point(one.score, one.correct, spends[unit], threshold, target)
        spec = {"cost": spends["macs"], "spec": one.router.to_json()}
        spec |= {"latency_ms": own_ms} if "latency_ms" in units else {}
        rows.append(routers.row(one, point, wanted.optimal) | spec)
        if not routed:
            routed = described_point(chosen._replace(point=point), unit, spends, one.score, one.correct)
    return {**routed, "optimal": wanted.optimal, "routers": rows}
