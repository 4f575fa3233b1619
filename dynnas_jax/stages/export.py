"""The stage that writes, checks and times the exported files."""

from __future__ import annotations

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
from dynnas_jax.networks import big_little
from dynnas_jax.stages import slimmable
from dynnas_jax.workdir import read_arrays, read_json, write_json

if TYPE_CHECKING:
    from dynnas_jax.export import dynamic, functions

CALIBRATION_IMAGES = 256
LAYERS_FILE = "int8_layers.json"  # which layers lose most, where int8 loses too much
_STEPS, _CARRIES, _WHOLE = ("little", "big_after_stem"), ("stem",), "big"
_ROUTER, _ROUTED = "router", ("little_after_stem", "big_after_stem")  # where one is chosen before little has run
_SEPARATE_PATHS = 3  # of a gated network, where each is a file
_LINES = 3  # layers that a message names


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
      max_accuracy_loss: how much less accurate on the test split a net may be in int8 than in JAX.
      threads: of LiteRT and onnxruntime; runs, warm_up: of each latency.

    Raises: ValueError if a file breaks a promise of the target's or of JAX's, or int8 loses more.
    """
    from dynnas_jax.export import device_folder, dynamic, measuring

    network, promise = promised(job)
    resolution, where = network.image_shape[0], folder / job.target
    calibration = np.asarray(resized(_calibration(job, calibration_images), resolution))
    test = at_resolution(job.images.test, resolution)
    timing = {"threads": threads, "runs": runs, "warm_up": warm_up}
    with dynamic.all_or_nothing(where) as unchecked:
        options = {"target": job.target, "precisions": tuple(precisions), "onnx_too": onnx or None}
        facts = dynamic.export(network, promise, unchecked, calibration=calibration, **options)
        measured = measuring.measure(unchecked, facts, test.images, test.labels, _reference(job), **timing)
        if lossy := measuring.losses(measured, max_accuracy_loss):
            layers = measuring.lossy_layers(network, [loss.function for loss in lossy], calibration)
            raise ValueError(_too_lossy(lossy, layers, max_accuracy_loss, where))
        own = {"kept": kept(job)} if job.kind is kinds.SLIMMABLE else {}
        write_json(unchecked / "export.json", measured | own | _compiled(unchecked, facts, network, where))
        device_folder.write(unchecked)
    return tuple(f"{job.target}/{path.name}" for path in sorted(where.iterdir()))


def promised(job: Job) -> tuple[functions.Network, dynamic.Promise]:
    """What a run exports as functions of float images, in its target's form, and what the files promise of it."""
    if job.kind in kinds.OF_EXITS:
        return _exits(job)
    if job.kind is kinds.SLIMMABLE:
        return _gated(job)
    return _single(job) if job.kind in kinds.OF_NET else _pair(job)


def check(job: Job, *, calibration_images: int = CALIBRATION_IMAGES, **_) -> None:
    """Whether there can be a calibration set of all classes, before anything is trained. Raises ValueError if not."""
    if job.kind is kinds.SLIMMABLE:
        _check_gates(job)
    classes, labels = job.images.classes, job.images.train.labels
    absent = np.setdiff1d(np.arange(len(classes)), labels)
    if len(absent):
        names = ", ".join(map(str, (classes[i] for i in absent[:3])))
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise ValueError(
            f"export: no training image is of class {names}{more}, but int8 scales need images of every class; "
            "give more training images, or leave the stage out of --stages"
        )
    if calibration_images < len(classes):
        raise ValueError(
            f"export.calibration_images is {calibration_images}, but must be at least {len(classes)}: one of every class"
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


def _calibration(job: Job, count: int) -> np.ndarray:
    """uint8[n, h, w, c]: training images, each class in its share and at least once, in random order."""
    check(job, calibration_images=count)
    train, generator = job.images.train, np.random.default_rng([job.seed, 1, 2])
    if count < len(train):
        train = train[np.flatnonzero(splits.stratified(train.labels, count, generator))]
    else:
        train = train[np.arange(len(train))]
    return train.images[generator.permutation(len(train))]


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
    number = whole.found["deployed"]
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
    network = functions.gated(parts, slimmable.trained(job), shape)
    costs = gates.cost(supernet)
    return network, _promise(job, network, tuple(costs[path] for path in paths), (), DEFAULT_SCORE)


def kept(job: Job) -> dict:
    """Which paths are exported, and the share of the test images that take them: of separate files those that held-out
    images use most.
    """
    if len(job.supernet.space.genes) > 1:
        return {"paths": list(range(len(gates.paths(job.supernet)))), "share": 1.0}
    (share,) = slimmable.held_out_shares(job)
    most = len(share) if targets.target(job.target).one_file else _SEPARATE_PATHS
    paths = sorted(sorted(range(len(share)), key=lambda path: -share[path])[:most])
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


def _reference(job: Job):
    """What JAX answered on the test split when it was evaluated."""
    from dynnas_jax.export import functions, measuring

    saved = read_arrays(job.workdir.folder("evaluate") / "outputs.npz")
    prediction, choice = saved["prediction"], saved["choice"]
    if job.kind is kinds.SLIMMABLE:  # which has run the path of the choice alone
        return measuring.Reference(slimmable.predictions(job), prediction[:, 0])
    answers = prediction[np.arange(len(choice)), choice]
    if job.kind in kinds.OF_NET:
        return measuring.Reference({functions.SINGLE: answers}, answers)
    if job.kind in kinds.OF_EXITS:
        return measuring.Reference(dict(zip(job.supernet.exits, prediction.T, strict=True)), answers)
    little, big = prediction.T
    known = {"little": little, "big": big} | dict(zip(_ROUTED, (little, big), strict=True))
    return measuring.Reference(known, answers)


def _too_lossy(lossy: list, layers: list, limit: float, where: Path) -> str:
    """What int8 loses and which layers are to blame; the table of all goes where the files would have stood."""
    from dynnas_jax.export import sqnr

    found = [loss._asdict() for loss in lossy]
    write_json(where / LAYERS_FILE, {"max_accuracy_loss": limit, "files": found, "layers": sqnr.facts(layers)})
    first, lines = lossy[0], "; ".join(map(sqnr.line, sqnr.worst(layers, _LINES)))
    more = f" (as {len(lossy) - 1} more do)" if len(lossy) > 1 else ""
    return (
        f"{first.key} loses {100 * first.accuracy_loss:.2f} points of accuracy on the test split{more}, more than "
        f"export.max_accuracy_loss={limit} allows; most noise is added by {lines}; all layers: {where / LAYERS_FILE}"
    )


def _compiled(unchecked: Path, facts: dict, network: functions.Network, where: Path) -> dict:
    """For the Edge TPU: what its compiler made of the steps together, or the command that makes it."""
    if where.name != "edgetpu":
        return {}
    from dynnas_jax.export import edgetpu

    files = [next(fact["path"] for fact in facts.values() if fact["function"] == name) for name in network.in_turn]
    if not edgetpu.is_installed():
        return {"compiler": {"command": edgetpu.command([where / file for file in files], where)}}
    compiled = edgetpu.run_compiler([unchecked / file for file in files], unchecked)
    return {"compiler": {"models": [model._asdict() for model in compiled]}}
