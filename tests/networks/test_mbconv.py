"""The named networks against their published costs, and the shapes of the chain."""

import json

import jax
import jax.numpy as jnp
import pytest

from dynnas_jax.costs.macs import net_cost
from dynnas_jax.networks import NETWORKS, mbconv, network

# torchvision's mobilenet_v2 has 3,504,872 parameters; the published table has none for it.
NOT_IN_THE_TABLE = {"mobilenet_v2": 3_504_872}
FIXED = [name for name, loader in NETWORKS.items() if not loader.has_space]


@pytest.mark.parametrize("name", FIXED)
def test_published_costs(shared, name):
    rows = json.loads((shared / "docs/reference/published_costs.json").read_text())["fixed_networks"]
    row = next(row for row in rows if row["name"] == name)
    wanted = (row["macs"], row.get("params", NOT_IN_THE_TABLE.get(name)))
    found = net_cost(NETWORKS[name](), (224, 224, 3))
    assert found == wanted
    assert all(type(value) is int for value in found)


@pytest.mark.parametrize("size", [8, 9, 15, 16])
@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
def test_output_sizes_follow_the_convention(padding, size):
    """(h - 1) // stride + 1 under both paddings."""
    rows = (
        mbconv.BlockSpec(5, 8, 8, 2, "relu"),
        mbconv.BlockSpec(7, 8, 8, 1, "relu"),
        mbconv.BlockSpec(3, 8, 8, 2, "relu"),
    )
    arch = mbconv.Arch(size, 8, "relu", (("stage1", rows),), 16, "relu", 4, padding=padding)
    net, image = mbconv.Net(arch), jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
    (logits, endpoints), _ = jax.eval_shape(net.init_with_output, jax.random.key(0), image)
    assert logits.shape == (2, 4)
    expected = size
    for name, stride in (("stem", 2), ("stage1_block0", 2), ("stage1_block1", 1), ("stage1_block2", 2)):
        expected = (expected - 1) // stride + 1
        assert endpoints[name].shape[1:3] == (expected, expected), name
    assert set(endpoints) == {block.name for block in mbconv.counting_blocks(arch)}


@pytest.mark.parametrize(
    ("options", "message"), [({"padding": "VALID"}, "padding is 'VALID'"), ({"epsilon": 0.0}, "epsilon")]
)
def test_conventions_no_net_has(options, message):
    with pytest.raises(ValueError, match=message):
        mbconv.mobilenet_v2(**options)


def test_width_multiplier_and_classes():
    narrow = net_cost(NETWORKS["mobilenet_v2"](width=0.5, classes=10), (96, 96, 3))
    wide = net_cost(NETWORKS["mobilenet_v2"](width=1.0, classes=10), (96, 96, 3))
    assert narrow[0] < wide[0]
    more = net_cost(NETWORKS["mobilenet_v2"](width=1.0, classes=11), (96, 96, 3))
    assert (more[0] - wide[0], more[1] - wide[1]) == (1280, 1281)


def test_unknown_network_names_the_nearest():
    assert network("mobilenet_v2") is NETWORKS["mobilenet_v2"]
    with pytest.raises(
        ValueError, match=r"unknown network 'mobilnet_v2', did you mean 'mobilenet_v2'\?.*efficientnet_b0"
    ):
        network("mobilnet_v2")


def test_a_fixed_network_takes_no_arch_file():
    with pytest.raises(ValueError, match="mobilenet_v2 is one fixed network"):
        NETWORKS["mobilenet_v2"].from_arch_file({})
