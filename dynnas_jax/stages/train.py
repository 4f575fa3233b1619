"""The stage that trains the supernet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from dynnas_jax import channel_sorting, devices, kinds, processes
from dynnas_jax.data.mixing import rule as mixing_rule
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import (
    NO_HELD_OUT,
    Job,
    described,
    evaluator,
    facts_of,
    load_variables,
    save_variables,
    supernet_of_run,
    trained_file,
)
from dynnas_jax.networks import template
from dynnas_jax.search import predictor
from dynnas_jax.search_space import SearchSpace
from dynnas_jax.stages import spent, starting
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
    transfer_sorted: str = starting.KEPT,
    teacher: str | None = None,
    subnet_devices: int = 1,
    power_w: float | None = None,
    **options,
) -> tuple[str, ...]:
    """The supernet, by the sandwich rule; leaves checkpoints, metrics, the averaged variables, and what it took.

    Of nets of several exits every exit learns; what was transferred to them is listed in `transferred.json`.

    Args:
      sandwich_rule, progressive_shrinking: keyword arguments of the functions of those names in `train`.
      joint_rule: of `joint.rule`, which then takes the place of the sandwich rule.
      start_from, new_classifier, transfer_from, transfer_sorted: see `starting.of_supernet`.
      teacher: a run's working directory, whose largest net teaches a rule with the teacher "trained".
      subnet_devices: how many devices have the same images and share the random subnets of a step; the others have other images.
      power_w: see `spent.metered`.
      options: see `fitted`.
    """
    source = {"start_from": start_from, "transfer_from": transfer_from, "transfer_sorted": transfer_sorted}
    start = starting.of_supernet(job, new_classifier=new_classifier, **source)
    rules = sandwich_rule, joint_rule, progressive_shrinking
    taught = {"teacher": trained_teacher(job, teacher), "mesh": devices.data_mesh(subnet=subnet_devices)}
    return trained(job, folder, start, rules, power_w=power_w, **taught, **options)


def trained(
    job: Job, folder: Path, start: starting.Started, rules: tuple, *, power_w: float | None = None, **options
) -> tuple[str, ...]:
    """What `run` does from a start by rules, the sections of `rule_and_phases`; `options` are those of `fitted`.

    What it took is none of the files that are returned: made anew they are the same, and so are the stages built on them.
    """
    evaluate = evaluator(job, 1024, 2)
    ends = np.stack([job.supernet.space.smallest, job.supernet.space.largest])

    def held_out(variables):
        right = evaluate(variables, ends).correct
        smallest, largest = right.reshape(*right.shape[:2], -1)[..., -1].mean(axis=1)  # of several exits the last
        return {"holdout_accuracy_smallest": float(smallest), "holdout_accuracy_largest": float(largest)}

    rule, phases = rule_and_phases(job.supernet.space, options["steps"], *rules)
    with spent.metered(folder, power_w):
        final = fitted(job, folder, rule, initial=start.variables, phases=phases, evaluate=held_out, **options)
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
    transfer_sorted: str = starting.KEPT,
    teacher: str | None = None,
    subnet_devices: int = 1,
    **options,
) -> None:
    """Raises ValueError for what would end a run at its first step, or long after it."""
    sections = {
        "sandwich_rule": sandwich_rule,
        "joint_rule": joint_rule,
        "progressive_shrinking": progressive_shrinking,
    }
    source = {"start_from": start_from, "transfer_from": transfer_from, "transfer_sorted": transfer_sorted}
    starting.of_supernet(job, new_classifier=new_classifier, **source)
    answers = None if teacher is None else _answers(read_teacher(job, teacher)[0])
    check_rules(job, answers, **sections, subnet_devices=subnet_devices, **options)


def check_rules(
    job: Job,
    answers: Callable | None,
    *,
    sandwich_rule: dict | None = None,
    joint_rule: dict | None = None,
    progressive_shrinking: dict | None = None,
    subnet_devices: int = 1,
    **options,
) -> None:
    """Raises ValueError for a training that `trained` cannot do, with a trained teacher's answers or without."""
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
    power_w: float | None = None,
    **_,
) -> Supernet:
    """What every training has in common; returns what it trains. Raises ValueError where that fails at its first step."""
    train = job.images.train
    loop.check(steps, batch_size, len(train), devices.data_mesh(subnet=subnet_devices))
    supernet = template.in_training(job.supernet, precision, remat)
    metrics.check(trackers, wandb)
    spent.check(power_w)
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
