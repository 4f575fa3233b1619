"""What a dynamic slimmable network takes from a run on other images: the supernet's weights, or its gates' too."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from dynnas_jax import kinds
from dynnas_jax.dynamic import gate_targets
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import Job, load_variables, supernet_of_run, trained_file
from dynnas_jax.networks import gate
from dynnas_jax.stages import slimmable
from dynnas_jax.workdir import read_json

_OF_IMAGES = ("classes", "resolution", "channels", "mean", "std")  # of a network, which other images may have otherwise


class Transferred(NamedTuple):
    """Variables, and what of them came from elsewhere."""

    variables: dict
    listed: dict  # JSON-able


def source(job: Job, path: str, stage: str) -> Supernet:
    """The network of the run that `stage` starts from.

    Raises:
      ValueError: for a directory that is no such run with this stage done, or one of other paths or another network.
    """
    folder, where = Path(str(path)).expanduser(), f"{stage}.transfer_from"
    if (kind := kinds.of_run(folder)) is not kinds.SLIMMABLE:
        raise ValueError(f"{where}: {folder} is a run of {kind.words}; give one of {kinds.SLIMMABLE.words}")
    if not (folder / stage / "manifest.json").is_file():
        raise ValueError(f"{where}: {folder} is not finished, its stage {stage!r} is not done; `dynnas run` does it")
    other, mine = supernet_of_run(folder), job.supernet
    its, own = (net.arch.template for net in (other, mine))
    if (its.ratios, its.links) != (own.ratios, own.links):
        raise ValueError(
            f"{where}: {folder} trained paths of the space {other.space.fingerprint}, which differ from those here, "
            f"{mine.space.fingerprint}; give slimmable what its config has"
        )
    for name, value in vars(own.base).items():
        if name not in _OF_IMAGES and getattr(its.base, name) != value:
            raise ValueError(
                f"{where}: {folder} trained a network whose {name} is {getattr(its.base, name)!r}, here it is {value!r}; "
                "give slimmable what its config has"
            )
    return other


def supernet(job: Job, path: str, fresh: dict) -> Transferred:
    """The supernet's variables of a run; where its shapes differ, as of a classifier of other classes, the fresh ones.

    So of the slimming heads, which no supernet trains.
    """
    source(job, path, "train")
    trained = load_variables(Path(str(path)).expanduser() / "train" / trained_file(kinds.SLIMMABLE))
    return _joined(trained, fresh, frozenset(_of_gates(gate.trained(fresh["params"]))))


def heads(job: Job, path: str, fresh: dict) -> Transferred:
    """Params with the slimming heads of a run whose gates are trained, all else fresh.

    The dense layers that they share with the attention heads are the supernet's of this run: `of_this_run` lists them. The heads
    are taken as they were trained: what met the average MACs of that run's target, the tilt, is taken off again.
    """
    other, folder = source(job, path, "gate"), Path(str(path)).expanduser() / "gate"
    tilt = read_json(folder / "found.json")["tilt"]
    back = {block: np.float32(-tilt) * unit for block, unit in gate_targets.tilts(other).items()}
    taken = gate.tilted(gate.trained(load_variables(folder / slimmable.VARIABLES)["params"]), back)
    shared = gate.read_by_heads(fresh["params"])
    names, own = (["/".join(leaf) for leaf in _of_gates(layers)] for layers in (taken, shared))
    listed = {"taken": names, "of_this_run": own, "fresh": [], "tilt_taken_off": tilt}
    return Transferred({**fresh, "params": gate.with_trained(fresh["params"], taken)}, listed)


def _of_gates(layers: dict) -> list[tuple[str, ...]]:
    """The paths of the leaves of {block: {layer: ...}} of gates among variables."""
    return [
        ("params", block, gate.NAME, *rest) for block, own in layers.items() for rest in traverse_util.flatten_dict(own)
    ]


def _joined(trained: dict, fresh: dict, anew: frozenset[tuple[str, ...]]) -> Transferred:
    """The trained leaves that fit, the fresh ones of the others and of those that begin anew."""
    flat, mine = (traverse_util.flatten_dict(tree) for tree in (trained, fresh))
    known = flat.keys() - anew
    fits = {path: path in known and np.shape(flat[path]) == np.shape(leaf) for path, leaf in mine.items()}
    made = {path: flat[path] if fits[path] else leaf for path, leaf in mine.items()}
    listed = {
        "taken": ["/".join(path) for path, fit in fits.items() if fit],
        "fresh": ["/".join(path) for path, fit in fits.items() if not fit],
        "unused": ["/".join(path) for path in flat if path not in mine],
    }
    # An empty collection has no leaves to flatten.
    return Transferred({"batch_stats": {}, **traverse_util.unflatten_dict(made)}, listed)
