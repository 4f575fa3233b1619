"""A supernet whose little and big subnets are trained as pairs: a second head for little, and a router beside it.

What it adds stands in the variables under `PLACE`: {"head": little's own, "router": {...}}. Everything else is shared.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dynnas_jax.elastic import Coupling, Supernet
from dynnas_jax.networks.blocks import kernel_init

PLACE = "coupling"
HEAD = "head"  # the block of which little has its own
ROUTER_UNITS = 16  # of its hidden layer
_ALIKE = ((PLACE, "router", "hidden", "kernel"), 0), ((HEAD, "conv", "kernel"), 2)


def coupled(supernet: Supernet, *, router_units: int = ROUTER_UNITS) -> Supernet:
    """The supernet with a head of little's own and a learned router. Same space; its largest net is big's.

    The router is a multilayer perceptron with one hidden layer on what little's head reads, averaged over the pixels.

    Raises:
      ValueError: for a router without units.
    """
    if router_units < 1:
        raise ValueError(f"supernet: router_units is {router_units}, must be at least 1")
    return supernet._replace(coupling=Coupling(functools.partial(_add, router_units), as_little, route, _ALIKE))


def _add(units: int, variables: dict, others: dict, key: jax.Array) -> dict:
    """Little's head is that of other variables, so that the two heads begin apart. The router begins undecided."""
    channels = variables["params"][HEAD]["conv"]["kernel"].shape[-2]
    router = {
        "hidden": {"kernel": kernel_init(key, (channels, units)), "bias": jnp.zeros(units, jnp.float32)},
        "out": {"kernel": jnp.zeros((units, 1), jnp.float32), "bias": jnp.zeros(1, jnp.float32)},
    }
    params = {**variables["params"], PLACE: {HEAD: others["params"][HEAD], "router": router}}
    stats = {**variables["batch_stats"], PLACE: {HEAD: others["batch_stats"][HEAD]}}
    return {"params": params, "batch_stats": stats}


def as_little(variables: dict) -> dict:
    """The same variables with little's head in the place of big's: any subnet of them is a little one."""
    return {name: {**tree, HEAD: tree[PLACE][HEAD]} for name, tree in variables.items()}


def route(variables: dict, endpoint: jax.Array) -> jax.Array:
    """logits[b]: above 0 where little shall answer.

    Args:
      endpoint: what little's head reads, [b, h, w, c]; a sliced little has the leading channels only.
    """
    return decide(variables["params"][PLACE]["router"], endpoint.astype(jnp.float32).mean(axis=(1, 2)))


def decide(router: dict, features: jax.Array) -> jax.Array:
    """logits[b] of a multilayer perceptron {"hidden", "out"} on features[b, c], the leading ones of those that it knows."""
    hidden = features @ router["hidden"]["kernel"][: features.shape[-1]] + router["hidden"]["bias"][None]
    return (jax.nn.relu(hidden) @ router["out"]["kernel"] + router["out"]["bias"][None])[:, 0]


def own_router(variables: dict, channels: int) -> dict:
    """The router of a little net whose head reads so many channels, from the supernet's variables."""
    router = variables["params"][PLACE]["router"]
    kernel = router["hidden"]["kernel"][:channels]
    return {**router, "hidden": {**router["hidden"], "kernel": kernel}}
