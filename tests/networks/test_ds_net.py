"""Dynamic slimmable networks: published costs, what their spaces refuse, and paths sliced out of the widest."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import elastic, masking
from dynnas_jax.costs import macs
from dynnas_jax.networks import chains, ds_net, ds_net_costs, gate, gated, slimmable_space
from dynnas_jax.networks.gate import GateSpec

FACTS = {"classes": 3, "resolution": 8, "channels": 1, "mean": (0.4,), "std": (0.3,)}
SMALL = {
    "two gates": (
        ds_net.ds_resnet_small,
        {"depths": (1, 2), "widths": (8, 16), "strides": (1, 2), "stem": 8, "groups": 4},
    ),
    "one gate": (ds_net.ds_mobilenet_small, {"stem": 8, "fixed": ((8, 1, 1),), "gated": ((16, 2, 2),)}),
}


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module", params=SMALL)
def small(request, noisy_variables):
    """(supernet, variables of a trained kind with statistics of every path, uint8[12, 8, 8, 1])."""
    build, options = SMALL[request.param]
    supernet = build(**FACTS, **options)
    variables = {"batch_stats": {}, **noisy_variables(supernet.largest_net(), (8, 8, 1))}
    stats = variables["batch_stats"]
    variables[gated.PATHS] = jax.tree.map(lambda leaf: np.stack([leaf * (1 + 0.1 * path) for path in range(4)]), stats)
    for name in supernet.arch.segments[0].blocks:
        if name in stats:
            variables[gated.PATHS][name] = jax.tree.map(lambda leaf: np.stack([leaf] * 4), stats[name])
    images = np.random.default_rng(1).integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)
    return supernet, variables, images


def test_the_paths_of_mobilenet_cost_what_the_published_code_counts(published):
    supernet = ds_net.ds_mobilenet_v1()
    found = [ds_net_costs.macs_as_published(supernet, np.asarray([path], np.int32)) for path in range(14)]
    assert [int(count / 1e6 + 0.5) for count in found] == published["ds_net"]["ds_mobilenet_v1_M"]


@pytest.mark.parametrize(
    ("name", "options", "least", "most"),
    [
        ("ds_resnet50", {}, 381, 4097),
        ("ds_mobilenet_v1", {}, 132, 564),
        ("ds_mobilenet_v1", {"paths": 18}, 116, 584),
        ("ds_efficientnet_b0", {}, 183, 680),
    ],
)
def test_the_ends_cost_what_the_documentation_says(name, options, least, most):
    """Of the nets themselves, not of the tables of a space; and the arch file that means each."""
    supernet = getattr(ds_net, name)(**options)
    page = (Path(__file__).parents[2] / "docs" / "slimmable.md").read_text()
    for genome, million in ((supernet.space.smallest, least), (supernet.space.largest, most)):
        net = ds_net.net_from_arch_file(getattr(ds_net, name), supernet.arch.file(genome), **options)
        assert net.arch == supernet.arch(genome)
        assert round(chains.cost(net)[0] / 1e6) == million
        said = f"{million / 1e3:.1f} G" if million >= 1000 else f"{million} "
        assert said in next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))


@pytest.mark.parametrize("ratios", [[0.3], [0.5, 0.5], [], 0.5, None])
def test_arch_files_of_no_path(ratios):
    supernet = ds_net.ds_mobilenet_small(**FACTS)
    assert supernet.arch.from_file({"ratios": [0.5]}) == supernet.arch(np.asarray([1], np.int32))
    with pytest.raises(ValueError, match="arch file: "):
        supernet.arch.from_file({"ratios": ratios})
    with pytest.raises(ValueError, match="arch file: give"):
        supernet.arch.from_file({"ratios": [0.5], "width": 1})


def test_the_paths_that_networks_have():
    assert ds_net.ds_resnet50().space.size() == 256
    assert ds_net.ds_mobilenet_v1(paths=18).space.size() == 18
    supernet = ds_net.ds_efficientnet_b0()
    blocks = [spec for _, spec in supernet.arch(supernet.space.largest).blocks]
    assert [spec.out for spec in blocks if spec.part != "front"][:13:4] == [8, 24, 200, 340]
    assert supernet.space.genes[0].choices == tuple(np.arange(75, 176, 5) / 100)
    for spec in supernet.arch.template.links:
        steps = np.diff(spec.out.choices)
        assert (steps == steps[:1]).all(), "neighbouring widths lie equally far apart"
        if spec.out.gene:
            published = spec.out.choices[10] / 1.25
            wanted = np.asarray(supernet.space.genes[0].choices) * published
            np.testing.assert_allclose(spec.out.choices, wanted, atol=0.04 * published)


def test_resnet50_costs_at_full_width_what_the_plain_one_does_beside_its_gates():
    supernet = ds_net.ds_resnet50()
    net = supernet.net(supernet.arch(supernet.space.largest))
    count = chains.cost(net)[0]
    gates = sum(2 * spec.gate.hidden * inputs for inputs, spec in gate_inputs(supernet))
    heads = sum(spec.gate.hidden * (inputs + 4) for inputs, spec in gate_inputs(supernet) if spec.gate.choices)
    assert count - gates - heads == 4_089_184_256, "of a ResNet-50, as published"


def gate_inputs(supernet):
    arch = supernet.arch(supernet.space.largest)
    before = arch.stem_out
    for _, spec in arch.blocks:
        yield before, spec
        before = spec.out


@pytest.mark.parametrize("genome", [0, 1, 2, 3])
def test_a_path_sliced_is_the_path_masked(small, genome):
    supernet, variables, images = small
    path = np.asarray([genome, 3 - genome][: len(supernet.space.genes)], np.int32)
    net, own = gated.path(supernet, variables, path)
    masked = masking.mask_variables(supernet, gated.with_statistics(variables, genome), jnp.asarray(path))
    both = (jax.jit(n.apply)(v, images)[0] for n, v in ((net, own), (supernet.masked_net(), masked)))
    np.testing.assert_allclose(*both, atol=2e-6)
    counted = macs.table(supernet).exact(path)
    assert counted == chains.cost(net)[0]
    assert macs.params(own) == chains.cost(net)[1]


def test_a_gate_scales_by_its_attention_and_scores_from_the_same_layer(noisy_variables):
    """Against the equations in float64."""
    spec = GateSpec(hidden=3, choices=4)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 4, 4, 6)).astype(np.float32)
    module = gate.Gate(spec)
    params = module.init(jax.random.key(0), x)["params"]
    assert not np.asarray(params["attend_conv"]["kernel"]).any(), "zero-initialised"
    np.testing.assert_array_equal(module.apply({"params": params}, x), x)
    params = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), params)
    w = {name: (np.float64(p["kernel"])[0, 0], np.float64(p["bias"])) for name, p in params.items()}
    hidden = np.maximum(np.float64(x).mean((1, 2)) @ w["reduce_conv"][0] + w["reduce_conv"][1], 0)
    attention = 1 + np.tanh(hidden @ w["attend_conv"][0] + w["attend_conv"][1])
    np.testing.assert_allclose(module.apply({"params": params}, x), x * attention[:, None, None], rtol=1e-4, atol=1e-5)
    expected = hidden @ w["choose_conv"][0] + w["choose_conv"][1]
    np.testing.assert_allclose(gate.scores(spec, params, x), expected, rtol=1e-4, atol=1e-5)


def test_the_other_gates(noisy_variables):
    x = np.ones((2, 4, 4, 6), np.float32)
    apart = gate.Gate(GateSpec(3, 4, shared=False)).init(jax.random.key(0), x)["params"]
    assert set(gate.trained({"b": {gate.NAME: apart}})["b"]) == {"choose_conv", "choose_reduce_conv"}
    spec = GateSpec(3, 4, head="scalar")
    params = gate.Gate(spec).init(jax.random.key(0), x)["params"]
    for place, best in ((-9.0, 0), (0.2, 2), (9.0, 3)):  # sigmoid(0.2) x 3 = 1.65
        params["choose_conv"] = {"kernel": np.zeros((1, 1, 3, 1), np.float32), "bias": np.asarray([place], np.float32)}
        assert gate.scores(spec, params, x).argmax(-1).tolist() == [best] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": ()}, r"ratios is \(\), must be at least two finite numbers above 0"),
        ({"ratios": (0.5, float("inf"))}, "must be at least two finite numbers above 0"),
        ({"ratios": (0.5, float("nan"))}, "must be at least two finite numbers above 0"),
        ({"ratios": (0.5, 0.25)}, "must ascend without repeats"),
        ({"ratios": (0.3, 1.0)}, "ratio 0.3 of the 32 channels of stage 1 is 9.6, which is not groups of 4 channels"),
        ({"groups": 3}, "groups is 3, which the 16 channels of the stem do not divide into"),
        ({"gate_head": "two"}, "gate_head is 'two', choose from"),
        ({"gate_shared": "no"}, "gate_shared is 'no', must be True or False"),
        ({"gate_units": 0}, "gate_units is 0, must be at least 1 and whole"),
        ({"gate_units": 2.5}, "gate_units is 2.5, must be at least 1 and whole"),
        ({"depths": (1, 0, 1)}, r"depths is \(1, 0, 1\), must be at least 1 and whole"),
        ({"depths": ()}, r"depths is \(\), must be at least 1 and whole"),
        ({"strides": (1, 2, 0)}, r"strides is \(1, 2, 0\), must be at least 1 and whole"),
    ],
)
def test_what_there_is_no_network_of(options, message):
    with pytest.raises(ValueError, match=message):
        ds_net.ds_resnet_small(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gated": ()}, "gated is empty"),
        ({"gated": ((64, 0, 1),)}, r"gated is \(64, 0, 1\), must be at least 1 and whole"),
        ({"gated": ((64, 1),)}, r"gated is \(\(64, 1\),\), must be stages of \(channels, blocks, stride\)"),
        ({"gated": (64, 1, 2)}, "must be stages of"),
        ({"fixed": ((16, -1, 1),)}, r"fixed is \(16, -1, 1\), must be at least 1 and whole"),
        ({"gate_units": -4, "stem": 2}, "gate_units is -4, must be at least 1 and whole"),
        ({"stem": 0}, "stem is 0, must be at least 1 and whole"),
    ],
)
def test_what_there_is_no_network_of_one_gate_of(options, message):
    with pytest.raises(ValueError, match=message):
        ds_net.ds_mobilenet_small(**options)


@pytest.mark.parametrize("name", ["ds_resnet50", "ds_mobilenet_v1", "ds_efficientnet_b0", "ds_resnet_small"])
def test_every_network_takes_an_activation(name):
    supernet = getattr(ds_net, name)(act="relu6")
    assert supernet.arch(supernet.space.largest).act == "relu6"


def test_other_networks_that_there_are_none_of():
    with pytest.raises(ValueError, match=r"depths is \(3, 4, 6, 0\), must be at least 1 and whole"):
        ds_net.ds_resnet50(depths=(3, 4, 6, 0))
    for build in (ds_net.ds_mobilenet_v1, ds_net.ds_efficientnet_b0):
        with pytest.raises(ValueError, match="gate_shared is 1, must be True or False"):
            build(gate_shared=1)
    template = ds_net.ds_mobilenet_small(fixed=()).arch.template
    with pytest.raises(ValueError, match="gate.ratio is decided by 0 gates, must be by one"):
        slimmable_space.build(replace(template, links=template.links[-1:]))


def test_widths_start_where_the_variables_of_a_wider_path_do(small):
    supernet, variables, _ = small
    narrow, wide = (
        gated.path(supernet, variables, end)[1] for end in (supernet.space.smallest, supernet.space.largest)
    )
    for few, many in zip(jax.tree.leaves(narrow["params"]), jax.tree.leaves(wide["params"]), strict=True):
        np.testing.assert_array_equal(few, many[tuple(slice(n) for n in few.shape)])


def test_fresh_variables_leave_residual_branches_out():
    supernet = ds_net.ds_resnet_small(**FACTS, depths=(1,), widths=(8,), strides=(1,), stem=8, groups=4)
    variables = elastic.init(supernet.largest_net(), jax.random.key(0), (8, 8, 1))
    assert not np.asarray(variables["params"]["stage1_block0"]["conv1_norm"]["scale"]).any()
    assert variables["batch_stats"] == {}
