"""What a training starts from: random variables, a file of weights, or the trained supernet of another run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dynnas_jax import elastic, kinds
from dynnas_jax.elastic import Supernet
from dynnas_jax.export import targets
from dynnas_jax.job import Job, base_of, facts_of, load_variables, supernet_of_run, trained_file
from dynnas_jax.networks import multi_transfer, weights


class Started(NamedTuple):
    """What a training starts from."""

    variables: dict | None  # None for random ones
    transferred: dict | None = None  # JSON-able: what nets of several exits have of a supernet of single ones


def of_supernet(
    job: Job, *, start_from: str | None = None, new_classifier: bool = False, transfer_from: str | None = None
) -> Started:
    """What the training of a supernet starts from.

    Args:
      start_from, new_classifier: see `of_file`; for nets of several exits the file is of the supernet of single ones
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
        return Started(of_file(job, start_from=start_from, new_classifier=new_classifier))
    source = job_of_base(job)
    if transfer_from is None:
        trained = of_file(source, start_from=start_from, new_classifier=new_classifier)
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
        section = "network" if fixed else "supernet"
        raise ValueError(
            f"train.start_from: the weights in {path} were trained with other conventions; "
            f"give {section}.padding={base.padding!r} and {section}.epsilon={base.epsilon}"
        )
    return loaded.variables
