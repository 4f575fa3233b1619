"""The stage that writes a file for every superclass.

A file's head has the logits of its superclass alone. All lie below one folder, where the runtime switches between them by name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.data.splits import Split
from dynnas_jax.export import targets
from dynnas_jax.job import Job, supernet_variables
from dynnas_jax.networks import specialised
from dynnas_jax.stages import export
from dynnas_jax.train import calibration
from dynnas_jax.workdir import read_json, write_json

if TYPE_CHECKING:
    from dynnas_jax.export import dynamic

STATISTICS_IMAGES = 1024  # of training, for the statistics of what is exported
_NAME = re.compile(r"\w[\w+-]*(\.[\w+-]+)*")


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
    return *files, *(f"{job.target}/{name}" for name in runtime_above(where))


def check(job: Job, *, budget: int | None = None, **options) -> None:
    """Raises ValueError for what would end the stage, before anything is trained."""
    count = job.workdir.config.get("search", {}).get("budgets", 5)
    if budget is not None and not 0 <= budget < count:
        raise ValueError(f"export.budget is {budget}, must be the number of a searched budget, from 0 to {count - 1}")
    if alone := [name for name, group in zip(*job.superclasses, strict=True) if len(group) < 2]:
        raise ValueError(f"export: superclass {alone[0]!r} has one class, which needs no network; leave the stage out")
    for name in job.superclasses.names:
        check_name("export: superclass ", name)
    export.check(job, **options)


def check_name(what: str, name: str) -> None:
    """Raises ValueError for a name that no folder beside the runtime's files can have; `what` says whose it is."""
    from dynnas_jax.export import device_folder, specialists

    taken = {Path(module).name for module in (*device_folder.MODULES, specialists.__file__)}
    if name in taken or not _NAME.fullmatch(name):
        raise ValueError(
            f"{what}{name!r} cannot be the name of a folder there; use letters, digits, _ - + and dots between"
        )


def runtime_above(where: Path) -> tuple[str, ...]:
    """Puts the runtime that switches between superclasses above their folders; the names of its files."""
    from dynnas_jax.export import device_folder, specialists

    package = Path(specialists.__file__).parents[1]
    specialists.write(where, tuple(package / module for module in device_folder.MODULES))
    return tuple(path.name for path in sorted(where.iterdir()) if path.is_file())


def write(job: Job, subnet: Subnet, where: Path, options: dict) -> dict[str, Any]:
    """Writes, checks and times the files of a subnet in a folder; returns what `export.json` says. All or nothing.

    Args:
      options: those of `run`, but for `budget`.

    Raises:
      ValueError: as `stages.export.run`.
    """
    from dynnas_jax.export import device_folder, dynamic, functions, measuring

    classes = job.superclasses.classes(subnet.members)
    net, variables, shape = _cut(job, subnet.genome, classes)
    network = functions.single(lambda images: net.apply(variables, images)[0], shape)
    own = _of_classes(job.images.test, classes)
    answers = np.concatenate([np.asarray(jax.jit(net.apply)(variables, part)[0]).argmax(1) for part in _parts(own)])
    with dynamic.all_or_nothing(where) as unchecked:
        chosen = {"precisions": tuple(options["precisions"]), "onnx_too": options["onnx"] or None, "target": job.target}
        scales = export.calibration(job, options["calibration_images"], classes)
        facts = dynamic.export(network, _promise(job, net, shape, classes), unchecked, calibration=scales, **chosen)
        timing = {key: options[key] for key in ("threads", "runs", "warm_up")}
        reference = measuring.Reference({functions.SINGLE: answers}, answers)
        measured = measuring.measure(unchecked, facts, own.images, own.labels, reference, **timing)
        measuring.insist(measured, options["max_accuracy_loss"], network, scales, where, of=f"{subnet.name}: ")
        told = {"superclass": job.superclasses.title(subnet.members), "images": len(own)}
        told |= {"genome": job.supernet.space.to_json(subnet.genome), **measured}
        told |= export.compiled(unchecked, facts, network, where, job.target)
        write_json(unchecked / "export.json", told)
        device_folder.write(unchecked)
    return told


def _cut(job: Job, genome: np.ndarray, classes: np.ndarray) -> tuple[nn.Module, dict, tuple[int, int, int]]:
    """(net of these classes alone in the target's form, its variables, shape of its images)."""
    images = job.calibration_batches(STATISTICS_IMAGES)
    cut = calibration.extract_calibrated(job.supernet, supernet_variables(job), genome, images)
    net, variables = specialised.specialised(*cut, classes)
    arch = net.arch
    net = net.clone(depthwise=targets.target(job.target).depthwise)
    return net, variables, (arch.resolution, arch.resolution, arch.channels)


def _promise(job: Job, net: nn.Module, shape: tuple[int, int, int], classes: np.ndarray) -> dynamic.Promise:
    """What the files say of themselves."""
    from dynnas_jax.export import dynamic, functions

    cost = macs.net_cost(net, shape)
    return dynamic.Promise(
        labels=tuple(str(job.images.classes[number]) for number in classes),
        cost=cost[:1],
        macs={functions.SINGLE: cost[0]},
        central_share=job.workdir.config["data"].get("central_share", 1.0),
    )


def _of_classes(split: Split, classes: np.ndarray) -> Split:
    """The images of some classes, their labels numbered by their place among these."""
    labels = np.asarray(split.labels)
    own = split[np.flatnonzero(np.isin(labels, classes))]
    return Split(own.images, np.searchsorted(classes, own.labels).astype(np.int32), own.image_id)


def _parts(split: Split, most: int = 512) -> list[np.ndarray]:
    return [split.images[start : start + most] for start in range(0, len(split), most)]
