"""Convolutions and MBConv blocks in parts: what each exit of a net computes of a layer, reusing what those before it left.

After ENAS4D (Yuan et al. 2020, arXiv 2009.09182). The channels of a layer are dealt out to the exits, group after group. What an
exit computes with its group hangs on what came before it, never on what comes after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynnas_jax.networks import blocks as layers
from dynnas_jax.networks.mbconv import BlockSpec, Numerics, Stem

KINDS = ("independent", "input", "output")
REUSE = "reuse_conv"  # the weights of an expansion for the maps of earlier exits


class Staged(NamedTuple):
    """What an exit's part of a convolution gives."""

    output: jax.Array | None
    left: jax.Array | None  # for the next exit's part


def joined(left: jax.Array | None, own: jax.Array, start: int) -> jax.Array:
    """The channels before `start`, which earlier exits left, and an exit's own behind them: [b, h, w, start + own].

    Where both have all channels, zeros but for each one's own, their sum.
    """
    if left is None:
        return own
    return jnp.concatenate([left, own], -1) if left.shape[-1] == start else left + own


def convolution(
    kind: str, convolve: Callable | None, x: jax.Array | None, left: jax.Array | None, start: int = 0
) -> Staged:
    """One exit's part of a multi-stage convolution: its group of channels, with what the exits before it left.

    Over all exits the kernel is block-diagonal ("independent": y_s = W_ss x_s), block lower-triangular ("input" reuse:
    y_s = sum over k <= s of W_ks x_k), or a column of blocks whose sums grow ("output" reuse: y_s = W_s x_s + y_{s-1}).

    Args:
      convolve: the exit's own convolution; None for an exit that adds nothing ("output"), whose answer is that before it.
      x: float[b, h, w, c_s], the exit's own input.
      left: of the exit before: None in front of the first and for "independent".
      start: channels of the inputs before the exit's own ("input").

    Raises:
      ValueError: for an unknown kind.
    """
    if kind == "independent":
        return Staged(convolve(x), None)
    if kind == "input":
        inputs = joined(left, x, start)
        return Staged(convolve(inputs), inputs)
    if kind != "output":
        raise ValueError(f"a multi-stage convolution is {kind!r}, choose from {list(KINDS)}")
    total = left if convolve is None else convolve(x) if left is None else left + convolve(x)
    return Staged(total, total)


class Left(NamedTuple):
    """What an exit leaves of a block to the exits behind it; None where there is no such layer."""

    sums: jax.Array | None  # of the projection, [b, h, w, out], before the norm; None where no exit has computed it yet
    pooled: jax.Array | None = None  # means of the hidden channels so far, [b, 1, 1, channels], for squeeze-excite
    inputs: tuple[
        jax.Array, ...
    ] = ()  # the maps in front of the block of all exits so far, where its inputs are reused


class StemPart(Stem):
    """What one exit computes of the stem, from the images, behind the channels of the exits before: independent groups."""

    @nn.compact
    def __call__(self, read: tuple[jax.Array, jax.Array | None], train: bool = False) -> jax.Array:
        images, left = read
        own = convolution("independent", lambda x: super(StemPart, self).__call__(x, train), images, None).output
        return joined(left, own, 0 if left is None else left.shape[-1])


class SqueezeExcite(nn.Module):
    """Channel attention for one exit's group, looking at all hidden channels so far: an input reuse of their means.

    Names and arithmetic are those of `blocks.SqueezeExcite`, which it equals for the first exit.
    """

    hidden: int
    act: str
    gate: str
    form: str
    start: int

    @nn.compact
    def __call__(self, x: jax.Array, pooled: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        reduce = layers.Pointwise(self.hidden, self.form, bias=True, name="reduce_conv")
        hidden, pooled = convolution("input", reduce, layers.global_average(x), pooled, self.start)
        expand = layers.Pointwise(x.shape[-1], self.form, bias=True, name="expand_conv")
        return x * layers.GATES[self.gate](expand(layers.ACTIVATIONS[self.act](hidden))), pooled


class MBConvPart(nn.Module):
    """What one exit computes of an MBConv block: the hidden channels from `start` to `spec.hidden`, and the sum with them.

    Expansion and depthwise convolution are independent, the projection is an output reuse with a norm of the exit's own, and the
    shortcut adds the exit's own input. With `reuse` the expansion reads the inputs of the exits before too, by weights that begin
    as zeros. Names and arithmetic are those of `mbconv.MBConv`, which it equals for the first exit.

    `held`: the weights of an input reuse are among the variables, those for all channels, though the exit computes none of them.
    """

    spec: BlockSpec
    start: int
    reuse: bool
    held: bool
    se_act: str
    se_gate: str
    numerics: Numerics

    @nn.compact
    def __call__(self, read: tuple[jax.Array, Left | None], train: bool = False) -> tuple[jax.Array, Left]:
        (x, left), spec, numerics = read, self.spec, self.numerics
        sums, pooled, before = left or Left(None)
        y = project = None
        if self.held and before:
            Held(sum(maps.shape[-1] for maps in before), spec.hidden, name=REUSE)()
        if spec.hidden > self.start:
            y = self._expanded(x, before, train)
            depthwise = layers.Depthwise(
                spec.kernel, spec.stride, numerics.depthwise, numerics.padding, name="depthwise_conv"
            )
            y = convolution("independent", depthwise, y, None).output
            y = layers.ACTIVATIONS[spec.act](numerics.norm(train, "depthwise_norm")(numerics.kept(y)))
            if spec.se:
                attend = SqueezeExcite(spec.se, self.se_act, self.se_gate, numerics.depthwise, self.start, name="se")
                y, pooled = attend(y, pooled)
            project = layers.Pointwise(spec.out, numerics.depthwise, name="project_conv")
        sums = convolution("output", project, y, sums).left
        z = numerics.norm(train, "project_norm")(numerics.kept(sums))
        left = Left(sums, pooled, (*before, x) if self.reuse else ())
        return (_widened(x, spec.out) + z if spec.shortcut else z), left

    def _expanded(self, x: jax.Array, before: tuple[jax.Array, ...], train: bool) -> jax.Array:
        """The exit's own hidden channels, of its maps and those of the exits before."""
        spec, numerics = self.spec, self.numerics
        if not spec.expand:
            return x[..., self.start : spec.hidden]
        own = spec.hidden - self.start
        expand = layers.Pointwise(own, numerics.depthwise, name="expand_conv")
        if before:
            left = jnp.concatenate(before, -1)
            start = left.shape[-1]
            both = lambda maps: expand(maps[..., start:]) + self._reused(own, maps[..., :start])  # noqa: E731
            y = convolution("input", both, x, left, start).output
        else:
            y = convolution("independent", expand, x, None).output
        return layers.ACTIVATIONS[spec.act](numerics.norm(train, "expand_norm")(numerics.kept(y)))

    def _reused(self, channels: int, before: jax.Array) -> jax.Array:
        """What the maps of the exits before add to an expansion."""
        form, zeros = self.numerics.depthwise, nn.initializers.zeros
        return layers.Pointwise(channels, form, begins=zeros, name=REUSE)(before)


class Held(nn.Module):
    """The weights of a reuse with which nothing is computed: of the shape and at the place of a `Pointwise`'s."""

    inputs: int
    features: int

    @nn.compact
    def __call__(self) -> None:
        self.param("kernel", nn.initializers.zeros, (1, 1, self.inputs, self.features), jnp.float32)


def _widened(x: jax.Array, channels: int) -> jax.Array:
    """[b, h, w, c] with zeros for the channels of a stem that later exits compute."""
    missing = channels - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing))) if missing else x
