"""One fixed network as a config names it, as a supernet whose space has no genes: what trains one trains the other."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from dynnas_jax import networks
from dynnas_jax.elastic import Block, Supernet
from dynnas_jax.networks import arch_files, exits
from dynnas_jax.networks.mbconv import Net
from dynnas_jax.networks.template import form_here
from dynnas_jax.search_space import SearchSpace

GIVEN = ("channels", "classes", "resolution", "mean", "std")  # by the data
_OWN = ("name", "arch")
_IMAGE_CHANNELS = "image_channels"  # of the images, for a network that calls channels of its own `channels`


def loader(section: dict) -> networks.Loader:
    """The loader that a config's section `network` names.

    Raises:
      ValueError: for no or an unknown name.
    """
    name = section.get("name")
    if name is None:
        raise ValueError(f"network.name is missing, choose from {', '.join(networks.NETWORKS)}")
    return networks.network(name)


def parameters(section: dict) -> dict[str, inspect.Parameter]:
    """What the section may hold: the options of the network's function. Raises ValueError as `loader` and `with_arch`."""
    made_by = loader(section)
    also = (*_OWN, "depthwise", "padding", "epsilon")
    found = {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in also}
    signature = {**inspect.signature(made_by.resolve()).parameters, **_passed_on(made_by, section)}
    given = {*GIVEN, _IMAGE_CHANNELS} - ({"channels"} if _IMAGE_CHANNELS in signature else set())
    return found | {p.name: p for p in signature.values() if p.kind is p.KEYWORD_ONLY and p.name not in given}


def with_arch(section: dict) -> dict:
    """The section with the content of its arch file in the place of the path; itself where it names none.

    Raises:
      ValueError: for a file that is absent or no JSON.
    """
    path = section.get("arch")
    if not isinstance(path, str):
        return section
    try:
        return {**section, "arch": json.loads(Path(path).expanduser().read_text())}
    except OSError as error:
        raise ValueError(f"network.arch: cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"network.arch: {path} is not JSON ({error})") from error


def check(section: dict, *, several_exits: bool = False) -> None:
    """Raises ValueError where a space is without an arch file, a network of one arch has one, or one that is wanted is not given.

    Also for a network of several exits where one with a single answer is wanted, and the other way round.
    """
    found, name, arch = loader(section), section["name"], section.get("arch")
    if found.several_exits and not several_exits:
        raise ValueError(f"network.name is {name!r}, a network of several exits; call the section exit_network")
    if several_exits and not found.several_exits:
        known = ", ".join(name for name, one in networks.NETWORKS.items() if one.several_exits)
        raise ValueError(f"exit_network.name is {name!r}, a network with a single answer; choose from {known}")
    space = found.has_space
    if space and arch is None:
        raise ValueError(f"network.name is {name!r}, a space of many networks; give network.arch, an arch file")
    if found.family and arch is None and "arch" in section:
        raise ValueError("network.arch is None: give an arch file, or leave it out of the recipe")
    if not space and arch is not None and not found.family:
        raise ValueError(f"network.name is {name!r}, one fixed network; leave out network.arch")


def build(section: dict, facts: dict) -> Supernet:
    """The network of a config's section for images of these facts (`image_shape`, `classes`, `mean`, `std`).

    Raises:
      ValueError: where section and images do not fit each other.
    """
    made_by = loader(section)
    check(section, several_exits=made_by.several_exits)
    height, _, channels = facts["image_shape"]
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in section.items() if key not in _OWN}
    known = inspect.signature(made_by.resolve()).parameters
    if made_by.family and section.get("arch") is not None:
        options = {**_of_family(made_by, section), **options}
    options |= {_IMAGE_CHANNELS if _IMAGE_CHANNELS in known else "channels": channels, "classes": len(facts["classes"])}
    options |= {"mean": tuple(facts["mean"]), "std": tuple(facts["std"])}
    form = options.pop("depthwise", None) or "auto"
    try:
        net = _of_space(made_by, with_arch(section)["arch"], height, options) if made_by.has_space else None
        net = net or made_by(resolution=height, **options)
    except TypeError as error:
        raise ValueError(f"network: a value has another type ({error})") from error
    if net.arch.resolution != height:
        raise ValueError(f"data: images are {height}x{height}, but network.arch reads {net.arch.resolution} pixels")
    return of_net(net.clone(depthwise=form_here(form)))


def _passed_on(made_by: networks.Loader, section: dict) -> dict[str, inspect.Parameter]:
    """As `Loader.passed_on`, where section or arch file name the space."""
    content = with_arch(section).get("arch") if made_by.on_space else None
    return made_by.passed_on({**content, **section} if isinstance(content, dict) else section)


def _of_family(made_by: networks.Loader, section: dict) -> dict[str, Any]:
    """What an arch file says of a network of many archs, but for what the data say. Raises ValueError where it does not fit."""
    content = with_arch(section)["arch"]
    found = arch_files.keyword_arguments(made_by.resolve(), content, _passed_on(made_by, section))
    return {name: value for name, value in found.items() if name not in GIVEN}


def _of_space(made_by: networks.Loader, content: Any, height: int, options: dict) -> Net:
    """The subnet that an arch file describes, with the file's width where the space has one for the whole network."""
    known = inspect.signature(made_by.resolve()).parameters
    if "image_size" in known:
        options = {"image_size": height, **options}
    if "width" in known and isinstance(content, dict) and isinstance(content.get("width"), (int, float)):
        options = {"width": content["width"], **options}
    supernet = made_by(**options)
    return supernet.net(supernet.arch.from_file(content))


def of_net(net: Net) -> Supernet:
    """A supernet with this net as its only subnet."""
    # How images are normalised is no part of what a net is, as in spaces.
    meaning = {name: value for name, value in vars(net.arch).items() if name not in ("mean", "std")}
    return Supernet(
        SearchSpace((), meaning=repr(meaning)),
        arch=lambda genome: net.arch,
        net=lambda arch: net.clone(arch=arch),
        blocks=lambda arch: _blocks(net.clone(arch=arch, depthwise="conv")),
        exits=tuple(segment.exit.name for segment in net.segments()) if isinstance(net, exits.ExitNet) else (),
    )


def _blocks(net: Net) -> tuple[Block, ...]:
    """The chain from images to logits, the exits on its way too."""
    return exits.whole_chain(net.segments()) if isinstance(net, exits.ExitNet) else net.chain()
