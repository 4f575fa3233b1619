"""Trained weights from PyTorch: state dicts of once-for-all and of timm as variables of the MBConv net, and back.

Such weights want PyTorch's symmetric padding and their own batch norm epsilon; `load` returns the network with both.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dynnas_jax import kernel_transforms
from dynnas_jax.elastic import Supernet, image_struct
from dynnas_jax.networks import state_dicts
from dynnas_jax.networks.mbconv import Arch, Net
from dynnas_jax.networks.template import build


class MisfitError(ValueError):
    """A state dict holds other arrays than the network needs."""


class Loaded(NamedTuple):
    """What a file of weights gives."""

    network: Any  # the net or the supernet that was given, with the padding and the epsilon of the weights
    variables: dict  # of the net, or of the supernet


def load(
    path: str | Path,
    network: Net | Supernet,
    *,
    padding: str = "symmetric",
    epsilon: float | None = None,
    classifier_key: jax.Array | None = None,
) -> Loaded:
    """Variables from a state dict: an `.npz` with its arrays under their names, else a file that `torch.load` reads.

    A supernet that learns kernel transforms takes once-for-all's, and its subnets then compute what the original's do. One
    that does not leaves them: its largest net is the original's, its smaller kernels are not.

    Args:
      padding: of the convolutions; "SAME" for weights of timm that come from TensorFlow (`tf_...`).
      epsilon: of the batch norms, by default what the original's constructor gives (1e-5; once-for-all's ProxylessNAS
        1e-3); 1e-3 for timm's `tf_...`.
      classifier_key: the classifier is drawn anew from it, for other classes than the file's.

    Raises:
      ValueError: for a file that cannot be read or is of neither library, or arrays that are missing, unknown or of another
        shape than the network's, or without the kernel transforms it needs.
    """
    path = Path(path)
    arrays = state_dicts.read(path)
    library = state_dicts.library_of(path, arrays)
    arch = _base(network)
    network = _with_conventions(network, padding, library.epsilon(arch) if epsilon is None else epsilon)
    net = network.largest_net() if isinstance(network, Supernet) else network
    wanted = _wanted(net, library)
    if classifier_key is not None:
        own = {name: place for name, place in wanted.items() if place.path[:3] == ("params", "head", "classifier")}
        wanted = {name: place for name, place in wanted.items() if name not in own}
        arrays = {name: array for name, array in arrays.items() if state_dicts.plain(name) not in own}
    wanted |= _wanted_transforms(net.arch, library, arrays)
    _check(path, {name: place.shape for name, place in wanted.items()}, arrays)
    trees: dict[str, dict] = {"params": {}, "batch_stats": {}, "transforms": {}}
    for name, array in arrays.items():
        collection, *rest = wanted[state_dicts.plain(name)].path
        trees[collection][tuple(rest)] = _our_order(array.astype(np.float32), collection)
    params, batch_stats, transforms = (traverse_util.unflatten_dict(tree) for tree in trees.values())
    if isinstance(network, Supernet) and network.transforms:
        if not transforms:
            raise ValueError(
                f"{path} has no kernel transforms; the supernet must not learn any (kernel_transforms=False)"
            )
        params[kernel_transforms.PLACE] = transforms
    if classifier_key is not None:
        params["head"]["classifier"] = jax.device_get(_fresh_classifier(net, classifier_key))
    return Loaded(network, {"params": params, "batch_stats": batch_stats})


def to_state_dict(net: Net, variables: dict, library: str) -> dict[str, np.ndarray]:
    """The net's variables as arrays under the names and in the order of axes of a library, "once-for-all" or "timm".

    Raises:
      ValueError: for another library.
    """
    if library not in state_dicts.LIBRARIES:
        raise ValueError(f"library is {library!r}, choose from {list(state_dicts.LIBRARIES)}")
    leaves = traverse_util.flatten_dict(variables)
    return {
        name: np.asarray(leaves[place.path]).transpose(_TORCH_AXES[len(place.shape)])
        for name, place in _wanted(net, state_dicts.LIBRARIES[library]).items()
    }


# What is wanted, and whether it is there.


_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # kernels are [h, w, in, out] here, [out, in, h, w] there
_OUR_AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
_TRANSFORM = re.compile(r"\.depth_conv\.conv\.((\d+)to(\d+))_matrix$")


class Place(NamedTuple):
    """Where an array of the state dict belongs."""

    path: tuple[str, ...]  # in the variables
    shape: tuple[int, ...]  # in PyTorch's order of axes


def _wanted(net: Net, library: state_dicts.Library) -> dict[str, Place]:
    """Every array the net needs, by its name in the library."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), image_struct(net.arch))
    modules, found = library.modules(net.arch), {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        _, *module, name = path
        if tuple(module) not in modules:
            raise ValueError(f"the net has a layer {'/'.join(module)}, the library of these weights has none like it")
        shape = tuple(leaf.shape[axis] for axis in _TORCH_AXES[len(leaf.shape)])
        found[f"{modules[tuple(module)]}.{_LEAVES[name]}"] = Place(path, shape)
    return found


def _wanted_transforms(arch: Arch, library: state_dicts.Library, arrays: dict) -> dict[str, Place]:
    """The kernel transforms: if the file has any, every block but the fixed first one has the same."""
    pairs = {match.groups() for name in arrays if (match := _TRANSFORM.search(name))}
    modules, found = library.modules(arch), {}
    for block, _ in arch.named_blocks():
        for pair, _, target in pairs if not block.startswith("stage0_") else ():
            path, side = ("transforms", block, pair), int(target) ** 2
            found[f"{modules[block, 'depthwise_conv']}.{pair}_matrix"] = Place(path, (side, side))
    return found


def _our_order(array: np.ndarray, collection: str) -> np.ndarray:
    return array if collection == "transforms" else array.transpose(_OUR_AXES[array.ndim])


def _check(path: Path, wanted: dict[str, tuple[int, ...]], arrays: dict[str, np.ndarray]) -> None:
    """Raises one ValueError for all that does not match."""
    found = {state_dicts.plain(name): array.shape for name, array in arrays.items()}
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in arrays if state_dicts.plain(name) not in wanted]
    other = [
        f"{name} is {list(found[name])}, must be {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    problems = [
        f"{len(names)} {what} ({state_dicts.some(names)})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", other))
        if names
    ]
    if problems:
        raise MisfitError(f"{path}: its arrays do not fit the net: {'; '.join(problems)}")


# Networks.


def _base(network: Net | Supernet) -> Arch:
    """The arch, of a supernet what all its archs share."""
    return network.arch.template.base if isinstance(network, Supernet) else network.arch


def _with_conventions(network: Net | Supernet, padding: str, epsilon: float) -> Net | Supernet:
    """The network with another padding and epsilon; itself if it has them already."""
    base = _base(network)
    if (base.padding, base.epsilon) == (padding, epsilon):
        return network
    base = replace(base, padding=padding, epsilon=epsilon)
    if isinstance(network, Supernet):
        return build(replace(network.arch.template, base=base), network.largest_net().depthwise, network.transforms)
    return network.clone(arch=base)


def _fresh_classifier(net: Net, key: jax.Array) -> dict:
    """As `net.init` draws it; the compiler drops the rest."""
    image = image_struct(net.arch)
    return jax.jit(lambda k: net.init(k, jnp.zeros(image.shape, image.dtype))["params"]["head"]["classifier"])(key)
