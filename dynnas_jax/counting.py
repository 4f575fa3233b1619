"""What `dynnas cost` counts: networks by their names, subnets and pairs of subnets by their arch files."""

from __future__ import annotations

from pathlib import Path

from dynnas_jax import kinds, networks
from dynnas_jax.costs import macs
from dynnas_jax.job import supernet_of_run
from dynnas_jax.networks import big_little, chains, exits
from dynnas_jax.pair_space import NETS
from dynnas_jax.workdir import read_config


def cost(name: str | None, workdir: Path | None, content: dict | None, exit_rate: float | None = None) -> dict:
    """The JSON of `dynnas cost`, of the network `name` or, without one, of a run's: `macs` and `params` of one image.

    Args:
      content: of an arch file; {"little": ..., "big": ...} of two for the pair of them.
      exit_rate: in [0, 1], of a pair: the part of the images that little answers.

    Raises:
      ValueError: as `net`, `net_of_run` and `pair_of_run`; for an exit rate out of its range, or without a pair.
    """
    if isinstance(content, dict) and set(content) == set(NETS):
        if workdir is None:
            raise ValueError("the pair of an arch file is one of a run's space: pass --workdir in place of --network")
        return _counted_pair(pair_of_run(workdir, content), exit_rate)
    if exit_rate is not None:
        raise ValueError('--exit_rate is for a pair, whose arch file is {"little": ..., "big": ...}; leave it out')
    count, params = counted(net(name, content) if workdir is None else net_of_run(workdir, content))
    return {"macs": count, "params": params}


def _counted_pair(pair: big_little.Pair, exit_rate: float | None) -> dict:
    """Of the parts, of both (the stem once) and, for an exit rate, the MACs on average."""
    spent = big_little.cost(pair)
    told = {"stem": spent.stem, "little": spent.little, "big": spent.big, "both": spent.cumulative[1]}
    if exit_rate is not None:
        if not 0 <= exit_rate <= 1:
            raise ValueError(f"--exit_rate is {exit_rate}, must be a number from 0 to 1")
        told["average"] = exit_rate * spent.cumulative[0] + (1 - exit_rate) * spent.cumulative[1]
    variables, _ = big_little.shapes(pair)
    params = {which: macs.params(variables[which]) for which in NETS}
    return {"macs": told, "params": {**params, "both": big_little.params(pair, variables)}}


def counted(net):
    """MACs and params of a net; one of each per exit, cumulative, where it has several."""
    if isinstance(net, exits.ExitNet):
        return exits.costs(net)
    if isinstance(net, chains.ChainNet):
        return chains.cost(net)
    return macs.net_cost(net, (net.arch.resolution, net.arch.resolution, net.arch.channels))


def net(name: str, content: dict | None):
    """A named network, or the subnet of its space that an arch file's content describes.

    Raises:
      ValueError: for an unknown name, a space without an arch file, or one that does not fit it.
    """
    loader = networks.network(name)
    if content is not None:
        return loader.from_arch_file(content)
    if loader.has_space:
        raise ValueError(f"{name} is a space of many networks; pass --arch=FILE")
    return loader()


def net_of_run(workdir: Path, content: dict | None):
    """The largest net of a run's space, or the subnet that an arch file's content describes.

    Raises:
      ValueError: for no trained run, or an arch file for a run of one fixed network.
    """
    supernet = supernet_of_run(workdir)
    if content is not None and not supernet.space.genes:
        raise ValueError(f"{workdir} is a run of one fixed network, which takes no arch file")
    arch = supernet.arch(supernet.space.largest) if content is None else supernet.arch.from_file(content)
    return supernet.net(arch)


def pair_of_run(workdir: Path, content: dict) -> big_little.Pair:
    """The pair of two arch files' contents, by `little` and `big`, behind the stem of a run's space.

    Raises:
      ValueError: as `net_of_run`, for a run of another kind, for two resolutions, or a little that costs more than its big.
    """
    if (kind := kinds.of(read_config(workdir))) is not kinds.SUPERNET:
        raise ValueError(f"{workdir} is a run of {kind.words}: there are no pairs in it")
    supernet, archs = supernet_of_run(workdir), {}
    for which in NETS:
        try:
            archs[which] = supernet.arch.from_file(content[which])
        except ValueError as error:
            raise ValueError(f"{which}: {error}") from error
    sides = {which: arch.resolution for which, arch in archs.items()}
    if sides["little"] != sides["big"]:
        raise ValueError(
            f"little's resolution is {sides['little']} and big's {sides['big']}: a pair, which shares its stem, has one"
        )
    pair = big_little.Pair(*(supernet.net(arch) for arch in archs.values()), big_little.shared_stem(supernet))
    spent = big_little.cost(pair)
    if spent.little > spent.big:
        raise ValueError(f"little takes {spent.little} MACs, more than its big with {spent.big}: exchange the two")
    return pair
