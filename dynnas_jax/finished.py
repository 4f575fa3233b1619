"""What the search of a run chose, read back ready to run: pairs, nets of several exits, and a finished run's dynamic network."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import numpy as np

from dynnas_jax import elastic, kinds
from dynnas_jax.dynamic import exit_targets, protocol, routers
from dynnas_jax.job import Job, build, load_variables, supernet_of_run, trained_file
from dynnas_jax.networks import big_little
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.workdir import read_config, read_json


class FoundPair(NamedTuple):
    """What the search chose."""

    found: dict
    pair: big_little.Pair
    variables: dict

    @property
    def router(self) -> routers.Router:
        """What routes the images: little's confidence where nothing else is said."""
        rows = self.found.get("routers")
        return routers.Router.from_json(rows[0]["spec"]) if rows else routers.Router(confidence=self.found["score"])

    def dynamic(self, depthwise: str | None = None) -> protocol.Dynamic:
        """The pair with its router; its convolutions in another form where one is named."""
        pair = big_little.in_form(self.pair, depthwise) if depthwise else self.pair
        return protocol.routed_pair(pair, self.router, self.variables.get("router"), score=self.found["score"])


def found_pair(job: Job) -> FoundPair:
    """The searched pair and its variables."""
    return _read_pair(job.supernet, job.workdir.folder("search"))


def _read_pair(supernet: elastic.Supernet | None, folder: Path, remedy: str | None = None) -> FoundPair:
    found = read_json(folder / "found.json", remedy)["pair"]
    if supernet is None:
        pair = big_little.Pair(*(net_of(found[which]["made_of"]) for which in ("little", "big")), stem=())
    else:
        genomes = [supernet.space.from_json(found[which]["genome"]) for which in ("little", "big")]
        if supernet.coupling:
            _check_coupled(supernet, genomes, folder)
        pair = big_little.build(supernet, *genomes)
    return FoundPair(found, pair, load_variables(folder / "pair.msgpack"))


def _check_coupled(supernet: elastic.Supernet, genomes: list, folder: Path) -> None:
    try:
        PairSpace(supernet.space).check(np.concatenate(genomes))
    except ValueError as error:
        raise ValueError(f"{folder / 'found.json'}: {error}; pass --redo=search") from error


def net_of(made_of: dict) -> nn.Module:
    """A net of another run, from what a cascade notes of it: `config`, the section and the target, `data`, `genome`."""
    supernet = build(made_of["config"], made_of["data"])
    return supernet.net(supernet.arch(supernet.space.from_json(made_of["genome"])))


class FoundExits(NamedTuple):
    """Nets of several exits as the search describes them, one for each target."""

    found: dict
    nets: tuple[nn.Module, ...]
    variables: tuple[dict, ...]  # with statistics of their own
    deployed: int  # the number of the one that is exported

    def dynamic(self, number: int, depthwise: str | None = None) -> protocol.Dynamic:
        """One of the nets; its convolutions in another form where one is named."""
        net = self.nets[number].clone(depthwise=depthwise) if depthwise else self.nets[number]
        return protocol.multi_exit(net, score=self.found["score"])


def found_exits(job: Job) -> FoundExits:
    """The nets of several exits that the search of a run made or judged."""
    return _read_exits(job.supernet, job.workdir.path, job.kind, job.dynamic)


def _read_exits(
    supernet: elastic.Supernet, path: Path, kind: kinds.Kind, dynamic: dict, remedy: str | None = None
) -> FoundExits:
    found = read_json(path / "search" / "found.json", remedy)
    nets = [supernet.net(supernet.arch(supernet.space.from_json(entry["genome"]))) for entry in found["nets"]]
    if kind is kinds.EXIT_NETWORK:
        variables = [load_variables(path / "train" / trained_file(kind))] * len(nets)
    else:
        kept = load_variables(path / "search" / "nets.msgpack")
        variables = [kept[str(number)] for number in range(len(nets))]
    return FoundExits(found, tuple(nets), tuple(variables), dynamic.get("deployed", exit_targets.DEPLOYED))


class FoundDynamic(NamedTuple):
    """A finished run's dynamic network, ready to answer."""

    dynamic: protocol.Dynamic
    variables: dict
    thresholds: tuple[float, ...]  # [S - 1], chosen on the held-out images
    resolution: int  # pixels of the images it reads, height = width


def dynamic_of_run(path: str | Path) -> FoundDynamic:
    """The dynamic network of a run whose search is done, from its working directory alone.

    Raises:
      ValueError: for no working directory, one whose search is not done, or a damaged artifact.
    """
    path = Path(path)
    if (kind := kinds.of_run(path)) in (*kinds.OF_NET, kinds.SLIMMABLE):
        raise ValueError(f"{path} is a run of {kind.words}: it has none that exits")
    supernet = None if kind is kinds.CASCADE else supernet_of_run(path)
    if kind in kinds.OF_EXITS:
        exits = _read_exits(supernet, path, kind, read_config(path)["dynamic"], "`dynnas run` with its config makes it")
        number = exits.deployed
        own = tuple(exits.found["nets"][number]["thresholds"])
        return FoundDynamic(exits.dynamic(number), exits.variables[number], own, exits.nets[number].arch.resolution)
    found = _read_pair(supernet, path / "search", "`dynnas run` with its config makes it")
    return FoundDynamic(
        found.dynamic(), found.variables, tuple(found.found["thresholds"]), found.pair.big.arch.resolution
    )
