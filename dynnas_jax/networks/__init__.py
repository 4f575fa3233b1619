"""The networks by name; none is imported before it is asked for."""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import Any, NamedTuple


class Loader(NamedTuple):
    """Builds a network when called: a supernet where it has a space, else a module."""

    module: str
    function: str
    has_space: bool
    family: bool = False  # without a space, but of many archs: its arch files hold keyword arguments of the function
    several_exits: bool = False
    gated: bool = False  # a space of paths, which gates pick from
    on_space: bool = False  # made on a space that its options name, whose options it takes too

    def resolve(self) -> Any:
        """The building function itself."""
        return getattr(importlib.import_module(self.module), self.function)

    def __call__(self, **options) -> Any:
        return self.resolve()(**options)

    def passed_on(self, options: Any) -> dict[str, inspect.Parameter]:
        """What the function takes beside its own parameters, for the space that these options name; mostly nothing."""
        return importlib.import_module(self.module).passed_on(options) if self.on_space else {}

    def from_arch_file(self, content: dict) -> Any:
        """The module an arch file describes. Raises ValueError where the file does not fit the network."""
        if self.family:
            from dynnas_jax.networks import arch_files

            return self(**arch_files.keyword_arguments(self.resolve(), content, self.passed_on(content)))
        if not self.has_space:
            raise ValueError(f"{self.function} is one fixed network and takes no arch file")
        return importlib.import_module(self.module).net_from_arch_file(self.resolve(), content)


_MSDNET, _RESNET = "dynnas_jax.networks.msdnet", "dynnas_jax.networks.cifar_resnet"
_NASNET, _SLIMMABLE = "dynnas_jax.networks.nasnet", "dynnas_jax.networks.slimmable"
_DS_NET, _MULTI_EXIT = "dynnas_jax.networks.ds_net", "dynnas_jax.networks.multi_supernet"
_OFA, _MOBILENETS, _FBNET = "dynnas_jax.networks.ofa", "dynnas_jax.networks.mobilenets", "dynnas_jax.networks.fbnet"
NETWORKS = {
    "ofa_mobilenet_v3": Loader(_OFA, "ofa_mobilenet_v3", True),
    "ofa_proxyless": Loader(_OFA, "ofa_proxyless", True),
    "attentive_nas": Loader("dynnas_jax.networks.attentive_nas", "attentive_nas", True),
    "small_images": Loader(_OFA, "small_images", True),
    "elastic_resnet": Loader("dynnas_jax.networks.elastic_resnet", "elastic_resnet", True),
    "mobilenet_v2": Loader(_MOBILENETS, "mobilenet_v2", False),
    "mobilenet_v3_small": Loader(_MOBILENETS, "mobilenet_v3_small", False),
    "mobilenet_v3_large": Loader(_MOBILENETS, "mobilenet_v3_large", False),
    "efficientnet_b0": Loader(_MOBILENETS, "efficientnet_b0", False),
    "fbnet_a": Loader(_FBNET, "fbnet_a", False),
    "fbnet_b": Loader(_FBNET, "fbnet_b", False),
    "fbnet_c": Loader(_FBNET, "fbnet_c", False),
    "msdnet": Loader(_MSDNET, "msdnet", False, family=True, several_exits=True),
    "msdnet_cifar": Loader(_MSDNET, "msdnet_cifar", False, family=True, several_exits=True),
    "branchynet": Loader("dynnas_jax.networks.branchynet", "branchynet", False, family=True, several_exits=True),
    "multi_exit": Loader(_MULTI_EXIT, "multi_exit", False, family=True, several_exits=True, on_space=True),
    "cifar_resnet": Loader(_RESNET, "cifar_resnet", False, family=True),
    "bottleneck_resnet": Loader(_RESNET, "bottleneck_resnet", False, family=True),
    "nasnet": Loader(_NASNET, "nasnet", False, family=True),
    "nasnet_mobile": Loader(_NASNET, "nasnet_mobile", False, family=True),
    "us_mobilenet_v1": Loader(_SLIMMABLE, "us_mobilenet_v1", False, family=True),
    "slimmable_resnet50": Loader(_SLIMMABLE, "slimmable_resnet50", False, family=True),
    "ds_resnet50": Loader(_DS_NET, "ds_resnet50", True, gated=True),
    "ds_mobilenet_v1": Loader(_DS_NET, "ds_mobilenet_v1", True, gated=True),
    "ds_efficientnet_b0": Loader(_DS_NET, "ds_efficientnet_b0", True, gated=True),
    "ds_resnet_small": Loader(_DS_NET, "ds_resnet_small", True, gated=True),
    "ds_mobilenet_small": Loader(_DS_NET, "ds_mobilenet_small", True, gated=True),
}


def network(name: str) -> Loader:
    """The loader called `name`. Raises ValueError for an unknown name, with the nearest known one."""
    if name in NETWORKS:
        return NETWORKS[name]
    near = difflib.get_close_matches(str(name), NETWORKS, n=1, cutoff=0.0)
    raise ValueError(f"unknown network {name!r}, did you mean {near[0]!r}? Known: {', '.join(NETWORKS)}")


def supernet(name: str) -> Loader:
    """The loader of a network with a space. Raises ValueError for an unknown name or a fixed network."""
    loader = network(name)
    if not loader.has_space:
        raise ValueError(f"supernet.network is {name!r}, a fixed network; choose one with a space")
    if loader.gated:
        raise ValueError(f"supernet.network is {name!r}, whose gates pick paths; call the section slimmable")
    return loader


def with_gates(name: str) -> Loader:
    """The loader of a network with gates. Raises ValueError for an unknown name or a network without them."""
    loader = network(name)
    if not loader.gated:
        known = ", ".join(known for known, one in NETWORKS.items() if one.gated)
        raise ValueError(f"slimmable.network is {name!r}, a network without gates; choose from {known}")
    return loader
