"""What `dynnas cost` counts: networks by their names, and subnets by their arch files."""

from __future__ import annotations

from pathlib import Path

from dynnas_jax import networks
from dynnas_jax.costs import macs
from dynnas_jax.job import supernet_of_run
from dynnas_jax.networks import chains, exits


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
