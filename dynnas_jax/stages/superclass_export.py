"""The stage that writes a file for every superclass, and `dynnas specialize`: a subnet for these classes and this budget.

A file's head has the logits of its superclass alone. All lie below one folder, where the runtime switches between them by name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dynnas_jax import job as jobs
from dynnas_jax import kinds
from dynnas_jax.costs import macs
from dynnas_jax.data.splits import Split
from dynnas_jax.export import targets
from dynnas_jax.job import Job, supernet_variables
from dynnas_jax.networks import specialised
from dynnas_jax.stages import export, superclass_generator
from dynnas_jax.stages.superclass_generator import OWN, Trained
from dynnas_jax.train import calibration
from dynnas_jax.workdir import Workdir, read_config, read_json, write_json

FOLDER = "specialize"  # in a working directory, where files for one superclass after another are written
_NAME = re.compile(r"[\w.+-]+")


class Subnet(NamedTuple):
    """What is exported: a subnet for some superclasses."""

    name: str  # of its folder
    members: np.ndarray  # bool[T]
    genome: np.ndarray  # int32[genes]


def run(
    job: Job,
    folder: Path,
    *,
    budget: int | None = None,
    precisions: tuple[str, ...] = (),
    onnx: bool = False,
    calibration_images: int = export.CALIBRATION_IMAGES,
    max_accuracy_loss: float = 0.01,
    threads: int = 1,
    runs: int = 1000,
    warm_up: int = 100,
) -> tuple[str, ...]:
    """The generator's subnet of every superclass at one of the searched budgets, each in a folder of its own.

    Args:
      budget: its number, from 0; None: the middle one.
      precisions, onnx, calibration_images, max_accuracy_loss, threads, runs, warm_up: see `stages.export.run`.
    """
    options = {"precisions": precisions, "onnx": onnx, "calibration_images": calibration_images}
    options |= {"max_accuracy_loss": max_accuracy_loss, "threads": threads, "runs": runs, "warm_up": warm_up}
    found = read_json(job.workdir.folder("search") / "found.json")
    number = len(found["budgets"]) // 2 if budget is None else budget
    wanted, where, files = found["budgets"][number], folder / job.target, []
    for net in found["methods"]["eas"]["nets"]:
        if net["budget"] == wanted:
            name = net["superclass"]
            genome = job.supernet.space.from_json(net["genome"])
            write(job, Subnet(name, job.superclasses.members([name]), genome), where / name, options)
            files += [f"{job.target}/{name}/{path.name}" for path in sorted((where / name).iterdir())]
    return *files, *_above(where, job.target)


def check(job: Job, *, budget: int | None = None, **options) -> None:
    """Raises ValueError for what would end the stage, before anything is trained."""
    count = job.workdir.config.get("search", {}).get("budgets", 5)
    if budget is not None and not 0 <= budget < count:
        raise ValueError(f"export.budget is {budget}, must be the number of a searched budget, from 0 to {count - 1}")
    if alone := [name for name, group in zip(*job.superclasses, strict=True) if len(group) < 2]:
        raise ValueError(f"export: superclass {alone[0]!r} has one class, which needs no network; leave the stage out")
    for name in job.superclasses.names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"export: superclass {name!r} cannot be the name of a folder; use letters, digits, _ - .")
    export.check(job, **options)


def _above(where: Path, target: str) -> tuple[str, ...]:
    """What lies above the folders of the superclasses: the runtime that switches between them."""
    from dynnas_jax.export import device_folder, specialists

    package = Path(specialists.__file__).parents[1]
    modules = tuple(package / module for module in device_folder.MODULES)
    specialists.write(where, modules)
    return tuple(f"{target}/{path.name}" for path in sorted(where.iterdir()) if path.is_file())


def write(job: Job, subnet: Subnet, where: Path, options: dict) -> dict[str, Any]:
    """Writes, checks and times the files of a subnet in a folder; returns what `export.json` says. All or nothing.

    Raises:
      ValueError: as `stages.export.run`.
    """
    from dynnas_jax.export import device_folder, dynamic, functions, measuring

    classes = job.superclasses.classes(subnet.members)
    images = job.calibration_batches(1024)
    cut = calibration.extract_calibrated(job.supernet, supernet_variables(job), subnet.genome, images)
    net, variables = specialised.specialised(*cut, classes)
    net, arch = net.clone(depthwise=targets.target(job.target).depthwise), net.arch
    shape = (arch.resolution, arch.resolution, arch.channels)
    network = functions.single(lambda images: net.apply(variables, images)[0], shape)
    promise = dynamic.Promise(
        labels=tuple(str(job.images.classes[number]) for number in classes),
        cost=macs.net_cost(net, shape)[:1],
        macs={functions.SINGLE: macs.net_cost(net, shape)[0]},
        central_share=job.workdir.config["data"].get("central_share", 1.0),
    )
    own = _of_classes(job.images.test, classes)
    answers = np.concatenate([np.asarray(jax.jit(net.apply)(variables, part)[0]).argmax(1) for part in _parts(own)])
    with dynamic.all_or_nothing(where) as unchecked:
        chosen = {"precisions": tuple(options["precisions"]), "onnx_too": options["onnx"] or None, "target": job.target}
        facts = dynamic.export(
            network, promise, unchecked, calibration=_scales(job, classes, options["calibration_images"]), **chosen
        )
        timing = {key: options[key] for key in ("threads", "runs", "warm_up")}
        reference = measuring.Reference({functions.SINGLE: answers}, answers)
        measured = measuring.measure(unchecked, facts, own.images, own.labels, reference, **timing)
        if lossy := measuring.losses(measured, options["max_accuracy_loss"]):
            raise ValueError(
                f"{subnet.name}: {lossy[0].key} loses {100 * lossy[0].accuracy_loss:.2f} points of accuracy, more than "
                f"export.max_accuracy_loss allows; give it another value, or leave int8 out of export.precisions"
            )
        told = {"superclass": job.superclasses.title(subnet.members), "images": len(own)}
        told |= {"genome": job.supernet.space.to_json(subnet.genome), **measured}
        write_json(unchecked / "export.json", told)
        device_folder.write(unchecked)
    return told


def _of_classes(split: Split, classes: np.ndarray) -> Split:
    """The images of some classes, their labels numbered by their place among these."""
    labels = np.asarray(split.labels)
    own = split[np.flatnonzero(np.isin(labels, classes))]
    return Split(own.images, np.searchsorted(classes, own.labels).astype(np.int32), own.image_id)


def _parts(split: Split, most: int = 512) -> list[np.ndarray]:
    return [split.images[start : start + most] for start in range(0, len(split), most)]


def _scales(job: Job, classes: np.ndarray, count: int) -> np.ndarray:
    """uint8[n, h, w, c]: training images of the classes, which set the int8 scales."""
    labels = np.asarray(job.images.train.labels)
    mine = np.random.default_rng([job.seed, 1, 2]).permutation(np.flatnonzero(np.isin(labels, classes)))[:count]
    return np.asarray(job.images.train[np.sort(mine)].images)


def specialize(
    path: Path,
    *,
    superclass: str,
    max_macs: float | None = None,
    max_latency_ms: float | None = None,
    precisions: tuple[str, ...] = (),
    name: str | None = None,
) -> dict[str, Any]:
    """The subnet of a run for a superclass, or a set "a+b", within a budget; its files go to `W/specialize/NAME`.

    Args:
      max_macs, max_latency_ms: one of the two, in the unit that the generator was trained for.
      precisions: of `metadata.PRECISIONS`; () for those of the run.
      name: of the folder; the superclass by default.

    Returns:
      What the command prints: the genome, its MACs, and what was measured of the files.

    Raises:
      ValueError: for a run of another kind or without a generator, an unknown superclass (the nearest is named), a budget
        outside the space, or another unit than the generator's.
    """
    config = read_config(path)
    if (kind := kinds.of(config)) is not kinds.EAS:
        raise ValueError(f"{path} is a run of {kind.words}: only a supernet of superclasses can be specialised")
    supernet = jobs.supernet_of_run(path)
    trained = superclass_generator.load(path, supernet, config["target"])
    unit, budget = ("macs", max_macs) if max_latency_ms is None else ("latency_ms", max_latency_ms)
    if unit != trained.facts["unit"]:
        raise ValueError(f"{path}: its generator is for budgets in {trained.facts['unit']}, not in {unit}")
    members = trained.superclasses.members(superclass)
    trained.check_budget(supernet, budget)
    name = name or trained.superclasses.title(members)
    if not _NAME.fullmatch(name):
        raise ValueError(f"--name={name!r} cannot be the name of a folder; use letters, digits, _ - . +")
    genome = answer(trained, supernet, members, budget)
    job = jobs.prepare(Workdir(path, kind.stages, config), config)
    options = {"precisions": (), "onnx": False, "calibration_images": export.CALIBRATION_IMAGES}
    options |= {"max_accuracy_loss": 0.01, "threads": 1, "runs": 1000, "warm_up": 100}
    options |= {key: value for key, value in config["export"].items() if key in options}
    options |= {"precisions": precisions} if precisions else {}
    told = write(job, Subnet(name, members, genome), path / FOLDER / name, options)
    _above(path / FOLDER, "")
    files = {key: str(path / FOLDER / name / fact["path"]) for key, fact in told["files"].items()}
    costs = {"macs": macs.table(supernet).exact(genome), unit: trained.table.exact(genome)}
    accuracy = {key: fact["accuracy"] for key, fact in told["files"].items()}
    arch = {"genome": told["genome"], "arch": supernet.arch.file(genome)}
    return {"superclass": told["superclass"], **arch, **costs, "test_accuracy": accuracy, "files": files}


def answer(trained: Trained, supernet: Any, members: np.ndarray, budget: float) -> np.ndarray:
    """int32[genes]: the generator's subnet for a set bool[T] and a budget."""
    ask = trained.answerer(supernet, OWN)
    found = ask(members[None], np.asarray([budget], np.float32), jax.random.key(0))
    return np.asarray(found.chosen[0])
