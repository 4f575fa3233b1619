"""A published network with exits on its way: what it costs, and that its trunk is that network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.costs import macs
from dynnas_jax.elastic import init
from dynnas_jax.networks import NETWORKS, branchynet, exits

OPTIONS = {"resolution": 32, "classes": 10, "total_stride": 8, "width": 0.35}


@pytest.mark.parametrize("network", ["mobilenet_v3_small", "fbnet_a"])
def test_branches_stand_at_even_parts_and_are_all_that_is_added(network):
    net = branchynet.branchynet(network=network, exits=3, branch=16, **OPTIONS)
    trunk = NETWORKS[network](**OPTIONS)
    whole = macs.net_cost(trunk, (32, 32, 3))
    costs, added = exits.costs(net), 0
    segments = net.segments()
    for k, (segment, found) in enumerate(zip(segments, costs.macs, strict=True), 1):
        assert found >= k * whole[0] / 3
        block = segment.blocks[-1]
        assert found - added > whole[0] * (k - 1) / 3
        if k < 3:
            out = dict(trunk.arch.named_blocks())[block.name].out
            side = 32 // int(np.prod([s.stride for n, s in trunk.arch.named_blocks()][: _place(trunk, block.name)]))
            added += (side // trunk.arch.stem_stride) ** 2 * out * 16 + 16 * 10
    assert costs.macs[-1] == whole[0] + added


def _place(trunk, name):
    return [block for block, _ in trunk.arch.named_blocks()].index(name) + 1


def test_the_last_exit_answers_as_the_network_does():
    net = branchynet.branchynet(exits=2, branch=8, **OPTIONS)
    trunk = NETWORKS["mobilenet_v3_small"](**OPTIONS)
    variables = init(net, jax.random.key(0), (32, 32, 3))
    images = jax.random.randint(jax.random.key(1), (2, 32, 32, 3), 0, 256).astype(jnp.uint8)
    own = {
        collection: {("head" if name == "exit2" else name): leaves for name, leaves in tree.items() if name != "exit1"}
        for collection, tree in variables.items()
    }
    logits, endpoints = jax.jit(net.apply)(variables, images)
    np.testing.assert_array_equal(logits, jax.jit(trunk.apply)(own, images)[0])
    assert endpoints["exit1"].shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": "resnet"}, "network is 'resnet', choose from"),
        ({"exits": 1}, "exits is 1, choose from 2 to"),
        ({"exits": 12}, "give fewer"),
        ({"branch": 0}, "branch is 0, must be at least 1"),
    ],
)
def test_what_there_is_not(options, said):
    with pytest.raises(ValueError, match=said):
        branchynet.branchynet(**{**OPTIONS, **options})
