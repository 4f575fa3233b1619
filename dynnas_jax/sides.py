"""The two sides of a cascade: nets of finished runs, which share nothing but the images they were not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import flax.linen as nn

from dynnas_jax import finished, job, kinds
from dynnas_jax.costs import macs
from dynnas_jax.data import sources, splits
from dynnas_jax.workdir import read_config, read_json

_REMEDY = "`dynnas run` with its config makes it"


class Side(NamedTuple):
    """A net of another run."""

    key: str  # of the config that names the run: "cascade.little"
    run: Path
    made_of: dict  # what `finished.net_of` builds the net from
    net: nn.Module
    variables: dict
    macs: int
    params: int


def read_both(*, little: str, big: str) -> tuple[Side, Side]:
    """The two nets of a config's section `cascade`.

    Args:
      little, big: working directories, each of a fixed network's run, of one that grew (the first candidate is little, the last
        big), or of a supernet's, whose pair has a net for either side.

    Raises:
      ValueError: for a directory that is no finished run, or a cascade itself.
    """
    return _read(little, "little"), _read(big, "big")


def nets_of_run(key: str, folder: Path) -> tuple[Side, ...]:
    """The net of a fixed network's run, or all candidates of one that grew.

    Raises:
      ValueError: for a directory that is no finished run of one of these; `key` names it.
    """
    kind = _kind(key, folder)
    if kind not in kinds.OF_NET:
        raise ValueError(f"{key}: {folder} is {kind.words}; give a run of a network, or of one that grew")
    if kind is kinds.GROWTH:
        return tuple(_grown(key, folder, entry) for entry in job.growth_found(folder)["candidates"])
    return (_of_run(key, folder, kind, "little"),)


def _read(path: str | None, which: str) -> Side:
    key = f"cascade.{which}"
    if not path:
        raise ValueError(f"{key} is missing; give the working directory of a finished run")
    folder = Path(path).expanduser()
    kind = _kind(key, folder)
    if kind not in (*kinds.OF_NET, kinds.SUPERNET):
        raise ValueError(f"{key}: {folder} is {kind.words}; give a run of a network or of a supernet")
    if kind is kinds.GROWTH:
        # An early candidate is the little net, the last the big one.
        return _grown(key, folder, job.growth_found(folder)["candidates"][0 if which == "little" else -1])
    return _of_run(key, folder, kind, which)


def _kind(key: str, folder: Path) -> kinds.Kind:
    """The kind of a run whose nets are finished."""
    try:
        kind = kinds.of_run(folder)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    if kind is not kinds.CASCADE and not kinds.net_manifest(folder).is_file():
        raise ValueError(
            f"{key}: {folder} is not finished, its stage {kind.leaves!r} is not done; `dynnas run` does it"
        )
    return kind


def _grown(key: str, folder: Path, entry: dict) -> Side:
    """A candidate of a run that grew, as `growth.json` tells of it."""
    return _side(key, folder, "network", entry["network"], None, job.load_variables(folder / entry["variables"]))


def _of_run(key: str, folder: Path, kind: kinds.Kind, which: str) -> Side:
    section = read_config(folder)[kind.name]
    if kind is kinds.NETWORK:
        variables = job.load_variables(folder / "train" / job.trained_file(kind))
        return _side(key, folder, kind.name, section, None, variables)
    genome = read_json(folder / "search" / "found.json", _REMEDY)["pair"][which]["genome"]
    variables = job.load_variables(folder / "search" / "pair.msgpack")[which]
    return _side(key, folder, kind.name, section, genome, variables)


def _side(key: str, folder: Path, name: str, section: dict, genome: dict | None, variables: dict) -> Side:
    """A net of the run in a folder: that of a genome, or the only one of its section."""
    config = read_config(folder)
    data = read_json(kinds.data_file(folder, kinds.of(config)), _REMEDY)
    # Runs from before fingerprints were kept: their own data are read again.
    if not data.get("splits"):
        data["splits"] = job.described(_images(config))["splits"]
    made_of = {"config": {name: section, "target": config["target"]}, "data": data}
    if genome is None:
        space = job.build(made_of["config"], data).space
        genome = space.to_json(space.largest)
    made_of["genome"] = genome
    net = finished.net_of(made_of)
    count = macs.net_cost(net, (net.arch.resolution, net.arch.resolution, net.arch.channels))[0]
    return Side(key, folder, made_of, net, variables, count, macs.params(variables))


def _images(config: dict) -> sources.Dataset:
    data = {name: value for name, value in config["data"].items() if name != "augment"}
    return sources.load(seed=config["seed"], **data)


def check(little: Side, big: Side, images: sources.Dataset) -> None:
    """Raises ValueError for nets of other images or classes, other held-out images, or a little net that is no cheaper."""
    mine, held_out = job.facts_of(images), splits.fingerprint(images.holdout)
    for side in (little, big):
        data = side.made_of["data"]
        for what in ("image_shape", "classes"):
            if data[what] != mine[what]:
                raise ValueError(f"{side.key}: {side.run} was trained on other data; its {what} is {data[what]}")
        if data["splits"]["holdout"] != held_out:
            raise ValueError(
                f"{side.key}: {side.run} held out other images than this config does, so it was trained on some of these; "
                "give its run and the cascade the same section data and the same seed"
            )
    reads = [side.net.arch.resolution for side in (little, big)]
    if reads[0] != reads[1]:
        raise ValueError(f"cascade: little reads {reads[0]} pixels, big {reads[1]}; both must read the same images")
    if little.macs >= big.macs:
        raise ValueError(
            f"cascade: little costs {little.macs} MACs, no less than big's {big.macs}; change their places"
        )
