"""MACs and params of any JAX function, read from its jaxpr, and tables that make a genome's cost a gather and a sum.

Counted are the multiply-accumulates of convolutions and matrix products; norms, biases, activations and pooling are not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.elastic import Position, Supernet, image_struct, joint_choices, positions, walk


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


def _jaxprs(value: Any) -> list:
    """The jaxprs in one parameter of an equation."""
    if isinstance(value, (tuple, list)):
        return [jaxpr for item in value for jaxpr in _jaxprs(item)]
    if hasattr(value, "eqns"):
        return [value]
    return [value.jaxpr] if hasattr(getattr(value, "jaxpr", None), "eqns") else []


class _Row(NamedTuple):
    """One position's cost over the joint choices of its genes."""

    position: Position  # its genes start with the resolution's, where the space has one
    costs: np.ndarray  # int64[joint choices]


class CostTable:
    """A genome's cost as a gather and a sum; called on int32[..., genes] it gives float32[...], under jit and vmap.

    `exact` gives the Python int that is reported; float32 is for use inside a search.
    """

    def __init__(self, space_size: int, rows: tuple[_Row, ...]):
        self.rows = rows
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
        self._flat = np.concatenate([np.concatenate([[0], costs]) for _, costs in rows])
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
        return xp.where(genome[..., self._gate] >= minimum, joint + offsets, offsets - 1)

    def __call__(self, genome: jax.Array) -> jax.Array:
        flat = jnp.asarray(self._flat, jnp.float32)
        return flat[self._entries(jnp.asarray(genome), jnp)].sum(-1)

    def exact(self, genome: np.ndarray) -> int:
        """The cost of one genome as a Python int."""
        return int(self._flat[self._entries(np.asarray(genome), np)].sum())


def _rows(supernet: Supernet, cost: Callable[[Any], int]) -> tuple[_Row, ...]:
    """The cost of every position over its genes and the resolution."""
    space = supernet.space
    resolution = (space.index("resolution"),) if "resolution" in space else ()
    rows = []
    for position in positions(supernet):
        genes = (*resolution, *position.genes)
        costs = []
        for genome in joint_choices(supernet, genes):
            arch = supernet.arch(genome)
            costs.append(cost(walk(supernet.blocks(arch), image_struct(arch))[position.name]))
        sizes = tuple(space.sizes[gene] for gene in genes)
        rows.append(_Row(position._replace(genes=genes, sizes=sizes), np.asarray(costs, np.int64)))
    return tuple(rows)


@functools.lru_cache(maxsize=16)
def table(supernet: Supernet) -> CostTable:
    """The MACs of every genome of a supernet, one image each."""
    return CostTable(len(supernet.space.genes), _rows(supernet, lambda traced: jaxpr_macs(traced.jaxpr.jaxpr)))


@functools.lru_cache(maxsize=16)
def params_table(supernet: Supernet) -> CostTable:
    """The params of every genome of a supernet."""
    return CostTable(len(supernet.space.genes), _rows(supernet, lambda traced: params(traced.variables)))
