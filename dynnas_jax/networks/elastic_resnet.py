"""A supernet of residual nets for small images whose stages have any of several depths; a shallower stage has its first blocks.

Variables have the names of those of `cifar_resnet`, so that nets which grow stage by stage can be read off a trained one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dynnas_jax.elastic import Block, Supernet
from dynnas_jax.networks.chains import ChainNet, check_counts
from dynnas_jax.networks.cifar_resnet import Arch, cifar_resnet
from dynnas_jax.networks.template import form_here
from dynnas_jax.search_space import Gene, SearchSpace


@dataclass(frozen=True)
class Decoder:
    """From genomes and arch files to archs."""

    base: Arch  # the largest
    choices: tuple[tuple[int, ...], ...]  # depths of each stage, ascending
    space: SearchSpace

    def __call__(self, genome: np.ndarray) -> Arch:
        """The arch of a genome. Raises ValueError for one that is not of this space."""
        values = self.space.values(genome)
        depths = (values.get(gene_name(i), choices[-1]) for i, choices in enumerate(self.choices, 1))
        return replace(self.base, depths=tuple(int(depth) for depth in depths))

    def file(self, genome: np.ndarray) -> dict[str, Any]:
        """A genome as the content of an arch file."""
        return {"resolution": self.base.resolution, "depths": list(self(genome).depths)}

    def from_file(self, content: dict) -> Arch:
        """The arch an arch file describes: `resolution` and `depths`, one of the choices for each stage.

        Raises:
          ValueError: for another key, a depth too many or too few, or one that the space does not have.
        """
        if not isinstance(content, dict) or set(content) != {"resolution", "depths"}:
            raise ValueError('an arch file of this space is an object with the keys "resolution" and "depths"')
        depths, resolution = content["depths"], content["resolution"]
        if not isinstance(depths, list) or len(depths) != len(self.choices):
            raise ValueError(f"arch file: depths is {depths!r}, must be a list of {len(self.choices)}, one per stage")
        for stage, (depth, choices) in enumerate(zip(depths, self.choices, strict=True), 1):
            if type(depth) is not int or depth not in choices:
                raise ValueError(f"arch file: stage {stage} has depth {depth!r}, choose from {list(choices)}")
        return replace(self.base, depths=tuple(depths), resolution=resolution)


def gene_name(stage: int) -> str:
    """The gene of a stage's depth; stages count from 1."""
    return f"stage{stage}.depth"


def elastic_resnet(
    *,
    deepest: tuple[int, ...] = (9, 9, 9),
    step: int = 1,
    widths: tuple[int, ...] = (16, 32, 64),
    shortcut: str = "projection",
    classes: int = 10,
    image_size: int = 32,
    depthwise: str = "conv",
    **options,
) -> Supernet:
    """The space of residual nets with stages of at most `deepest` blocks, and `step` fewer each time, down to one at least.

    Arguments as in `cifar_resnet`; depthwise: see `template.build`. The depths that a growth found, as `deepest`, give the space
    of the nets up to them. Raises ValueError as `cifar_resnet`, or for a step below 1.
    """
    check_counts(step=step)
    arguments = {"depths": tuple(deepest), "widths": tuple(widths), "shortcut": shortcut, "classes": classes}
    base = cifar_resnet(**arguments, resolution=image_size, **options).arch
    choices = tuple(tuple(sorted(range(depth, 0, -step))) for depth in base.depths)
    genes = tuple(Gene(gene_name(i), own) for i, own in enumerate(choices, 1) if len(own) > 1)
    # How images are normalised does not change what a genome is.
    fixed = {name: value for name, value in vars(base).items() if name not in ("mean", "std")}
    space = SearchSpace(genes, meaning=repr((fixed, choices)))
    net = functools.partial(ChainNet, depthwise=form_here(depthwise))
    return Supernet(space, Decoder(base, choices, space), net, functools.partial(_blocks, choices, space))


def _blocks(choices: tuple[tuple[int, ...], ...], space: SearchSpace, arch: Arch) -> tuple[Block, ...]:
    """The arch's chain; a block that some nets of the space lack names the gene that says so."""
    return tuple(_gated(choices, space, block) for block in ChainNet(arch, depthwise="conv").chain())


def _gated(choices: tuple[tuple[int, ...], ...], space: SearchSpace, block: Block) -> Block:
    stage, _, place = block.name.partition("_block")
    if not place:
        return block
    number = int(stage.removeprefix("stage"))
    gate = next(index for index, depth in enumerate(choices[number - 1]) if depth > int(place))
    return block._replace(depth=(gene_name(number), gate)) if gate and gene_name(number) in space else block


def net_from_arch_file(space: Callable[..., Supernet], content: dict) -> ChainNet:
    """The net an arch file describes in a space. Raises ValueError as `Decoder.from_file`."""
    supernet = space()
    return supernet.net(supernet.arch.from_file(content))
