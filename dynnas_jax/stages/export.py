"""The stage that writes, checks and times the exported files."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from dynnas_jax import kinds
from dynnas_jax.confidence import DEFAULT_SCORE
from dynnas_jax.costs import macs
from dynnas_jax.data import splits
from dynnas_jax.data.resize import at_resolution, resized
from dynnas_jax.dynamic import gates
from dynnas_jax.export import targets
from dynnas_jax.finished import found_exits, found_pair
from dynnas_jax.job import Job, trained_net
from dynnas_jax.networks import big_little, gated_parts
from dynnas_jax.stages import export_weights, slimmable
from dynnas_jax.workdir import read_arrays, read_json, write_json

if TYPE_CHECKING:
    from dynnas_jax.export import dynamic, functions, measuring

CALIBRATION_IMAGES = 256
_STEPS, _CARRIES, _WHOLE = ("little", "big_after_stem"), ("stem",), "big"
_ROUTER, _ROUTED = "router", ("little_after_stem", "big_after_stem")  # where one is chosen before little has run
_SEPARATE_PATHS = 3  # of a gated network, where each is a file


def run(
    job: Job,
    folder: Path,
    *,
    precisions: tuple[str, ...] = (),
    onnx: bool = False,
    calibration_images: int = CALIBRATION_IMAGES,
    max_accuracy_loss: float = 0.01,
    threads: int = 1,
    runs: int = 1000,
    warm_up: int = 100,
) -> tuple[str, ...]:
    """The pair, or the one net, as the files of `export/TARGET`, each checked; then run over the test split and timed.

    All or nothing.

    Args:
      precisions: of `metadata.PRECISIONS`; () for the target's own.
      onnx: ONNX files too, where the target does not ask for them itself.
      calibration_images: training images, of every class in its share, that set the int8 scales.
      max_accuracy_loss: by how much a net, or the whole decision, may be less accurate on the test split than in JAX (see
        `measuring.losses`).
      threads: of LiteRT and onnxruntime; runs, warm_up: of each latency.

    Raises: ValueError if a file breaks a promise of the target's or of JAX's, or one loses more.
    """
    from dynnas_jax.export import device_folder, dynamic, measuring

    export_weights.check(job, precisions)
    network, promise = promised(job)
    resolution, where = network.image_shape[0], folder / job.target
    scales = np.asarray(resized(calibration(job, calibration_images), resolution))
    test = at_resolution(job.images.test, resolution)
    timing = {"threads": threads, "runs": runs, "warm_up": warm_up}
    with dynamic.all_or_nothing(where) as unchecked:
        options = {"target": job.target, "precisions": tuple(precisions), "onnx_too": onnx or None}
        facts = dynamic.export(network, promise, unchecked, calibration=scales, **options)
        reference = _reference(job, promise.cost)
        measured = measuring.measure(unchecked, facts, test.images, test.labels, reference, **timing)
        measuring.insist(measured, max_accuracy_loss, network, scales, where)
        own = {"kept": kept(job)} if job.kind is kinds.SLIMMABLE else {}
        write_json(unchecked / "export.json", measured | own | compiled(unchecked, facts, network, where, job.target))
        device_folder.write(unchecked)
    return tuple(f"{job.target}/{path.name}" for path in sorted(where.iterdir()))


def promised(job: Job) -> tuple[functions.Network, dynamic.Promise]:
    """What a run exports as functions of float images, in its target's form, and what the files promise of it."""
    if job.kind in kinds.OF_EXITS:
        return _exits(job)
    if job.kind is kinds.SLIMMABLE:
        return _gated(job)
    return _single(job) if job.kind in kinds.OF_NET else _pair(job)


def check(job: Job, *, precisions: tuple[str, ...] = (), calibration_images: int = CALIBRATION_IMAGES, **_) -> None:
    """Raises ValueError, before anything is trained, for what the target has no room for, or classes without images."""
    if job.kind is kinds.SLIMMABLE:
        _check_gates(job)
    export_weights.check(job, precisions)
    check_calibration(job, np.arange(len(job.images.classes)), calibration_images)


def check_calibration(job: Job, wanted: np.ndarray, count: int) -> None:
    """Raises ValueError where so many training images cannot be of all the wanted classes."""
    absent = np.setdiff1d(wanted, job.images.train.labels)
    if len(absent):
        names = ", ".join(str(job.images.classes[i]) for i in absent[:3])
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise ValueError(
            f"export: no training image is of class {names}{more}, but int8 scales need images of every class; "
            "give more training images, or leave the stage out of --stages"
        )
    if count < len(wanted):
        raise ValueError(
            f"export.calibration_images is {count}, but must be at least {len(wanted)}: one of every class"
        )


def _check_gates(job: Job) -> None:
    """Raises ValueError for what a target with a file for each part does not take: several gates, whose parts are too many, or
    group norm.
    """
    if targets.target(job.target).one_file:
        return
    count = len(job.supernet.space.genes)
    if count == 1 and job.supernet.arch(job.supernet.space.largest).stem_group:
        raise ValueError(
            f"export: the network has group norm, and {job.target} takes batch norm, which is none at inference; take a network "
            "with that, or leave the stage out of --stages"
        )
    if count > 1:
        raise ValueError(
            f"export: the network has {count} gates, whose parts are too many for files of their own, as {job.target} wants "
            "them; take a network with one gate, or leave the stage out of --stages"
        )


def calibration(job: Job, count: int, classes: np.ndarray | None = None) -> np.ndarray:
    """uint8[n, h, w, c]: training images, each of these classes (None: all) in its share and at least once, in random order."""
    wanted = np.arange(len(job.images.classes)) if classes is None else classes
    check_calibration(job, wanted, count)
    train, generator = job.images.train, np.random.default_rng([job.seed, 1, 2])
    labels = np.asarray(train.labels)
    rows = np.flatnonzero(np.isin(labels, wanted))
    if count < len(rows):
        # A stratified split leaves one image of each class to others: of a class that has no more it would take none.
        alone = rows[np.bincount(labels[rows])[labels[rows]] == 1]
        rows = np.setdiff1d(rows, alone)
        drawn = rows[splits.stratified(labels[rows], count - len(alone), generator)]
        rows = np.union1d(alone, drawn)
    return train[rows].images[generator.permutation(len(rows))]


def _single(job: Job) -> tuple[functions.Network, dynamic.Promise]:
    """The trained net as a function of float images, and what its files promise."""
    from dynnas_jax.export import functions

    net, variables = trained_net(job)
    net, arch = net.clone(depthwise=targets.target(job.target).depthwise), net.arch
    shape = (arch.resolution, arch.resolution, arch.channels)
    network = functions.single(lambda images: net.apply(variables, images)[0], shape)
    return network, _promise(job, network, macs.net_cost(net, shape)[:1], (), job.score)


def _exits(job: Job) -> tuple[functions.Network, dynamic.Promise]:
    """The net of several exits that is deployed: what each exit adds is a function that goes on from the one before."""
    from dynnas_jax.export import functions

    whole = found_exits(job)
    number = whole.deployed
    net, variables = whole.dynamic(number, targets.target(job.target).depthwise), whole.variables[number]
    arch = whole.nets[number].arch
    steps = dict(zip(job.supernet.exits, net.steps, strict=True))
    network = functions.from_steps(steps, variables, (arch.resolution, arch.resolution, arch.channels))
    limits = tuple(whole.found["nets"][number]["thresholds"])
    return network, _promise(job, network, net.cost, limits, whole.found["score"])


def _gated(job: Job) -> tuple[functions.Network, dynamic.Promise]:
    """What stands in front of a slimmable network's gate, and what follows each gate at every width."""
    from dynnas_jax.export import functions

    _check_gates(job)
    supernet = job.supernet
    form = targets.target(job.target).depthwise
    whole = supernet._replace(net=lambda arch: supernet.net(arch).clone(depthwise=form))
    paths = kept(job)["paths"]
    parts = gates.parts(whole, paths if len(supernet.space.genes) == 1 else None)
    arch = supernet.arch(supernet.space.largest)
    shape = (arch.resolution, arch.resolution, arch.channels)
    # Cut before they are traced: every part would hold the widest net's filters otherwise, for the converter to slice.
    cut = jax.jit(functools.partial(gated_parts.cut, supernet))(slimmable.trained(job))
    network = functions.gated(parts, cut, shape)
    costs = gates.cost(supernet)
    return network, _promise(job, network, tuple(costs[path] for path in paths), (), DEFAULT_SCORE)


def kept(job: Job) -> dict:
    """Which paths are exported, and the share of the test images that take them: of separate files those that held-out
    images use most, two or three.
    """
    if len(job.supernet.space.genes) > 1:
        return {"paths": list(range(len(gates.paths(job.supernet)))), "share": 1.0}
    (share,) = slimmable.held_out_shares(job)
    paths = list(range(len(share)))
    if not targets.target(job.target).one_file:
        often = sorted(paths, key=lambda path: -share[path])
        # Two at least: a gate that has collapsed is no choice otherwise.
        paths = sorted(often[: min(_SEPARATE_PATHS, max(2, np.count_nonzero(share)))])
    (gate,) = read_json(job.workdir.folder("evaluate") / "evaluation.json")["gates"]
    return {"paths": paths, "share": sum(gate["share"][path] for path in paths)}


def _pair(job: Job) -> tuple[functions.Network, dynamic.Promise]:
    """The searched pair, or the two nets of a cascade, as functions of float images, and what its files promise."""
    from dynnas_jax.export import functions, metadata

    form, whole_pair = targets.target(job.target).depthwise, found_pair(job)
    found, variables, net = whole_pair.found, whole_pair.variables, whole_pair.dynamic(form)
    pair, own_score = big_little.in_form(whole_pair.pair, form), whole_pair.router.name != "confidence"
    arch = pair.big.arch
    shape = (arch.resolution, arch.resolution, arch.channels)

    def alone(which):
        run = lambda images: big_little.run_stem(pair, variables, images)  # noqa: E731
        return functions.whole(lambda images: big_little.after_stem(pair, which, variables, run(images)), shape)

    if net.first:
        steps, whole = dict(zip(_ROUTED, net.steps, strict=True)), {which: alone(which) for which in ("little", "big")}
        names = (_ROUTER, *_CARRIES)
        network = functions.routed(net.first, steps, variables, shape, names=names, whole=whole)
    else:
        steps = dict(zip(_steps(job), net.steps, strict=True))
        # Where nothing is shared, the second step is the big net alone.
        whole = {} if _WHOLE in steps else {_WHOLE: alone(_WHOLE)}
        network = functions.from_steps(steps, variables, shape, carries=_CARRIES, own_score=own_score, whole=whole)
    score = metadata.OWN_SCORE if own_score else found["score"]
    return network, _promise(job, network, net.cost, tuple(found["thresholds"]), score)


def _steps(job: Job) -> tuple[str, str]:
    return ("little", _WHOLE) if job.kind is kinds.CASCADE else _STEPS


def _promise(job: Job, network: functions.Network, cost: tuple, thresholds: tuple, score: str) -> dynamic.Promise:
    from dynnas_jax.export import dynamic

    return dynamic.Promise(
        labels=tuple(job.images.classes),
        cost=cost,
        macs={name: _macs(function) for name, function in network.functions.items()},
        thresholds=thresholds,
        score=score,
        central_share=job.workdir.config["data"].get("central_share", 1.0),
    )


def _macs(function: functions.Function) -> int:
    shapes = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in function.shapes.items()}
    return macs.macs(function.call, shapes)


def _reference(job: Job, cost: tuple[int, ...]) -> measuring.Reference:
    """What JAX answered on the test split when it was evaluated; `cost`: the MACs of each choice."""
    from dynnas_jax.export import functions, measuring

    saved = read_arrays(job.workdir.folder("evaluate") / "outputs.npz")
    prediction, choice = saved["prediction"], saved["choice"]
    if job.kind is kinds.SLIMMABLE:
        # It has run the path of the choice alone; the files may hold fewer ways than it chose from.
        return measuring.Reference(slimmable.predictions(job), prediction[:, 0], float(saved["macs"].mean()))
    answers = prediction[np.arange(len(choice)), choice]
    macs = float(np.asarray(cost)[choice].mean())
    if job.kind in kinds.OF_NET:
        return measuring.Reference({functions.SINGLE: answers}, answers, macs)
    if job.kind in kinds.OF_EXITS:
        return measuring.Reference(dict(zip(job.supernet.exits, prediction.T, strict=True)), answers, macs)
    little, big = prediction.T
    known = {"little": little, "big": big} | dict(zip(_ROUTED, (little, big), strict=True))
    return measuring.Reference(known, answers, macs)


def compiled(unchecked: Path, facts: dict, network: functions.Network, where: Path, target: str) -> dict:
    """For the Edge TPU: what its compiler made of the steps together, or the command that makes it.

    Raises:
      ValueError: where the compiler refuses the files, or leaves operators to the CPU.
    """
    if target != "edgetpu":
        return {}
    from dynnas_jax.export import edgetpu

    files = [next(fact["path"] for fact in facts.values() if fact["function"] == name) for name in network.in_turn]
    if not edgetpu.is_installed():
        return {"compiler": {"command": edgetpu.command([where / file for file in files], where)}}
    models = edgetpu.run_compiler([unchecked / file for file in files], unchecked)
    edgetpu.insist(models)
    return {"compiler": {"models": [model._asdict() for model in models]}}
