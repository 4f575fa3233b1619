"""FBNet against the costs its authors publish, and against the graphs they released."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dynnas_jax.costs.macs import net_cost
from dynnas_jax.networks import NETWORKS

NETS = json.loads((Path(__file__).parents[1] / "published_costs.json").read_text())["fbnet"]["nets"]
RELEASES = {row["release"]: row for row in NETS}
# The paper's 375 M MACs of C and 4.5 M params of B are those of no release: these have 383.0 M and 4.8 M.
PAPER_DIFFERS = {("FBNet-B", "params"), ("FBNet-C", "macs")}


def costs(row):
    """(MACs, params with every norm folded into a bias), as the released graphs have them."""
    net = NETWORKS[row["network"]](**row["options"])
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    scales = sum(math.prod(leaf.shape) for path, leaf in leaves if path[-1].key == "scale")
    macs, params = net_cost(net, (224, 224, 3))
    return macs, params - scales


@pytest.mark.parametrize("release", RELEASES)
def test_costs_of_the_release(release):
    row = RELEASES[release]
    macs, params = costs(row)
    assert (macs, params) == (row["macs"], row["weights_and_biases"])
    assert round(macs / 1e6, 1) == row["published_macs_M"]
    assert round(params / 1e6, 1) == row["published_params_M"]


@pytest.mark.parametrize("release", [release for release, row in RELEASES.items() if "paper_macs_M" in row])
def test_costs_of_the_paper(release):
    """The paper cuts its MACs off (295.6 is its 295)."""
    row = RELEASES[release]
    macs, params = costs(row)
    assert (int(macs / 1e6) == row["paper_macs_M"]) is ((release, "macs") not in PAPER_DIFFERS)
    assert (round(params / 1e6, 1) == row["paper_params_M"]) is ((release, "params") not in PAPER_DIFFERS)


def test_blocks_of_two_groups():
    """Of A alone, three blocks: half the weights of a pointwise convolution, and no shortcut lost."""
    grouped = [spec for _, specs in NETWORKS["fbnet_a"]().arch.stages for spec in specs if spec.groups > 1]
    assert [(spec.hidden, spec.groups, spec.shortcut) for spec in grouped] == [(64, 2, True)] + [(112, 2, True)] * 2
    others = [NETWORKS[name]().arch for name in ("fbnet_b", "fbnet_c")]
    assert all(spec.groups == 1 for arch in others for _, specs in arch.stages for spec in specs)


@pytest.mark.parametrize("name", ["fbnet_a", "fbnet_b", "fbnet_c"])
def test_a_narrow_net_has_the_blocks_of_the_published_one(name):
    narrow, published = (NETWORKS[name](**options).arch for options in ({"width": 0.5}, {}))
    assert (narrow.stem_out, narrow.head_conv) == (8, 752 if name == "fbnet_a" else 992)
    for (_, mine), (_, theirs) in zip(narrow.stages, published.stages, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            fields = ("kernel", "stride", "groups", "depthwise", "shortcut", "act")
            assert [getattr(one, field) for field in fields] == [getattr(other, field) for field in fields]
            # Rounded to whole eights, never by more than a tenth downwards.
            assert 0.9 * other.out / 2 <= one.out <= other.out / 2 + 4
    half, whole = (net_cost(NETWORKS[name](width=width), (224, 224, 3))[0] for width in (0.5, 1.0))
    assert 0.2 < half / whole < 0.35


def test_a_width_that_is_none():
    with pytest.raises(ValueError, match="width is 0, must be a number above 0"):
        NETWORKS["fbnet_a"](width=0)
