"""What a training starts from: random variables, a file of weights, or the trained supernet of another run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from dynnas_jax import elastic, kernel_transforms, kinds
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import targets
from dynnas_jax.job import Job, base_of, facts_of, load_variables, supernet_of_run, trained_file
from dynnas_jax.networks import coupled, multi_transfer, weights
from dynnas_jax.workdir import read_json

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


def check_named(config: dict, *stages: str) -> None:
    """Raises ValueError where a recipe has the key `transfer_from` and leaves open which run that is.

    A recipe that names the key is one that transfers: from random weights it would be another.
    """
    for stage in stages:
        section = config[stage]
        if "transfer_from" in section and section["transfer_from"] is None and section.get("start_from") is None:
            raise ValueError(
                f"{stage}.transfer_from is empty: name the working directory of a finished run, "
                f"--config.{stage}.transfer_from=DIR"
            )


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
        _check_images(read_json(kinds.data_file(path, kind)), facts_of(job.images))
    except ValueError as error:
        raise ValueError(f"train.transfer_from: {path} does not fit: {error}") from error
    return _transferred(job, source, trained, order)


def _check_images(theirs: dict, mine: dict) -> None:
    """Raises ValueError where weights that fit images of some facts answer others: classes of other names, other moments."""
    for number, (own, here) in enumerate(zip(theirs["classes"], mine["classes"], strict=True)):
        if own != here:
            raise ValueError(f"its class {number} is {own!r}, here it is {here!r}")
    moments = [np.asarray([facts["mean"], facts["std"]]) for facts in (theirs, mine)]
    # Other splits of the same images, of which means and deviations are taken, differ by less.
    if (np.abs(moments[0] - moments[1]) > 0.01 * moments[0][1]).any():
        raise ValueError(
            f"its images are normalised otherwise; give data.mean={tuple(theirs['mean'])} and data.std={tuple(theirs['std'])}"
        )


def check_fits(source: Supernet, trained: dict, base: Supernet, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where weights of one supernet are no weights of another, whose choices may be others.

    Args:
      trained: the source's variables, or their shapes. Kernel transforms may be missing.
      base: computes with its own leaves what the source does with those of the same places.
    """
    _check_conventions(source, base)
    fresh = jax.eval_shape(lambda key: elastic.init_supernet(base, key, image_shape), jax.random.key(0))
    found, needed = ({key: leaf.shape for key, leaf in flatten_dict(tree).items()} for tree in (trained, fresh))
    for leaf, shape in needed.items():
        there, name = found.get(leaf, shape if kernel_transforms.PLACE in leaf else None), "/".join(leaf)
        if there != shape:
            raise ValueError(f"its {name} is {there}, here it is {shape}" if there else f"it has no {name}")
    if more := [leaf for leaf in found if leaf not in needed and not _is_spare(leaf, base)]:
        raise ValueError(f"its nets compute with {'/'.join(more[0])}, which there is not here")


def _check_conventions(source: Supernet, base: Supernet) -> None:
    """Raises ValueError where nets of the base compute otherwise than those of the source, as no shape of a leaf tells."""
    own, wanted = (_conventions(supernet) for supernet in (source, base))
    if not own:
        raise ValueError("its blocks are no inverted residuals")
    for name, value in wanted.items():
        if own.get(name, value) != value:
            raise ValueError(f"its {name} is {own[name]!r}, here it is {value!r}")
    stages = zip(source.arch.template.stages, base.arch.template.stages, strict=False)
    for number, (theirs, mine) in enumerate(stages, 1):
        if max(mine.depths) < max(theirs.depths) and max(mine.depths) not in theirs.depths:
            raise ValueError(
                f"its stage{number} has {' or '.join(map(str, theirs.depths))} blocks, here it has {max(mine.depths)}"
            )


def _conventions(supernet: Supernet) -> dict:
    """What the nets of a supernet do with their weights that no shape tells, by name; nothing where they are of other blocks."""
    template = getattr(supernet.arch, "template", None)
    if template is None:
        return {}
    found = {name: getattr(template.base, name) for name in _CONVENTIONS}
    blocks = {f"{name}_block{i}": spec for name, specs in template.base.stages for i, spec in enumerate(specs)}
    blocks |= {f"stage{number}": stage for number, stage in enumerate(template.stages, 1)}
    for name, one in blocks.items():
        found |= {f"{name}'s stride": one.stride, f"{name}'s activation": one.act}
        found |= {f"{name}'s squeeze-excite": bool(one.se)}
    return found


def _is_spare(leaf: tuple[str, ...], base: Supernet) -> bool:
    """Whether there are nets of the source that do without a leaf that the base has not, and compute as the base's largest.

    So they do without what couples pairs, without blocks deeper than here (see `_check_conventions`), and without transforms of
    kernels where the base has one kernel.
    """
    of_kernels = leaf[1] == kernel_transforms.PLACE
    block = leaf[2] if of_kernels else leaf[1]
    stage, _, index = block.partition("_block")
    depths = {f"stage{number}": max(one.depths) for number, one in enumerate(base.arch.template.stages, 1)}
    deeper = stage in depths and int(index) >= depths[stage]
    return block == coupled.PLACE or deeper or (of_kernels and block not in elastic.elastic_kernels(base))


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
