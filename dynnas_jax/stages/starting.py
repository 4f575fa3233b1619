"""What a training starts from: random variables, a file of weights, or the trained supernet of another run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
from flax.traverse_util import flatten_dict

from dynnas_jax import elastic, kernel_transforms, kinds
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import targets
from dynnas_jax.job import Job, base_of, facts_of, load_variables, supernet_of_run, trained_file
from dynnas_jax.networks import multi_transfer, weights

SORTED = KEPT, ALL = "kept", "all"  # hidden channels that a transfer puts in the order of their importance
# What nets compute with their weights, beside what the stages say.
_CONVENTIONS = ("padding", "epsilon", "stem_act", "stem_stride", "head_act", "se_act", "se_gate")


class Started(NamedTuple):
    """What a training starts from."""

    variables: dict | None  # None for random ones
    transferred: dict | None = None  # JSON-able: what nets of several exits have of a supernet of single ones


def of_supernet(
    job: Job,
    *,
    start_from: str | None = None,
    new_classifier: bool = False,
    transfer_from: str | None = None,
    transfer_sorted: str = KEPT,
) -> Started:
    """What the training of a supernet starts from.

    Args:
      start_from, new_classifier: see `of_file`; for nets of several exits the file is of the supernet of single ones
        that they are made on.
      transfer_from: for nets of several exits, the working directory of a run that trained a supernet of single ones, whose
        leaves must fit; its choices may be others.
      transfer_sorted: which hidden channels are put in the order of their importance: "kept", those that all single nets have,
        so that these stay what they are; "all", so that exit 1 has the most important ones, and of single nets the largest stays.

    Raises:
      ValueError: for two sources, or one that does not fit.
    """
    several = job.kind is kinds.MULTI_EXIT
    if transfer_from is not None and not several:
        raise ValueError("train.transfer_from is for nets of several exits; give train.start_from, a file of weights")
    if transfer_from is not None and start_from is not None:
        raise ValueError("train: give start_from, a file of weights, or transfer_from, a run's directory, not both")
    if not several:
        return Started(of_file(job, start_from=start_from, new_classifier=new_classifier))
    if transfer_sorted not in SORTED:
        raise ValueError(f"train.transfer_sorted is {transfer_sorted!r}, choose from {list(SORTED)}")
    base = job_of_base(job)
    if transfer_from is not None:
        if new_classifier:
            raise ValueError("train.new_classifier is for train.start_from, a file of weights; a run's must fit")
        return _of_run(job, base.supernet, Path(str(transfer_from)).expanduser(), transfer_sorted)
    trained = of_file(base, start_from=start_from, new_classifier=new_classifier)
    return Started(None) if trained is None else _transferred(job, base.supernet, trained, transfer_sorted)


def job_of_base(job: Job) -> Job:
    """The same job with the supernet of single nets that its nets of several exits are made on."""
    return job._replace(supernet=base_of(job.workdir.config, facts_of(job.images)))


def _of_run(job: Job, base: Supernet, path: Path, order: str) -> Started:
    """What a run trained, by its own names and choices, where its leaves have the places and shapes of those of the base."""
    if (kind := kinds.of_run(path)) is not kinds.SUPERNET:
        raise ValueError(f"train.transfer_from: {path} is a run of {kind.words}, must be one of {kinds.SUPERNET.words}")
    source = supernet_of_run(path)
    trained = load_variables(path / "train" / trained_file(kind))
    try:
        check_fits(source, trained, base, job.images.train.images.shape[1:])
    except ValueError as error:
        raise ValueError(f"train.transfer_from: {path} does not fit: {error}") from error
    return _transferred(job, source, trained, order)


def check_fits(source: Supernet, trained: dict, base: Supernet, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where weights of one supernet are no weights of another, whose choices may be others.

    Args:
      trained: the source's variables, or their shapes. Kernel transforms may be missing.
      base: computes with its own leaves what the source does with those of the same places.
    """
    own, wanted = (_conventions(supernet) for supernet in (source, base))
    if not own:
        raise ValueError("its blocks are no inverted residuals")
    for name, value in wanted.items():  # no shape of a leaf tells these
        if own.get(name, value) != value:
            raise ValueError(f"its {name} is {own[name]!r}, here it is {value!r}")
    fresh = jax.eval_shape(lambda key: elastic.init_supernet(base, key, image_shape), jax.random.key(0))
    found, needed = (
        {"/".join(key): leaf.shape for key, leaf in flatten_dict(tree).items()} for tree in (trained, fresh)
    )
    for leaf, shape in needed.items():
        there = found.get(leaf, shape if kernel_transforms.PLACE in leaf.split("/") else None)
        if there != shape:
            raise ValueError(f"its {leaf} is {there}, here it is {shape}" if there else f"it has no {leaf}")


def _conventions(supernet: Supernet) -> dict:
    """What the nets of a supernet do with their weights that no shape tells, by name; nothing where they are of other blocks."""
    template = getattr(supernet.arch, "template", None)
    if template is None:
        return {}
    found = {name: getattr(template.base, name) for name in _CONVENTIONS}
    for number, stage in enumerate(template.stages, 1):
        found |= {f"stage{number}'s stride": stage.stride, f"stage{number}'s activation": stage.act}
    return found


def _transferred(job: Job, source: Supernet, trained: dict, order: str) -> Started:
    """A supernet of nets of several exits with the weights of one of single nets, and what of them it has."""
    fresh = elastic.init_supernet(job.supernet, job.key(6), job.images.train.images.shape[1:])
    least = source.space.smallest if order == KEPT else source.space.largest
    made = multi_transfer.transferred(job.supernet, fresh, source, trained, least=least)
    return Started(made.variables, {"taken": made.taken, "fresh": made.fresh, "unused": made.unused})


def of_file(job: Job, *, start_from: str | None = None, new_classifier: bool = False) -> dict | None:
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
        section = "network" if fixed else job.kind.name
        raise ValueError(
            f"train.start_from: the weights in {path} were trained with other conventions; "
            f"give {section}.padding={base.padding!r} and {section}.epsilon={base.epsilon}"
        )
    return loaded.variables
