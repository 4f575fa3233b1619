"""What dynamic slimmable networks cost as their authors' code counts it, to compare with what it prints."""

from __future__ import annotations

import math

import numpy as np

from dynnas_jax.costs import macs
from dynnas_jax.elastic import Supernet, traced_blocks


def macs_as_published(supernet: Supernet, genome: np.ndarray) -> int:
    """MACs of a path of separable convolutions as the code of DS-Net counts them: every value that is pooled counts as one.

    The slimming head is left out: paths are counted on their own there. Elsewhere here MACs are those of `costs.macs`.
    """
    arch = supernet.arch(genome)
    outputs = {name: traced.output.shape for name, (_, traced) in traced_blocks(supernet, arch).items()}
    pooled = 0
    for name, spec in arch.blocks:
        # A gate stands behind the depthwise convolution, which has the pixels of the block's output.
        pooled += math.prod(outputs[name][1:3]) * spec.inner if spec.gate else 0
    pooled += math.prod(outputs[arch.blocks[-1][0]][1:])
    net = supernet.net(arch)
    return macs.net_cost(net, (arch.resolution, arch.resolution, arch.channels))[0] + pooled
