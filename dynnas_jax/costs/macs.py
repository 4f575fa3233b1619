"""MACs and params of any JAX function, read from its jaxpr, and tables that make a genome's cost a gather and a sum.

Counted are the multiply-accumulates of convolutions and matrix products; norms, biases, activations and pooling are not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.elastic import Block, Position, Supernet, Traced, joint_choices, positions, traced_blocks


def macs(function: Callable, *args: Any) -> int:
    """MACs of one call of `function` with arguments of these shapes (arrays or `jax.ShapeDtypeStruct`s).

    A scan's body counts once per iteration, a cond as its most expensive branch.

    Raises:
      ValueError: if MACs stand inside a while loop, whose number of iterations no one knows.
    """
    return jaxpr_macs(jax.make_jaxpr(function)(*args).jaxpr)


def params(variables: dict) -> int:
    """Weights, biases, norm scales and biases; running statistics are not counted."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def net_cost(net: nn.Module, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """(MACs, params) of a net for one uint8 image of `image_shape`, by abstract evaluation alone."""
    net = net.clone(depthwise="conv")
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    return macs(lambda v, x: net.apply(v, x)[0], variables, image), params(variables)


def jaxpr_macs(jaxpr: Any) -> int:
    """MACs of a jaxpr and of all jaxprs inside it."""
    return sum(_equation_macs(equation) for equation in jaxpr.eqns)


def _equation_macs(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        spec = parameters["dimension_numbers"].rhs_spec
        kernel = equation.invars[1].aval.shape
        window = math.prod(kernel[axis] for axis in spec[2:]) * kernel[spec[1]]
        return math.prod(equation.outvars[0].aval.shape) * window
    if name == "dot_general":
        contracted = parameters["dimension_numbers"][0][0]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return math.prod(equation.outvars[0].aval.shape) * depth
    inner = [jaxpr_macs(jaxpr) for value in parameters.values() for jaxpr in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    if name == "while" and sum(inner):
        raise ValueError("MACs inside a while loop cannot be counted; use a scan, whose length is known")
    if name == "shard_map":
        # JAX has renamed this parameter between releases.
        manual = parameters.get("newly_manual_axes", parameters.get("manual_axes"))
        mesh = parameters["mesh"]
        return sum(inner) * math.prod(mesh.shape[axis] for axis in manual)
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def equations(function: Callable, *args: Any) -> Iterator[Any]:
    """The equations of `function`'s jaxpr for arguments of these shapes, and those in calls, but not in custom gradients."""
    yield from _inside(jax.make_jaxpr(function)(*args).jaxpr)


def _inside(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        if not equation.primitive.name.startswith("custom_"):
            for value in equation.params.values():
                for inner in _jaxprs(value):
                    yield from _inside(inner)


def _jaxprs(value: Any) -> list:
    """The jaxprs in one parameter of an equation."""
    if isinstance(value, (tuple, list)):
        return [jaxpr for item in value for jaxpr in _jaxprs(item)]
    if hasattr(value, "eqns"):
        return [value]
    return [value.jaxpr] if hasattr(getattr(value, "jaxpr", None), "eqns") else []


class Built(NamedTuple):
    """A block as some arch has it."""

    arch: Any
    block: Block
    traced: Traced


class _Row(NamedTuple):
    """One position's cost over the joint choices of its genes."""

    position: Position  # its genes start with the resolution's, where the space has one
    costs: np.ndarray  # int64[joint choices], or float64 for what is no whole number


class CostTable:
    """A genome's cost as a gather and a sum; called on int32[..., genes] it gives float32[...], under jit and vmap.

    `exact` gives the Python number that is reported, an int where all costs are; float32 is for use inside a search.

    Args:
      space_size: genes of the space.
      rows: the positions.
      overhead: what every net costs besides its blocks.
    """

    def __init__(self, space_size: int, rows: tuple[_Row, ...], overhead: float = 0):
        self.rows, self.overhead = rows, overhead
        strides = np.zeros((len(rows), space_size), np.float32)
        offsets, start = [], 0
        for i, (position, costs) in enumerate(rows):
            # Entry 0 of every row is the cost of a skipped position.
            offsets.append(start + 1)
            start += 1 + len(costs)
            stride = len(costs)
            for gene, size in zip(position.genes, position.sizes, strict=True):
                stride //= size
                strides[i, gene] = stride
        self._strides, self._offsets = strides, np.asarray(offsets, np.int32)
        self._flat = np.concatenate([np.concatenate([np.zeros(1, costs.dtype), costs]) for _, costs in rows])
        depths = [position.depth or (0, 0) for position, _ in rows]
        self._gate = np.asarray([gene for gene, _ in depths])
        self._minimum = np.asarray([minimum for _, minimum in depths], np.int32)

    def _entries(self, genome: Any, xp: Any) -> Any:
        """int32[..., positions]: where in the flat table each position's cost stands."""
        # Float products run fast and are exact below 2^24, at full precision.
        product = functools.partial(jnp.matmul, precision="highest") if xp is jnp else np.matmul
        joint = product(genome.astype(xp.float32), xp.asarray(self._strides.T)).astype(xp.int32)
        lead = (1,) * (joint.ndim - 1)
        offsets, minimum = xp.asarray(self._offsets).reshape(*lead, -1), xp.asarray(self._minimum).reshape(*lead, -1)
        chosen = genome[..., self._gate] if genome.shape[-1] else 0  # a space of one net has no genes
        return xp.where(chosen >= minimum, joint + offsets, offsets - 1)

    def __call__(self, genome: jax.Array) -> jax.Array:
        flat = jnp.asarray(self._flat, jnp.float32)
        return flat[self._entries(jnp.asarray(genome), jnp)].sum(-1) + jnp.float32(self.overhead)

    def exact(self, genome: np.ndarray) -> int | float:
        """The cost of one genome as a Python number."""
        return self._flat[self._entries(np.asarray(genome), np)].sum().item() + self.overhead

    def only(self, names: Collection[str], overhead: float = 0) -> CostTable:
        """The table of these positions alone, with another overhead."""
        return CostTable(
            self._strides.shape[1], tuple(row for row in self.rows if row.position.name in names), overhead
        )


@functools.lru_cache(maxsize=16)
def every_block(supernet: Supernet) -> tuple[tuple[Position, tuple[Built, ...]], ...]:
    """Every position, its genes behind the resolution's, with the block that each of their joint choices builds there."""
    space, found = supernet.space, []
    resolution = (space.index("resolution"),) if "resolution" in space else ()
    for position in positions(supernet):
        genes, built = (*resolution, *position.genes), []
        for genome in joint_choices(supernet, genes):
            arch = supernet.arch(genome)
            built.append(Built(arch, *traced_blocks(supernet, arch)[position.name]))
        sizes = tuple(space.sizes[gene] for gene in genes)
        found.append((position._replace(genes=genes, sizes=sizes), tuple(built)))
    return tuple(found)


def position_table(supernet: Supernet, cost: Callable[[Built], float], overhead: float = 0) -> CostTable:
    """The table of any cost that a net's blocks have one by one: ints (counted) or floats (measured), all of one kind."""
    rows = [_Row(position, np.asarray([cost(block) for block in built])) for position, built in every_block(supernet)]
    return CostTable(len(supernet.space.genes), tuple(rows), overhead)


@functools.lru_cache(maxsize=16)
def table(supernet: Supernet) -> CostTable:
    """The MACs of every genome of a supernet, one image each."""
    return position_table(supernet, lambda built: jaxpr_macs(built.traced.jaxpr.jaxpr))


@functools.lru_cache(maxsize=16)
def params_table(supernet: Supernet) -> CostTable:
    """The params of every genome of a supernet."""
    return position_table(supernet, lambda built: params(built.traced.variables))
