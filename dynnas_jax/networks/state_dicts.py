"""State dicts of PyTorch libraries: reading their files, and how each library names the arrays of an MBConv net."""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax.networks.mbconv import Arch

# Reading files.


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state dict by name, without the counters of batches.

    Raises:
      ValueError: for a file that is missing, damaged or holds something else, or a PyTorch file where torch is not installed.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of weights {str(path)!r}")
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    return {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an .npz file ({_reason(error)})") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path}: only torch reads such a file, and it is not installed; where it is, save the state dict with "
            "numpy.savez('weights.npz', **{name: value.numpy() for name, value in state_dict.items()})"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as a PyTorch file of weights ({_reason(error)})") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict; save model.state_dict(), which maps names to tensors")
    return {name: value.detach().to(torch.float32).numpy() for name, value in content.items()}


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


# Names. A library's names are given for our modules; which of them a net has, its own variables say.


class Library(NamedTuple):
    """How a library names the arrays of an MBConv net."""

    sign: str  # a name that only its state dicts hold
    modules: Callable[[Arch], dict[tuple[str, ...], str]]  # our module's path -> its name there
    epsilon: Callable[[Arch], float]  # of the batch norms, as its constructors set it


_ONCE_FOR_ALL_BLOCK = {
    ("expand_conv",): "inverted_bottleneck.conv",
    ("expand_norm",): "inverted_bottleneck.bn",
    ("depthwise_conv",): "depth_conv.conv",
    ("depthwise_norm",): "depth_conv.bn",
    ("se", "reduce_conv"): "depth_conv.se.fc.reduce",
    ("se", "expand_conv"): "depth_conv.se.fc.expand",
    ("project_conv",): "point_linear.conv",
    ("project_norm",): "point_linear.bn",
}


def _once_for_all(arch: Arch) -> dict[tuple[str, ...], str]:
    """The blocks are numbered through; the convolution before pooling has another name if a layer follows behind it."""
    conv = "final_expand_layer" if arch.head_features else "feature_mix_layer"
    names = {
        ("stem", "conv"): "first_conv.conv",
        ("stem", "norm"): "first_conv.bn",
        ("head", "conv"): f"{conv}.conv",
        ("head", "norm"): f"{conv}.bn",
        ("head", "features_conv"): "feature_mix_layer.conv",
        ("head", "classifier"): "classifier.linear",
    }
    for i, (block, _) in enumerate(arch.named_blocks()):
        names |= {(block, *own): f"blocks.{i}.conv.{there}" for own, there in _ONCE_FOR_ALL_BLOCK.items()}
    return names


_TIMM_SE = {("se", "reduce_conv"): "se.conv_reduce", ("se", "expand_conv"): "se.conv_expand"}
_TIMM_EXPANDED = ("expand_conv", "conv_pw"), ("expand_norm", "bn1"), ("depthwise_conv", "conv_dw")
_TIMM_EXPANDED += ("depthwise_norm", "bn2"), ("project_conv", "conv_pwl"), ("project_norm", "bn3")
_TIMM_SEPARABLE = ("depthwise_conv", "conv_dw"), ("depthwise_norm", "bn1")
_TIMM_SEPARABLE += ("project_conv", "conv_pw"), ("project_norm", "bn2")


def _timm(arch: Arch) -> dict[tuple[str, ...], str]:
    """Blocks are numbered by stage; a stage begins at each block without a shortcut, other than our stages."""
    names = {("stem", "conv"): "conv_stem", ("stem", "norm"): "bn1", ("head", "classifier"): "classifier"}
    stage, number = -1, 0
    for block, spec in arch.named_blocks():
        begins = stage < 0 or not spec.shortcut
        stage, number = (stage + 1, 0) if begins else (stage, number + 1)
        parts = {(own,): there for own, there in (_TIMM_EXPANDED if spec.expand else _TIMM_SEPARABLE)} | _TIMM_SE
        names |= {(block, *own): f"blocks.{stage}.{number}.{there}" for own, there in parts.items()}
    if arch.head_features:  # MobileNetV3: the convolution before pooling is a stage, the one behind it the head
        last = f"blocks.{stage + 1}.0"
        own = {("head", "conv"): f"{last}.conv", ("head", "norm"): f"{last}.bn1"}
        return names | own | {("head", "features_conv"): "conv_head"}
    return names | {("head", "conv"): "conv_head", ("head", "norm"): "bn2"}


LIBRARIES = {
    "once-for-all": Library("first_conv.conv.weight", _once_for_all, lambda arch: 1e-5 if arch.head_features else 1e-3),
    "timm": Library("conv_stem.weight", _timm, lambda arch: 1e-5),
}


def plain(name: str) -> str:
    """A name without what differs between elastic and plain modules, old and new checkpoints, one device and several."""
    name = name.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv.")
    return re.sub(r"\.(conv|bn|linear)\.\1\.", r".\1.", name)


def some(names: list[str]) -> str:
    """The first few of many."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def library_of(path: Path, arrays: dict) -> Library:
    """The library whose names the arrays have. Raises ValueError if it is none of them."""
    names = {plain(name) for name in arrays}
    for library in LIBRARIES.values():
        if library.sign in names:
            return library
    raise ValueError(
        f"{path} is a state dict of neither {' nor '.join(LIBRARIES)}: it holds {some(list(arrays)) or 'no arrays'}"
    )
