"""`dynnas specialize`: the subnet of a finished generator for these classes and this budget, as files for a device."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynnas_jax import job as jobs
from dynnas_jax import kinds
from dynnas_jax.costs import macs
from dynnas_jax.export import targets
from dynnas_jax.job import Job
from dynnas_jax.stages import superclass_export, superclass_generator, superclass_quick, superclass_search
from dynnas_jax.stages.superclass_export import Subnet
from dynnas_jax.stages.superclass_generator import OWN, Trained
from dynnas_jax.workdir import Workdir, read_config

FOLDER = "specialize"  # in a working directory; below it a folder for each target, with one for each answer


def specialize(
    path: Path,
    *,
    superclass: str,
    max_macs: float | None = None,
    max_latency_ms: float | None = None,
    quick_evaluation: bool = False,
    target: str | None = None,
    precisions: tuple[str, ...] = (),
    name: str | None = None,
) -> dict[str, Any]:
    """The subnet of a run for a superclass, or a set "a+b", within a budget; its files go to `W/specialize/TARGET/NAME`.

    Args:
      max_macs, max_latency_ms: one of the two, in the unit that the generator was trained for.
      quick_evaluation: the most accurate sample on held-out images, as `search.quick_evaluation` of the run asks for too.
      target: of the files; the run's own if None. Milliseconds are those of the target that the generator was trained for.
      precisions: of `metadata.PRECISIONS`; () for those of the run, or another target's own.
      name: of the folder; the superclass by default.

    Returns:
      What the command prints: the genome, its costs, and what was measured of the files.

    Raises:
      ValueError: for a run of another kind or without a generator, an unknown superclass (the nearest is named) or target, a
        precision that the target does not run, a budget outside the space, or in another unit than the generator's.
    """
    config = read_config(path)
    if (kind := kinds.of(config)) is not kinds.EAS:
        raise ValueError(f"{path} is a run of {kind.words}: only a supernet of superclasses can be specialised")
    target = config["target"] if target is None else targets.target(target).name
    targets.check_precisions("--precisions=", precisions, target)
    supernet = jobs.supernet_of_run(path)
    trained = superclass_generator.load(path, supernet, config["target"])
    unit, budget = ("macs", max_macs) if max_latency_ms is None else ("latency_ms", max_latency_ms)
    _check_unit(path, trained, unit, target, config["target"])
    trained.check_budget(supernet, budget)
    members = trained.superclasses.members(superclass)
    name = name or trained.superclasses.title(members)
    superclass_export.check_name("--name=", name)
    job = jobs.prepare(Workdir(path, kind.stages, config), config)
    genome = answer(job, trained, members, budget, quick_evaluation)
    where = path / FOLDER / target / name
    options = _options(config, target, precisions)
    told = superclass_export.write(job._replace(target=target), Subnet(name, members, genome), where, options)
    superclass_export.runtime_above(where.parent)
    return _said(job, trained, genome, told, where)


def _said(job: Job, trained: Trained, genome: np.ndarray, told: dict, where: Path) -> dict[str, Any]:
    """What the command prints, of what the export told."""
    costs = {"macs": macs.table(job.supernet).exact(genome), trained.facts["unit"]: trained.table.exact(genome)}
    arch = {"genome": told["genome"], "arch": job.supernet.arch.file(genome)}
    accuracy = {key: fact["accuracy"] for key, fact in told["files"].items()}
    files = {key: str(where / fact["path"]) for key, fact in told["files"].items()}
    return {"superclass": told["superclass"], **arch, **costs, "test_accuracy": accuracy, "files": files}


def _check_unit(path: Path, trained: Trained, unit: str, target: str, timed: str) -> None:
    """A budget must be in the generator's unit, milliseconds of the target that was timed; else ValueError."""
    if unit != (own := trained.facts["unit"]):
        raise ValueError(f"{path}: its generator is for budgets in {own}, not in {unit}; pass --max_{own}")
    if unit == "latency_ms" and target != timed:
        raise ValueError(f"{path}: its generator is for milliseconds on {timed}, not on {target}; leave out --target")


def answer(job: Job, trained: Trained, members: np.ndarray, budget: float, quick_evaluation: bool) -> np.ndarray:
    """int32[genes]: the generator's subnet for a set bool[T] and a budget, asked as the run's search asks it."""
    search = {name: value.default for name, value in inspect.signature(superclass_search.run).parameters.items()}
    search |= job.workdir.config.get("search", {})
    scenario = members[None], np.asarray([budget], np.float32)
    found = jax.device_get(trained.answerer(job.supernet, OWN, search["samples"])(*scenario, jax.random.key(0)))
    if not (quick_evaluation or search["quick_evaluation"]):
        return np.asarray(found.chosen[0])
    return superclass_quick.chooser(job, search["calibration_images"])(members[None], found)[0]


def _options(config: dict, target: str, precisions: tuple[str, ...]) -> dict[str, Any]:
    """What `superclass_export.write` is told: as the run's own export, but for another target's precisions."""
    known = inspect.signature(superclass_export.run).parameters
    options = {name: value.default for name, value in known.items() if name not in ("job", "folder", "budget")}
    options |= {name: value for name, value in config["export"].items() if name in options}
    own = options["precisions"] if target == config["target"] else ()
    return options | {"precisions": precisions or own}
