"""The stage that asks the generator for every superclass and budget, and its rivals for the same.

The rivals, on the same supernet and the same held-out images: `random` subnets; `ofa_v`, one evolutionary search for all
superclasses; `ofa_t`, one for each; and `eas_v`, a generator that is not told the superclass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dynnas_jax import progress
from dynnas_jax.costs import macs
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import NO_HELD_OUT, Job
from dynnas_jax.search import evolution, generator, predictor
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.stages import superclass_generator, superclass_predict, superclass_quick
from dynnas_jax.stages.superclass_generator import ALIKE, MULTI_PATH, OWN, Trained
from dynnas_jax.workdir import write_json

CLOSE = 0.03  # how far below a budget a random subnet may be, where there is one so near
DRAWS = 2000  # random genomes
REPEATS = 20  # of a timed answer


def run(
    job: Job,
    folder: Path,
    *,
    budgets: int = 5,
    samples: int = generator.SAMPLES,
    quick_evaluation: bool = False,
    calibration_images: int = 1024,
    **options,
) -> tuple[str, ...]:
    """Subnets for every superclass and budget by every method, with what each took; leaves `found.json`.

    Args:
      budgets: how many, evenly spaced inside the range that the generator is for.
      samples: of the generator for a scenario.
      quick_evaluation: whether the best sample is the most accurate on held-out images, or the likeliest.
      calibration_images: for the statistics of subnets that are evaluated.
      options: of `evolution.run`.
    """
    trained = superclass_generator.load(job.workdir.path, job.supernet, job.target)
    least, most = trained.ends
    limits = [float(value) for value in np.linspace(least, most, budgets + 2)[1:-1]]
    quick = superclass_quick.chooser(job, calibration_images) if quick_evaluation else None
    search = _Search(job, trained, limits, samples, _program(job.supernet, trained.table, options))
    found = {"eas": search.generated(OWN, quick)}
    if MULTI_PATH in trained.params:
        found["eas_multi_path"] = search.generated(MULTI_PATH, quick)
    found["eas_v"] = search.generated(ALIKE, None)
    found |= {"ofa_t": search.evolved(job.superclasses.names), "ofa_v": search.evolved((superclass_predict.ALL,))}
    found["random"] = search.random()
    facts = {key: trained.facts[key] for key in ("space", "unit", "least_budget", "most_budget", "tasks")}
    ends = {end: trained.table.exact(getattr(job.supernet.space, end)) for end in ("smallest", "largest")}
    content = facts | ends | {"superclasses": list(job.superclasses.names), "budgets": limits, "samples": samples}
    content |= {"answering": search.answering(), "methods": found}
    content["similarity"] = _similarity(job.supernet.space, found["eas"]["nets"], limits)
    write_json(folder / "found.json", content | {"unknown": search.unknown(found["eas"]["nets"])})
    return ("found.json",)


class _Search(NamedTuple):
    """What every method needs."""

    job: Job
    trained: Trained
    budgets: list[float]
    samples: int
    evolve: Callable

    def scenarios(self, several: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """(members bool[M, T], budgets float32[M]), superclass by superclass; of one that knows none T is 1."""
        count = len(self.job.superclasses.names) if several else 1
        members = np.repeat(np.eye(count, dtype=bool), len(self.budgets), axis=0)
        return members, np.tile(np.asarray(self.budgets, np.float32), count)

    def generated(self, name: str, quick: Callable | None) -> dict[str, Any]:
        """What a generator answers, all scenarios in one pass."""
        members, budgets = self.scenarios(name != ALIKE)
        answer = self.trained.answerer(self.job.supernet, name, self.samples)
        scenarios = members, budgets, self.job.key(8)
        found = jax.device_get(answer(*scenarios))
        start = time.perf_counter()
        for _ in range(REPEATS):
            jax.block_until_ready(answer(*scenarios))
        seconds = (time.perf_counter() - start) / REPEATS
        genomes = found.chosen
        if quick is not None:
            start = time.perf_counter()
            genomes = quick(members, found)
            seconds += time.perf_counter() - start
        rows = self.nets([*genomes] * (len(self.job.superclasses.names) if name == ALIKE else 1))
        for number, row in enumerate(rows):
            asked = number % len(budgets)  # a generator that knows no superclass answers once for all
            cost = self.trained.table.exact(found.genome[asked, 0])
            row |= {"first_cost": cost, "first_feasible": bool(cost <= budgets[asked])}
            row |= {"repaired": bool(found.repaired[asked]), "feasible_share": float(found.feasible[asked].mean())}
        trained_s = self.trained.facts["generators"][name]["seconds"]
        return {"train_s": trained_s, "search_s": seconds, "nets": rows}

    def nets(self, genomes: list[np.ndarray]) -> list[dict]:
        """Rows of `found.json`, of a genome for every superclass and budget."""
        scenarios = [(name, budget) for name in self.job.superclasses.names for budget in self.budgets]
        return [
            {"superclass": name, "budget": budget} | described(self.job.supernet, self.trained.table, genome)
            for (name, budget), genome in zip(scenarios, genomes, strict=True)
        ]

    def evolved(self, predictors: tuple[str, ...]) -> dict[str, Any]:
        """What evolution finds by each predictor for every budget, one search after the other."""
        genomes, seconds = [], 0.0
        for number, name in enumerate(predictors):
            for place, budget in enumerate(self.budgets):
                key = jax.random.fold_in(self.job.key(3), number * len(self.budgets) + place)
                params = self.predictor(name).params
                self.evolve(key, params, budget)  # compiles the first time, and is not counted
                start = time.perf_counter()
                genomes.append(self.evolve(key, params, budget))
                seconds += time.perf_counter() - start
        several = len(self.job.superclasses.names) // len(predictors)
        return {"train_s": self.collected(), "search_s": seconds, "nets": self.nets(genomes * several)}

    def predictor(self, name: str) -> predictor.Predictor:
        folder = self.job.workdir.folder("predict") / superclass_predict.place(self.job, name)
        return predictor.load(folder, self.job.supernet.space)

    def collected(self) -> float | None:
        """Seconds of the records and the predictors; None where nothing tells of them."""
        spent = [progress.spent_s(self.job.workdir.folder(name)) for name in ("collect", "predict")]
        return None if None in spent else sum(spent)

    def random(self) -> dict[str, Any]:
        """A random subnet for every scenario, as near to its budget as draws are."""
        space, table = self.job.supernet.space, self.trained.table
        start = time.perf_counter()
        drawn = np.concatenate([space.smallest[None], np.asarray(space.sample(self.job.key(9), DRAWS))])
        drawn = np.asarray(jax.jit(jax.vmap(space.canonical))(drawn))
        cost = np.asarray([table.exact(genome) for genome in drawn])
        generator_of = np.random.default_rng([self.job.seed, 9])
        genomes = []
        for budget in np.tile(self.budgets, len(self.job.superclasses.names)):
            near = np.flatnonzero((cost <= budget) & (cost >= (1 - CLOSE) * budget))
            below = np.where(cost <= budget, cost, -1.0)
            genomes.append(drawn[generator_of.choice(near) if len(near) else below.argmax()])
        seconds = time.perf_counter() - start
        return {"train_s": 0.0, "search_s": seconds, "nets": self.nets(genomes)}

    def answering(self) -> dict[str, Any]:
        """How long 50 scenarios take once the program is compiled."""
        count, (members, _) = 50, self.scenarios()
        least, most = self.trained.ends
        asked = np.resize(members, (count, members.shape[1])), np.linspace(least, most, count, dtype=np.float32)
        answer = self.trained.answerer(self.job.supernet, OWN, self.samples)
        jax.block_until_ready(answer(*asked, self.job.key(8)))
        taken = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            jax.block_until_ready(answer(*asked, self.job.key(8)))
            taken.append(1e3 * (time.perf_counter() - start))
        return {"scenarios": count, "samples": self.samples, "median_ms": float(np.median(taken))}

    def unknown(self, nets: list[dict]) -> dict[str, Any]:
        """For images of unknown superclass: the net that tells it, each one's own subnet, and a general one of the same cost."""
        space, table = self.job.supernet.space, self.trained.table
        smallest, largest = table.exact(space.smallest), table.exact(space.largest)
        budget = self.budgets[len(self.budgets) // 2]
        own = [net for net in nets if net["budget"] == budget]
        spent = smallest + float(np.mean([net["cost"] for net in own]))
        key = jax.random.fold_in(self.job.key(3), 10_000)
        general = self.evolve(key, self.predictor(superclass_predict.ALL).params, min(spent, float(largest)))
        first = described(self.job.supernet, table, space.smallest)
        return {"budget": budget, "first": first, "general": described(self.job.supernet, table, general)}


def described(supernet: Supernet, table: macs.CostTable, genome: np.ndarray) -> dict[str, Any]:
    """What `found.json` says of a subnet."""
    genome = np.asarray(genome)
    told = {
        "genome": supernet.space.to_json(genome),
        "arch": supernet.arch.file(genome),
        "macs": macs.table(supernet).exact(genome),
    }
    return told | {"cost": table.exact(genome)}


def _similarity(space: SearchSpace, nets: list[dict], budgets: list[float]) -> list[float]:
    """[budgets]: the mean cosine similarity of the one-hot codes of every two superclasses' subnets."""
    found = []
    for budget in budgets:
        rows = np.stack([space.encode(space.from_json(net["genome"])) for net in nets if net["budget"] == budget])
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        between = np.triu_indices(len(rows), 1)
        found.append(float((unit @ unit.T)[between].mean()))
    return found


def _program(supernet: Supernet, table: macs.CostTable, options: dict) -> Callable:
    """(key, params of a predictor, budget) -> genome int32[genes]; one compiled program for all of them."""

    @jax.jit
    def run(key: jax.Array, params: dict, budget: jax.Array) -> jax.Array:
        fitness = lambda genome: predictor.predicted(supernet.space, params, genome)  # noqa: E731
        return evolution.run(key, supernet.space, fitness, table, budget, **options).genome

    return lambda key, params, budget: np.asarray(run(key, params, np.float32(budget) * evolution.BELOW))


def check(
    job: Job,
    *,
    budgets: int = 5,
    samples: int = generator.SAMPLES,
    quick_evaluation: bool = False,
    **_,
) -> None:
    """Raises ValueError for what would end the stage at its first step."""
    if budgets < 1 or samples < 1:
        raise ValueError(f"search: budgets {budgets} and samples {samples} must be at least 1")
    if quick_evaluation and not len(job.images.holdout):
        raise ValueError(NO_HELD_OUT)
