"""BranchyNet: a published network with exits on its way, trained and left as any net of several exits.

After Teerapittayanon et al. 2016 (arXiv 1709.01686), whose networks were LeNet, AlexNet and ResNet; here the trunk is one of the
MBConv networks. What is in front of an exit is the trunk's own, so nothing but the branches is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from dynnas_jax.costs import macs
from dynnas_jax.elastic import Block, image_struct, walk
from dynnas_jax.networks import fbnet, mbconv, mobilenets
from dynnas_jax.networks.exits import ExitNet, Segment
from dynnas_jax.networks.mbconv import Numerics

TRUNKS = {
    **{name: getattr(mobilenets, name) for name in ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")},
    "efficientnet_b0": mobilenets.efficientnet_b0,
    **{name: getattr(fbnet, name) for name in ("fbnet_a", "fbnet_b", "fbnet_c")},
}


def _of_trunk(name: str) -> property:
    return property(lambda arch: getattr(arch.trunk, name))


@dataclass(frozen=True)
class Arch:
    """A trunk and the blocks that branches stand behind, in order; hashable, static under jit."""

    trunk: mbconv.Arch
    after: tuple[str, ...]  # blocks of the trunk, by name
    branch: int  # channels of a branch's 1x1 convolution

    resolution, classes, channels = map(_of_trunk, ("resolution", "classes", "channels"))
    epsilon, padding, mean, std = map(_of_trunk, ("epsilon", "padding", "mean", "std"))

    def segments(self, numerics: Numerics) -> tuple[Segment, ...]:
        """Per exit the trunk's blocks since the exit before, and its branch; at the end the trunk's own head."""
        *blocks, _ = mbconv.chain(self.trunk, numerics)
        trunk, found, own = self.trunk, [], []
        for block in blocks:
            own.append(block)
            if block.name in self.after:
                found.append(Segment(tuple(own), self._head(len(found) + 1, (self.branch, 0, False), numerics)))
                own = []
        last = trunk.head_conv, trunk.head_features, trunk.head_features_bias
        return (*found, Segment(tuple(own), self._head(len(found) + 1, last, numerics)))

    def _head(self, number: int, layers: tuple[int, int, bool], numerics: Numerics) -> Block:
        name, trunk = f"exit{number}", self.trunk
        module = numerics.remade(mbconv.Head)(*layers, trunk.head_act, trunk.classes, numerics, name=name)
        return Block(name, module)

    def chain(self, numerics: Numerics) -> tuple[Block, ...]:
        """The blocks from images to the logits of the last exit, without the exits before it."""
        segments = self.segments(numerics)
        return (*(block for segment in segments for block in segment.blocks), segments[-1].exit)


def branchynet(
    *,
    network: str = "mobilenet_v3_small",
    exits: int = 3,
    branch: int = 64,
    classes: int = 1000,
    resolution: int = 224,
    width: float = 1.0,
    total_stride: int = mobilenets.TOTAL_STRIDE,
    **options,
) -> ExitNet:
    """A published network with `exits` exits, its own head the last; branches stand where equal parts of its MACs are spent.

    Args:
      network: the trunk, of `TRUNKS`.
      branch: channels of the 1x1 convolution in each branch, behind which are pooling and a dense layer.
      resolution: in pixels; width, total_stride, options: of the trunk's function.

    Raises:
      ValueError: for an unknown trunk, fewer than two exits or more than its blocks allow, a branch without channels, or as the
        trunk's function.
    """
    if network not in TRUNKS:
        raise ValueError(f"network is {network!r}, choose from {list(TRUNKS)}")
    if type(branch) is not int or branch < 1:
        raise ValueError(f"branch is {branch!r}, must be at least 1 and whole")
    options |= {"classes": classes, "resolution": resolution, "width": width, "total_stride": total_stride}
    trunk = TRUNKS[network](**options).arch
    return ExitNet(Arch(trunk, _evenly(trunk, exits), branch))


def _evenly(trunk: mbconv.Arch, exits: int) -> tuple[str, ...]:
    """The blocks behind which k parts of `exits` of the trunk's MACs, for k from 1 on, are spent first."""
    blocks = mbconv.counting_blocks(trunk)
    traced = walk(blocks, image_struct(trunk))
    spent = list(accumulate(macs.jaxpr_macs(one.jaxpr.jaxpr) for one in traced.values()))
    names = [block.name for block in blocks]
    if type(exits) is not int or not 2 <= exits <= len(names) - 1:
        raise ValueError(f"exits is {exits!r}, choose from 2 to {len(names) - 1}")
    places = [next(i for i, cost in enumerate(spent) if exits * cost >= k * spent[-1]) for k in range(1, exits)]
    if len(set(places)) < len(places) or places[-1] >= len(names) - 1:
        raise ValueError(
            f"exits is {exits}, but this network has no {exits - 1} blocks at even parts of its MACs; give fewer"
        )
    return tuple(names[place] for place in places)
