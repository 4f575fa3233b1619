"""The third way to run a genome: a fold over the positions, each a `lax.switch` over its static choices.

One program computes any subnet with the subnet's own work, where masking does the largest's; what it costs is compiling every
choice of every position. Between positions the carry has the channels of the largest, zeros behind the subnet's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.elastic import Supernet, image_struct, joint_choices, joint_index, positions, slice_block, walk


class _Choice(NamedTuple):
    """What a position computes for some of its joint choices."""

    module: Any
    inputs: Any  # shapes of the carry in front of it
    shapes: dict  # of its variables


def program(supernet: Supernet, **fields) -> Callable:
    """run(variables, images, genome, train) -> logits of the genome's subnet, traced; jit-able over genomes.

    `fields` are those of the nets, such as `axis_name`. In training the statistics are the batch's; running ones stay as
    they are.

    Raises:
      ValueError: for nets whose parts share leaves.
    """
    if supernet.spread is not None:
        raise ValueError("nets of several exits, whose blocks share their leaves, cannot be switched; run them masked")
    stages = [(position, *_choices(supernet, position, fields)) for position in positions(supernet)]

    def run(variables: dict, images: jax.Array, genome: jax.Array, train: bool = False) -> jax.Array:
        carry = images
        for position, choices, table in stages:
            widths = _widths(choices, carry, variables, position.name, train)
            branches = [_branch(choice, variables, position.name, widths, train) for choice in choices]
            index = jnp.asarray(table)[joint_index(position, genome)]
            if position.depth:
                branches.append(lambda carry: carry)
                gene, least = position.depth
                index = jnp.where(genome[gene] >= least, index, len(choices))
            carry = jax.lax.switch(index, branches, carry) if len(branches) > 1 else branches[0](carry)
        return carry

    return run


def _choices(supernet: Supernet, position: Any, fields: dict) -> tuple[list[_Choice], np.ndarray]:
    """The distinct choices of a position, and int32[joint choices]: which of them each joint choice is."""
    found: list[_Choice] = []
    table = []
    for genome in joint_choices(supernet, position.genes):
        arch = supernet.arch(genome)
        traced = walk(supernet.blocks(arch), image_struct(arch))
        names = list(traced)
        before = names.index(position.name) - 1
        inputs = image_struct(arch) if before < 0 else traced[names[before]].output
        block = next(b for b in supernet.net(arch).clone(**fields).chain() if b.name == position.name)
        choice = _Choice(block.module.clone(name=None, parent=None), _channels(inputs), traced[position.name].variables)
        same = [i for i, other in enumerate(found) if (other.module, other.inputs) == (choice.module, choice.inputs)]
        if not same:
            found.append(choice)
        table.append(same[0] if same else len(found) - 1)
    return found, np.asarray(table, np.int32)


def _channels(carry: Any) -> tuple[int, ...]:
    return tuple(leaf.shape[-1] for leaf in jax.tree.leaves(carry))


def _apply(choice: _Choice, variables: dict, name: str, carry: Any, train: bool) -> Any:
    """The block of a choice on the leading channels of a carry."""
    leaves, treedef = jax.tree.flatten(carry)
    own = jax.tree.unflatten(treedef, [leaf[..., :n] for leaf, n in zip(leaves, choice.inputs, strict=True)])
    sliced = slice_block(variables, name, choice.shapes)
    if train:
        return choice.module.apply(sliced, own, True, mutable=["batch_stats"])[0]
    return choice.module.apply(sliced, own)


def _widths(choices: list[_Choice], carry: Any, variables: dict, name: str, train: bool) -> tuple[int, ...]:
    """The most channels of each leaf behind a position."""
    outputs = [
        jax.eval_shape(lambda v, x, c=choice: _apply(c, v, name, x, train), variables, carry) for choice in choices
    ]
    return tuple(max(column) for column in zip(*map(_channels, outputs), strict=True))


def _branch(choice: _Choice, variables: dict, name: str, widths: tuple[int, ...], train: bool) -> Callable:
    """carry -> carry, with zeros behind the choice's own channels."""

    def run(carry):
        leaves, treedef = jax.tree.flatten(_apply(choice, variables, name, carry, train))
        padded = [
            jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, width - leaf.shape[-1])])
            for leaf, width in zip(leaves, widths, strict=True)
        ]
        return jax.tree.unflatten(treedef, padded)

    return run
