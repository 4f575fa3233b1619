"""A net whose head knows some of the classes only."""

from __future__ import annotations

from dataclasses import replace

import flax.linen as nn
import numpy as np
from flax import traverse_util

CLASSIFIER = "classifier"  # the module whose outputs are the logits


def specialised(net: nn.Module, variables: dict, classes: np.ndarray) -> tuple[nn.Module, dict]:
    """The net with the logits of the classes int[k], in order, alone; its other variables are the same arrays.

    Raises:
      ValueError: for a net without a classifier, or fewer than two classes.
    """
    if len(classes) < 2:
        raise ValueError(f"{len(classes)} class needs no network: give at least two")
    params, found = traverse_util.flatten_dict(variables["params"]), False
    for path, leaf in params.items():
        if len(path) > 1 and path[-2] == CLASSIFIER:
            params[path], found = leaf[..., np.asarray(classes)], True
    if not found:
        raise ValueError(f"{type(net).__name__} has no module {CLASSIFIER!r} whose outputs could be taken away")
    arch = replace(net.arch, classes=len(classes))
    return net.clone(arch=arch), {**variables, "params": traverse_util.unflatten_dict(params)}
