"""The double-headed gate of a dynamic slimmable network (Li et al. 2021, arXiv 2103.13258, equations 6 to 9).

The mean over the pixels goes through one dense layer, whose input is sliced with the channels it reads; from there an attention
head scales the channels, and a slimming head says how wide what follows shall be.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from dynnas_jax.networks import blocks as layers

NAME = "gate"  # of the module in a block's variables; its kernels do not decay
SLIMMING = "choose"  # how the names of the slimming head's own layers begin: all that stage II trains
HEADS = ("one_hot", "scalar")


@dataclass(frozen=True)
class GateSpec:
    """One gate."""

    hidden: int  # units of the dense layer
    choices: int = 0  # widths that the slimming head picks from; 0: attention alone
    head: str = HEADS[0]
    shared: bool = True  # whether both heads read one dense layer


class Gate(nn.Module):
    """Called as gate(x[b, h, w, c]) -> x scaled by 1 + tanh(.); `scores` are those of the widths. All layers are 1x1."""

    spec: GateSpec

    def setup(self):
        spec = self.spec
        self.reduce_conv = _dense(spec.hidden)
        if spec.choices:
            if not spec.shared:
                self.choose_reduce_conv = _dense(spec.hidden)
            self.choose_conv = _dense(1 if spec.head == "scalar" else spec.choices, nn.initializers.normal(0.01))

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.spec.choices and self.is_initializing():
            self.scores(x)
        hidden = nn.relu(self.reduce_conv(layers.global_average(x)))
        attend = nn.Conv(x.shape[-1], (1, 1), kernel_init=nn.initializers.zeros, dtype=x.dtype, name="attend_conv")
        return x * (1 + jnp.tanh(attend(hidden)))

    def scores(self, x: jax.Array) -> jax.Array:
        """float32[b, choices]: the larger, the rather that width; what chance they mean is their softmax."""
        spec = self.spec
        reduce = self.reduce_conv if spec.shared else self.choose_reduce_conv
        told = self.choose_conv(nn.relu(reduce(layers.global_average(x))))
        told = told.reshape(len(x), -1).astype(layers.wide(x.dtype))
        if spec.head != "scalar":
            return told
        # One number in (0, 1) over the widths in order; the nearest has the highest score.
        place = jax.nn.sigmoid(told) * (spec.choices - 1)
        return -jnp.square(place - jnp.arange(spec.choices, dtype=told.dtype)[None])


def _dense(features: int, initial=layers.kernel_init) -> nn.Conv:
    return nn.Conv(features, (1, 1), kernel_init=initial)


def scores(spec: GateSpec, params: dict, x: jax.Array) -> jax.Array:
    """float32[b, choices] that a gate with these params gives for the features x[b, h, w, c] in front of it."""
    return Gate(spec).apply({"params": params}, x, method="scores")


def trained(params: dict) -> dict:
    """{block: {layer: ...}}: the slimming heads' own layers among a net's params."""
    found = {}
    for block, leaves in params.items():
        own = {name: leaf for name, leaf in leaves.get(NAME, {}).items() if name.startswith(SLIMMING)}
        if own:
            found[block] = own
    return found


def read_by_heads(params: dict) -> dict:
    """{block: {layer: ...}}: what the slimming heads read and the attention heads too; {} where they have layers of their own."""
    alike = {block for block, own in trained(params).items() if "choose_reduce_conv" not in own}
    return {block: {"reduce_conv": params[block][NAME]["reduce_conv"]} for block in params if block in alike}


def with_trained(params: dict, heads: dict) -> dict:
    """The net's params with these slimming heads, as `trained` gives them."""
    changed = {block: {**params[block], NAME: {**params[block][NAME], **own}} for block, own in heads.items()}
    return {**params, **changed}


def tilted(heads: dict, tilts: dict[str, jax.Array]) -> dict:
    """Slimming heads with tilts[block] float[choices] added to their scores, the more the dearer a choice.

    A scalar head has one number, which moves as far as its last choice's score would.
    """

    def moved(block: str, own: dict) -> dict:
        last, tilt = own["choose_conv"], tilts[block]
        return {**own, "choose_conv": {**last, "bias": last["bias"] + (tilt if len(last["bias"]) > 1 else tilt[-1:])}}

    return {block: moved(block, own) for block, own in heads.items()}
