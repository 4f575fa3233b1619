"""The stage that trains the supernet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dynnas_jax import channel_sorting, devices, elastic, kinds, processes
from dynnas_jax.data.mixing import rule as mixing_rule
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import targets
from dynnas_jax.job import (
    NO_HELD_OUT,
    Job,
    base_of,
    described,
    evaluator,
    facts_of,
    load_variables,
    save_variables,
    supernet_of_run,
    trained_file,
)
from dynnas_jax.networks import multi_transfer, template, weights
from dynnas_jax.search import predictor
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.train import calibration, distillation, joint, loop, metrics, sandwich
from dynnas_jax.train import progressive_shrinking as shrinking
from dynnas_jax.train.state import TrainState
from dynnas_jax.workdir import read_json, write_json


def run(
    job: Job,
    folder: Path,
    *,
    sandwich_rule: dict | None = None,
    joint_rule: dict | None = None,
    progressive_shrinking: dict | None = None,
    start_from: str | None = None,
    new_classifier: bool = False,
    transfer_from: str | None = None,
    teacher: str | None = None,
    subnet_devices: int = 1,
    **options,
) -> tuple[str, ...]:
    """The supernet, by the sandwich rule; leaves checkpoints, metrics, and the averaged variables.

    Of nets of several exits every exit learns; what was transferred to them is listed in `transferred.json`.

    Args:
      sandwich_rule, progressive_shrinking: keyword arguments of the functions of those names in `train`.
      joint_rule: of `joint.rule`, which then takes the place of the sandwich rule.
      start_from, new_classifier, transfer_from: see `started`.
      teacher: a run's working directory, whose largest net teaches a rule with the teacher "trained".
      subnet_devices: how many devices have the same images and share the random subnets of a step; the others have other images.
      options: see `fitted`.
    """
    start = started(job, start_from=start_from, new_classifier=new_classifier, transfer_from=transfer_from)
    evaluate = evaluator(job, 1024, 2)
    ends = np.stack([job.supernet.space.smallest, job.supernet.space.largest])

    def held_out(variables):
        right = evaluate(variables, ends).correct
        smallest, largest = right.reshape(*right.shape[:2], -1)[..., -1].mean(axis=1)  # of several exits the last
        return {"holdout_accuracy_smallest": float(smallest), "holdout_accuracy_largest": float(largest)}

    rules = sandwich_rule, joint_rule, progressive_shrinking
    rule, phases = rule_and_phases(job.supernet.space, options["steps"], *rules)
    final = fitted(
        job,
        folder,
        rule,
        initial=start.variables,
        phases=phases,
        teacher=trained_teacher(job, teacher),
        mesh=devices.data_mesh(subnet=subnet_devices),
        evaluate=held_out,
        **options,
    )
    file, listed = trained_file(job.kind), ("transferred.json",) if start.transferred else ()
    if processes.is_first():
        save_variables(folder / file, devices.on_host(final.averaged))
        write_json(folder / "data.json", described(job.images))
        if start.transferred:
            write_json(folder / "transferred.json", start.transferred)
    return file, "data.json", *listed


def fitted(
    job: Job,
    folder: Path,
    rule: Callable,
    *,
    mixing: dict | None = None,
    precision: str = "float32",
    remat: str = "none",
    **options,
) -> TrainState:
    """What `loop.fit` makes of a job's net, with its data, its augmentation and its seed.

    Args:
      mixing: keyword arguments of `data.mixing.rule`.
      precision, remat: see `networks.template.in_training`.
    """
    return loop.fit(
        template.in_training(job.supernet, precision, remat),
        job.images.train,
        rule,
        seed=job.seed,
        augment=job.augment,
        mix=mixing_rule(**mixing) if mixing else None,
        directory=folder,
        config=job.workdir.config,
        **options,
    )


def check(
    job: Job,
    *,
    sandwich_rule: dict | None = None,
    joint_rule: dict | None = None,
    progressive_shrinking: dict | None = None,
    start_from: str | None = None,
    new_classifier: bool = False,
    transfer_from: str | None = None,
    teacher: str | None = None,
    subnet_devices: int = 1,
    **options,
) -> None:
    """Raises ValueError for what would end a run at its first step, or long after it."""
    supernet, steps = job.supernet, options["steps"]
    if supernet.space.size() < predictor.FEWEST_SUBNETS:
        raise ValueError(
            f"supernet: the space has {supernet.space.size()} subnets, must have {predictor.FEWEST_SUBNETS}"
        )
    if not len(job.images.holdout):
        raise ValueError(NO_HELD_OUT)
    supernet = check_setting(job, subnet_devices=subnet_devices, **options)
    try:
        rule, phases = rule_and_phases(supernet.space, steps, sandwich_rule, joint_rule, progressive_shrinking)
    except TypeError as error:
        raise ValueError(f"train.progressive_shrinking: a value has another type ({error})") from error
    if joint_rule is None and rule.options.random_subnets % subnet_devices:
        raise ValueError(
            f"train: {rule.options.random_subnets} random subnets do not divide over subnet_devices {subnet_devices}"
        )
    if phases is not None and phases.sort_channels:
        channel_sorting.groups(supernet)
    started(job, start_from=start_from, new_classifier=new_classifier, transfer_from=transfer_from)
    answers = None if teacher is None else _answers(read_teacher(job, teacher)[0])
    rule(supernet, None, answers, devices.SUBNET if subnet_devices > 1 else None)


def check_setting(
    job: Job,
    *,
    steps: int,
    batch_size: int = loop.BATCH_SIZE,
    trackers: tuple[str, ...] | None = None,
    wandb: dict | None = None,
    precision: str = "float32",
    remat: str = "none",
    subnet_devices: int = 1,
    **_,
) -> Supernet:
    """What every training has in common; returns what it trains. Raises ValueError where that fails at its first step."""
    train = job.images.train
    loop.check(steps, batch_size, len(train), devices.data_mesh(subnet=subnet_devices))
    supernet = template.in_training(job.supernet, precision, remat)
    metrics.check(trackers, wandb)
    if job.augment is not None:
        jax.eval_shape(job.augment, jax.random.key(0), jax.ShapeDtypeStruct((1, *train.images.shape[1:]), np.uint8))
    return supernet


def rule_and_phases(
    space: SearchSpace,
    steps: int,
    sandwich_rule: dict | None,
    joint_rule: dict | None,
    progressive_shrinking: dict | None,
) -> tuple[Callable, shrinking.Phases | None]:
    """The rule, and the phases of progressive shrinking if any; the rule then has as many random subnets as any phase.

    Raises:
      ValueError: for two rules, or as they do.
    """
    if joint_rule is not None and sandwich_rule is not None:
        raise ValueError("train: give sandwich_rule or joint_rule, not both")
    make, count, default = sandwich.rule, "random_subnets", sandwich.RANDOM_SUBNETS
    if joint_rule is not None:
        make, count, default = joint.rule, "random_pairs", joint.RANDOM_PAIRS
    options = dict(joint_rule if joint_rule is not None else sandwich_rule or {})
    if progressive_shrinking is None:
        return make(**options), None
    several = options.get(count, default)
    phases = shrinking.schedule(space, steps, random_subnets=several, **progressive_shrinking)
    return make(**{**options, count: phases.most_subnets}), phases


def trained_teacher(job: Job, path: str | None) -> distillation.Teacher | None:
    """The largest net of another run, with statistics of this run's training images. Raises ValueError as `read_teacher`."""
    if path is None:
        return None
    supernet, variables = read_teacher(job, path)
    images = job.calibration_batches(1024)
    _, own = calibration.extract_calibrated(supernet, variables, supernet.space.largest, images)
    return distillation.Teacher(_answers(supernet), own)


def _answers(supernet: Supernet) -> Callable:
    """(variables, images) -> logits of the largest net."""
    net = supernet.largest_net()
    return lambda variables, images: net.apply(variables, images)[0]


def read_teacher(job: Job, path: str) -> tuple[Supernet, dict]:
    """The supernet of another run and its variables.

    Raises:
      ValueError: for a directory that is no finished training, or a net of other images or classes.
    """
    folder = Path(path).expanduser()
    supernet, mine = supernet_of_run(folder), facts_of(job.images)
    facts = read_json(folder / "train" / "data.json")
    for what in ("image_shape", "classes"):
        if facts[what] != mine[what]:
            raise ValueError(f"train.teacher: {folder} was trained on other images; its {what} is {facts[what]}")
    return supernet, load_variables(folder / "train" / trained_file(kinds.of_run(folder)))


class Started(NamedTuple):
    """What a training starts from."""

    variables: dict | None  # None for random ones
    transferred: dict | None = None  # JSON-able: what nets of several exits have of a supernet of single ones


def started(
    job: Job, *, start_from: str | None = None, new_classifier: bool = False, transfer_from: str | None = None
) -> Started:
    """What the training of a supernet starts from.

    Args:
      start_from, new_classifier: see `starting_variables`; for nets of several exits the file is of the supernet of single ones
        that they are made on.
      transfer_from: for nets of several exits, the working directory of a run that trained such a supernet.

    Raises:
      ValueError: for two sources, or one that does not fit.
    """
    several = job.kind is kinds.MULTI_EXIT
    if transfer_from is not None and not several:
        raise ValueError("train.transfer_from is for nets of several exits; give train.start_from, a file of weights")
    if transfer_from is not None and start_from is not None:
        raise ValueError("train: give start_from, a file of weights, or transfer_from, a run's directory, not both")
    if not several:
        return Started(starting_variables(job, start_from=start_from, new_classifier=new_classifier))
    source = job_of_base(job)
    if transfer_from is None:
        trained = starting_variables(source, start_from=start_from, new_classifier=new_classifier)
        return Started(None) if trained is None else _transferred(job, source.supernet, trained)
    path = Path(str(transfer_from)).expanduser()
    other = supernet_of_run(path)
    if other.space.fingerprint != source.supernet.space.fingerprint:
        raise ValueError(
            f"train.transfer_from: {path} trained the space {other.space.fingerprint}, but these nets are made on "
            f"{source.supernet.space.fingerprint}; give multi_exit what its config has in supernet"
        )
    return _transferred(job, source.supernet, load_variables(path / "train" / trained_file(kinds.SUPERNET)))


def job_of_base(job: Job) -> Job:
    """The same job with the supernet of single nets that its nets of several exits are made on."""
    return job._replace(supernet=base_of(job.workdir.config, facts_of(job.images)))


def _transferred(job: Job, source: Supernet, trained: dict) -> Started:
    """A supernet of nets of several exits with the weights of one of single nets, and what of them it has."""
    fresh = elastic.init_supernet(job.supernet, job.key(6), job.images.train.images.shape[1:])
    made = multi_transfer.transferred(job.supernet, fresh, source, trained, least=source.space.smallest)
    return Started(made.variables, {"taken": made.taken, "fresh": made.fresh, "unused": made.unused})


def starting_variables(job: Job, *, start_from: str | None = None, new_classifier: bool = False) -> dict | None:
    """What training starts from: variables of the supernet or the fixed net from a file of weights, or None for random ones.

    Args:
      start_from: the file, as `networks.weights.load` reads it.
      new_classifier: the classifier is drawn anew, for other classes than the file's.

    Raises:
      ValueError: for a file that does not fit the supernet, or whose weights need another padding or epsilon.
    """
    if start_from is None:
        if new_classifier:
            raise ValueError(
                "train.new_classifier does nothing without train.start_from; give a file of weights, or leave it out"
            )
        return None
    path, fixed = str(start_from), not job.supernet.space.genes
    network = job.supernet.largest_net() if fixed else job.supernet
    try:
        loaded = weights.load(path, network, classifier_key=job.key(4) if new_classifier else None)
    except weights.MisfitError as error:
        if fixed or targets.target(job.target).space == targets.EVERYTHING:
            raise
        why = f"target {job.target} restricts the space, and weights of the whole one do not fit"
        raise ValueError(f"{error}; {why}") from error
    if loaded.network is not network:
        base = loaded.network.arch if fixed else loaded.network.arch.template.base
        section = "network" if fixed else "supernet"
        raise ValueError(
            f"train.start_from: the weights in {path} were trained with other conventions; "
            f"give {section}.padding={base.padding!r} and {section}.epsilon={base.epsilon}"
        )
    return loaded.variables
