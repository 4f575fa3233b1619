"""The stage that trains the architecture generators: the one of all superclasses, and its controls.

One control knows no superclass (EAS-V); another, where it is asked for, draws on multiple paths.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dynnas_jax import progress
from dynnas_jax.costs import latency, macs
from dynnas_jax.data import superclasses
from dynnas_jax.data.superclasses import Superclasses
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import NO_HELD_OUT, Job, load_variables, save_variables, supernet_variables
from dynnas_jax.search import generator, generator_fit
from dynnas_jax.search.generator_fit import Tasks
from dynnas_jax.stages.cost_tables import cost_tables, read_latency_table, tell_doubts
from dynnas_jax.workdir import read_json, write_json

FILE, WEIGHTS, TABLE = "generator.json", "generator.msgpack", "latency_table.json"
OWN, ALIKE, MULTI_PATH = "superclasses", "all", "multi_path"  # the generators
_OF_SHAPE = ("paths", "budget_embeddings", "embedding", "units")


def run(
    job: Job,
    folder: Path,
    *,
    least_budget: float | None = None,
    most_budget: float | None = None,
    unions: tuple = (),
    latency_table: str | None = None,
    multi_path_too: bool = False,
    **options,
) -> tuple[str, ...]:
    """The generators, trained alike; leaves their weights and what they are for.

    Args:
      least_budget, most_budget: the range of budgets; None: those of the smallest and of the largest subnet.
      unions: sets of superclasses that are trained beside the single ones, each "a+b" or a list of names.
      latency_table: budgets are milliseconds by this file of `dynnas table`, in the place of MACs.
      multi_path_too: a further generator of all superclasses on multiple paths, as a control.
      options: of `generator.shape_of` and `generator_fit.fit`.
    """
    table, unit = _table(job, latency_table)
    ends = _ends(job, table, unit, least_budget, most_budget)
    own = tasks(job.superclasses, unions)
    given = {key: options.pop(key) for key in _OF_SHAPE if key in options}
    wanted = {OWN: (own, given), ALIKE: (alike(job.superclasses), given)}
    wanted |= {MULTI_PATH: (own, {**given, "paths": "multi"})} if multi_path_too else {}
    kept, told, variables = {}, {}, supernet_variables(job)
    for number, (name, (of, shaped)) in enumerate(wanted.items()):
        shape = generator.shape_of(job.supernet.space, of.members.shape[1], **shaped)
        with progress.counted(f"generator of {name}", options["steps"], "steps") as advance:
            fitted = generator_fit.fit(
                *(jax.random.fold_in(job.key(7), number), job.supernet, variables, job.images.holdout),
                *(of, table, shape, ends, lambda _: advance(1)),
                **options,
            )
        kept[name] = fitted.params
        history = {"loss": fitted.loss.tolist(), "distance": fitted.distance.tolist()}
        told[name] = {"shape": generator.as_json(shape), "seconds": fitted.seconds, **history}
    save_variables(folder / WEIGHTS, kept)
    facts = {"unit": unit, "least_budget": ends[0], "most_budget": ends[1]}
    write_json(folder / FILE, _made_for(job, own) | facts | {"generators": told})
    if latency_table:
        latency.save(read_latency_table(latency_table, job.supernet, job.target), folder / TABLE)
    return FILE, WEIGHTS, *((TABLE,) if latency_table else ())


def _made_for(job: Job, own: Tasks) -> dict[str, Any]:
    """What `generator.json` says of the space, the superclasses and the tasks."""
    groups = {name: list(group) for name, group in zip(*job.superclasses, strict=True)}
    titles = [job.superclasses.title(row) for row in own.members]
    return {"space": job.supernet.space.fingerprint, "superclasses": groups, "tasks": titles}


def _table(job: Job, latency_table: str | None) -> tuple[macs.CostTable, str]:
    """(costs of genomes, their unit)."""
    unit = "latency_ms" if latency_table else "macs"
    return cost_tables(job.supernet, latency_table, job.target)[unit], unit


def _ends(job: Job, table: macs.CostTable, unit: str, least: float | None, most: float | None) -> tuple[float, float]:
    """The range of budgets. Raises ValueError for one outside the space, or an empty one."""
    space = job.supernet.space
    smallest, largest = (table.exact(genome) for genome in (space.smallest, space.largest))
    found = []
    for name, value, default in (("least_budget", least, smallest), ("most_budget", most, largest)):
        value = default if value is None else value
        if not smallest <= value <= largest:
            raise ValueError(
                f"generator.{name} is {value:g} {unit}, outside the space, whose subnets take {smallest:g} to {largest:g}"
            )
        found.append(float(value))
    if not found[0] < found[1]:
        raise ValueError(f"generator: least_budget {found[0]:g} must be below most_budget {found[1]:g}")
    return found[0], found[1]


def tasks(groups: Superclasses, unions: Sequence = ()) -> Tasks:
    """Every superclass, and the unions, each by its own logits. Raises ValueError for an unknown superclass."""
    single = np.eye(len(groups.names), dtype=bool)
    members = np.stack([*single, *(groups.members(union) for union in unions)])
    return Tasks(members, np.stack([groups.task(row) for row in members]))


def alike(groups: Superclasses) -> Tasks:
    """One task for all: every image by the logits of its own superclass, and nothing told of it."""
    return Tasks(np.ones((1, 1), bool), groups.apart[None])


def check(
    job: Job,
    *,
    least_budget: float | None = None,
    most_budget: float | None = None,
    unions: tuple = (),
    latency_table: str | None = None,
    multi_path_too: bool = False,
    **options,
) -> None:
    """Raises ValueError for what would end the stage at its first step."""
    if multi_path_too and options.get("paths") == "multi":
        raise ValueError(
            "generator.multi_path_too does nothing where generator.paths is 'multi' already; leave one out"
        )
    if not len(job.images.holdout):
        raise ValueError(NO_HELD_OUT)
    if "steps" not in options:
        raise ValueError("generator.steps is missing; give it a value")
    if latency_table:
        tell_doubts(read_latency_table(latency_table, job.supernet, job.target), job.workdir.config)
    table, unit = _table(job, latency_table)
    _ends(job, table, unit, least_budget, most_budget)
    tasks(job.superclasses, unions)
    generator.shape_of(job.supernet.space, 1, **{key: options[key] for key in _OF_SHAPE if key in options})
    known = inspect.signature(generator_fit.fit).parameters
    checked = inspect.signature(generator_fit.check).parameters
    generator_fit.check(**{name: options.get(name, known[name].default) for name in checked})


class Trained(NamedTuple):
    """The generators of a run."""

    facts: dict  # of `generator.json`
    params: dict  # by name of the generator
    superclasses: Superclasses
    table: macs.CostTable  # in the unit of the budgets

    @property
    def ends(self) -> tuple[float, float]:
        """The range of budgets."""
        return self.facts["least_budget"], self.facts["most_budget"]

    def answerer(self, supernet: Supernet, name: str = OWN, samples: int = generator.SAMPLES) -> Any:
        """`generator.answerer` of one of the generators, its params filled in: answer(members, budgets, key)."""
        shape = generator.from_json(self.facts["generators"][name]["shape"])
        program = generator.answerer(shape, supernet.space, self.table, self.ends, samples)
        params = jax.tree.map(jax.numpy.asarray, self.params[name])
        return lambda members, budgets, key: program(params, members, budgets, key)

    def check_budget(self, supernet: Supernet, budget: float) -> None:
        """Raises ValueError for a budget that no subnet keeps, or that is beyond all of them."""
        ends = (self.table.exact(genome) for genome in (supernet.space.smallest, supernet.space.largest))
        generator.check_budget(budget, *ends, "MACs" if self.facts["unit"] == "macs" else "ms")


def load(path: Path, supernet: Supernet, target: str) -> Trained:
    """The generators of a run's directory.

    Raises:
      ValueError: where they have not been trained, a file is damaged, or they are of another space.
    """
    folder = path / "generator"
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{path}: stage 'generator' is not done; `dynnas run` must come to it first")
    facts = read_json(folder / FILE)
    if facts["space"] != supernet.space.fingerprint:
        raise ValueError(
            f"{folder}: a generator of space {facts['space']!r}, but this space is {supernet.space.fingerprint!r}; "
            "pass --redo=generator"
        )
    groups = superclasses.Superclasses(
        tuple(facts["superclasses"]), tuple(tuple(group) for group in facts["superclasses"].values())
    )
    measured = folder / TABLE if facts["unit"] == "latency_ms" else None
    table = cost_tables(supernet, measured, target)[facts["unit"]]
    return Trained(facts, load_variables(folder / WEIGHTS), groups, table)
