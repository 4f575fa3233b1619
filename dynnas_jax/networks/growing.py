"""Networks whose stages may have any number of modules, as growing them stage by stage wants them (Jordao et al. 2020).

A module is a residual block or a cell. What is counted as the paper prints it: depth, params with running statistics, and the
memory of one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynnas_jax.costs.macs import equations
from dynnas_jax.elastic import Supernet, image_struct
from dynnas_jax.networks import fixed
from dynnas_jax.networks.chains import ChainNet, cost

_BYTES = 4  # of a number
# Primitives whose outputs are those of the layers that a framework lists; of a norm it is its last sum, of a shortcut the only.
_LAYERS = {
    *("conv_general_dilated", "dot_general", "custom_jvp_call", "add", "concatenate"),
    *("reduce_window", "reduce_window_sum", "reduce_window_max"),
}


class Family(NamedTuple):
    """How a network that can grow names its modules, and where the paper begins and by how much it grows."""

    option: str  # keyword argument: modules of each stage
    word: str  # of a module in the names of the variables
    stages: int
    initial_modules: int
    growth: int
    layers: tuple[int, int]  # of a module, and of all else, as the paper counts depth


FAMILIES = {
    "cifar_resnet": Family("depths", "block", 3, 6, 2, (2, 3)),
    # At 224 pixels the paper says neither where it begins nor how it counts; this is how ResNet-50 has its name.
    "bottleneck_resnet": Family("depths", "block", 4, 2, 2, (3, 2)),
    "nasnet": Family("cells", "cell", 3, 2, 1, (12, 25)),
}


class Costs(NamedTuple):
    """What one image costs, and what the paper prints of a net."""

    depth: int  # layers
    macs: int
    params: int
    params_with_statistics: int
    memory_bytes: int  # of all variables and the outputs of all layers


def family(name: str | None) -> Family:
    """The family of a network by its name. Raises ValueError for one that cannot grow."""
    if name not in FAMILIES:
        raise ValueError(f"growth.name is {name!r}, choose from {list(FAMILIES)}")
    return FAMILIES[name]


def section(growth: dict, depths: tuple[int, ...]) -> dict:
    """The section `network` of a config for the net of a section `growth` with so many modules in each stage.

    Raises:
      ValueError: as `family`, or where the section says how deep the stages are.
    """
    own = family(growth.get("name"))
    if own.option in growth:
        raise ValueError(f"growth.{own.option} is what is searched; leave it out, and give grow.initial_modules")
    return {**growth, own.option: tuple(depths)}


def uniform(growth: dict, modules: int) -> tuple[int, ...]:
    """The same number of modules in each stage. Raises ValueError as `family`."""
    own = family(growth.get("name"))
    stages = len(growth["widths"]) if "widths" in growth else own.stages
    return (modules,) * stages


def initial(config: dict) -> tuple[int, ...]:
    """The modules of each stage that a config's growth begins with. Raises ValueError as `family`."""
    modules, own = config.get("grow", {}).get("initial_modules"), family(config["growth"].get("name"))
    return uniform(config["growth"], own.initial_modules if modules is None else modules)


def depths(net: ChainNet) -> tuple[int, ...]:
    """The modules of each stage of a net that can grow."""
    return next(getattr(net.arch, own.option) for own in FAMILIES.values() if hasattr(net.arch, own.option))


def stage_ends(net: ChainNet) -> tuple[str, ...]:
    """The endpoint of the last module of each stage."""
    word = next(own.word for own in FAMILIES.values() if hasattr(net.arch, own.option))
    return tuple(f"stage{i}_{word}{count - 1}" for i, count in enumerate(depths(net), 1))


def stage_maps(net: ChainNet) -> Callable[[dict, jax.Array], tuple[jax.Array, ...]]:
    """(variables, images uint8[b, h, w, c]) -> what the last module of each stage puts out, [b, height, width, channels]."""
    names = stage_ends(net)

    def run(variables: dict, images: jax.Array) -> tuple[jax.Array, ...]:
        _, ends = net.apply(variables, images)
        # A cell carries the output before its own too.
        return tuple(getattr(ends[name], "last", ends[name]) for name in names)

    return run


def stage_shapes(net: ChainNet) -> tuple[tuple[int, int, int], ...]:
    """(height, width, channels) of `stage_maps`, by abstract evaluation."""
    image = image_struct(net.arch)
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    return tuple(maps.shape[1:] for maps in jax.eval_shape(stage_maps(net), variables, image))


def costs(name: str, net: ChainNet) -> Costs:
    """What a net of the family of this name costs."""
    each, rest = family(name).layers
    image = image_struct(net.arch)
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    held = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))
    own = net.clone(depthwise="conv")
    put_out = sum(
        math.prod(equation.outvars[0].aval.shape)
        for equation in equations(lambda v, x: own.apply(v, x)[0], variables, image)
        if equation.primitive.name in _LAYERS
    )
    return Costs(each * sum(depths(net)) + rest, *cost(net), held, _BYTES * (held + put_out))


class Shallower(ValueError):
    """A source net lacks modules that are wanted of it."""


def transferred(source: dict, net: nn.Module) -> dict:
    """The variables of a net whose modules are the first of each stage of a deeper one; stem and head are the deeper one's.

    Args:
      source: variables of the deeper net.

    Raises:
      ValueError: for a source that is shallower somewhere (`Shallower`), or of other channels.
    """
    wanted = jax.eval_shape(net.init, jax.random.key(0), image_struct(net.arch))
    return {
        kind: {name: _taken(source, kind, name, leaves) for name, leaves in of.items()} for kind, of in wanted.items()
    }


def _taken(source: dict, kind: str, name: str, wanted: dict) -> dict:
    """One module's leaves."""
    found = source.get(kind, {}).get(name)
    if found is None:
        stage, _, rest = name.partition("_")
        held = sum(other.startswith(f"{stage}_") for other in source.get(kind, {}))
        where = f"{held} modules in {stage}" if rest else f"no {stage}"
        raise Shallower(f"the source net is shallower than the candidate: it has {where}, and {name} is wanted")
    shapes, own = (jax.tree.map(jnp.shape, tree, is_leaf=_is_leaf) for tree in (wanted, found))
    if shapes != own:
        raise ValueError(f"the source net is another: {name} has leaves of {_first_other(own, shapes)}")
    return found


def _is_leaf(value: Any) -> bool:
    return hasattr(value, "shape")


def _first_other(own: Any, wanted: Any) -> str:
    """What of two trees of shapes is not the same, in words."""
    flat, other = (dict(jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_shape)[0]) for tree in (own, wanted))
    for path, shape in flat.items():
        if other.get(path) != shape:
            return f"{jax.tree_util.keystr(path)} {shape}, not {other.get(path, 'any')}"
    return "others"


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple)


def built(growth: dict, depths: tuple[int, ...], facts: dict) -> Supernet:
    """A supernet without genes of the net with these modules, for images of these facts. Raises ValueError as `fixed.build`."""
    return fixed.build(section(growth, depths), facts)
