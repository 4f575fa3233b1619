"""One fixed network as a config names it, against the net built directly, and published nets of other widths and strides."""

import json

import jax
import numpy as np
import pytest

from dynnas_jax import elastic, settings
from dynnas_jax.costs.macs import net_cost
from dynnas_jax.networks import NETWORKS, fixed, mbconv, multi_supernet, ofa

FACTS = {"image_shape": [32, 32, 3], "classes": [""] * 10, "mean": [0.4] * 3, "std": [0.2] * 3}
MBCONV = [name for name, loader in NETWORKS.items() if not loader.has_space and not loader.family]


def strides(net):
    return [net.arch.stem_stride, *(spec.stride for _, spec in net.arch.named_blocks())]


@pytest.mark.parametrize("name", MBCONV)
def test_a_network_of_a_config_is_the_one_of_its_name(name):
    supernet = fixed.build({"name": name, "total_stride": 8}, FACTS)
    moments = {"mean": (0.4,) * 3, "std": (0.2,) * 3}
    direct = NETWORKS[name](resolution=32, classes=10, total_stride=8, **moments)
    assert supernet.arch(supernet.space.largest) == direct.arch
    assert supernet.space.size() == 1
    assert supernet.largest_net().depthwise == "shifts"  # the faster one on a CPU
    assert [block.name for block in supernet.blocks(direct.arch)] == [block.name for block in direct.chain()]


@pytest.mark.parametrize("name", MBCONV)
def test_a_total_stride_leaves_out_the_first_strides(name):
    whole = NETWORKS[name]()
    for total in (32, 16, 8, 4, 1):
        net = NETWORKS[name](total_stride=total)
        found, published = strides(net), strides(whole)
        assert np.prod(found) == total
        first = next((i for i, (a, b) in enumerate(zip(found, published, strict=True)) if a == b > 1), len(found))
        assert set(found[:first]) <= {1}
        assert found[first:] == published[first:]
        width = net.arch.stem_out
        for _, spec in net.arch.named_blocks():
            assert spec.shortcut == (spec.stride == 1 and spec.out == width)
            width = spec.out
    assert NETWORKS[name](total_stride=32) == whole
    with pytest.raises(ValueError, match=r"total_stride is 3, choose from \[1, 2, 4, 8, 16, 32\]"):
        NETWORKS[name](total_stride=3)


def test_a_block_that_loses_its_stride_computes_what_its_spec_says():
    net = NETWORKS["mobilenet_v3_small"](total_stride=8)
    _, first = next(net.arch.named_blocks())
    assert (first.stride, first.shortcut) == (1, True)  # 16 channels in and out
    traced = elastic.walk(net.clone(depthwise="conv").chain(), elastic.image_struct(net.arch))
    assert traced["stage1_block0"].output.shape == (1, 224, 224, 16)
    assert [traced[n].output.shape[1] for n, _ in net.arch.named_blocks()][-1] == 28


def test_narrow_nets_cost_what_is_published():
    """MobileNetV3 at width 0.75: 155 and 44 M MACs by its authors, 3.99 and 2.04 M params in timm."""
    for name, macs, params in (
        ("mobilenet_v3_large", 155e6, 3.99e6),
        ("mobilenet_v3_small", 44e6, 2.04e6),
    ):
        found = net_cost(NETWORKS[name](width=0.75), (224, 224, 3))
        assert found[0] == pytest.approx(macs, rel=0.015)
        assert found[1] == pytest.approx(params, rel=0.005)
    with pytest.raises(ValueError, match="width is 0, must be a number above 0"):
        NETWORKS["mobilenet_v3_small"](width=0)


def test_a_subnet_of_a_space_from_an_arch_file(tmp_path):
    space = {"stage_widths": (8, 16), "stage_strides": (1, 2), "depths": (1, 2), "kernels": (3, 5), "expands": (1, 2)}
    options = {**space, "classes": 10, "mean": (0.4,) * 3, "std": (0.2,) * 3}
    supernet = ofa.small_images(**options)
    genome = np.asarray(supernet.space.sample(jax.random.key(0)))
    content = supernet.arch.file(genome)
    file = tmp_path / "arch.json"
    file.write_text(json.dumps(content))
    for arch in (content, str(file)):
        found = fixed.build({"name": "small_images", "arch": arch, **space}, FACTS)
        assert found.arch(found.space.largest) == supernet.arch(genome)
    assert fixed.with_arch({"name": "x", "arch": str(file)}) == {"name": "x", "arch": content}
    with pytest.raises(ValueError, match="but network.arch reads 16 pixels"):
        fixed.build({"name": "small_images", "arch": {**content, "resolution": 16}, **space}, FACTS)


def test_the_width_of_an_arch_file_chooses_the_space_s():
    arch = {"resolution": 32, "width": 1.2, "kernel": [[3, 3]] * 5, "expand": [[3, 3]] * 5}
    found = fixed.build({"name": "ofa_mobilenet_v3", "arch": arch}, FACTS)
    assert found.largest_net().arch.head_conv == 1152


def test_a_family_takes_its_options():
    net = fixed.build({"name": "cifar_resnet", "depths": [1, 1, 1]}, FACTS).largest_net()
    assert net.arch.depths == (1, 1, 1)
    assert isinstance(net, mbconv.Net)


OF_A_SPACE = {
    **{"stem": 8, "stage_widths": (8, 16), "stage_strides": (1, 2), "head": 16, "depths": (1, 2), "kernels": (3, 5)},
    **{"expands": (2,), "widths": (1.0,), "act": "hswish", "squeeze_excite": True, "divisor": 4},
}


def test_a_net_of_several_exits_that_a_search_found_can_be_a_network_of_its_own(tmp_path):
    """The space's options beside the arch file that the search leaves, or in it."""
    moments = {"mean": (0.4,) * 3, "std": (0.2,) * 3}
    single = ofa.small_images(**OF_A_SPACE, classes=10, **moments)
    several = {"exits": 2, "ratios": (0.25, 1.0), "reuse": ("stage2_block0",)}
    supernet = multi_supernet.build(single, **several)
    genome = np.asarray(supernet.space.sample(jax.random.key(1)))
    found, wanted = json.loads(json.dumps(supernet.arch.file(genome))), supernet.arch(genome)
    exit_net = {"name": "multi_exit", "network": "small_images", **several, **OF_A_SPACE}
    file = tmp_path / "arch.json"
    file.write_text(json.dumps({name: value for name, value in exit_net.items() if name != "name"} | found))
    of_file = json.loads(file.read_text())
    lists = {name: found[name] for name in ("kernel", "ratio")}
    for section in (
        {**exit_net, **lists},
        {**exit_net, "arch": found},
        {"name": "multi_exit", "arch": str(file)},
        {"name": "multi_exit", "arch": of_file, "padding": "SAME"},
    ):
        settings.check_options("exit_network", section, fixed.parameters(section))
        assert fixed.build(section, FACTS).largest_net().arch == wanted
    mean = {"mean": [0.4] * 3, "std": [0.2] * 3}
    assert NETWORKS["multi_exit"].from_arch_file(of_file | mean).arch == wanted


@pytest.mark.parametrize("name", ["stem", "kernel_transforms"])
def test_options_that_a_net_of_several_exits_has_no_use_for(name):
    """Of the other space, or of none but a supernet's."""
    section = {"name": "multi_exit", name: 8, **({} if name == "stem" else {"network": "small_images"})}
    with pytest.raises(ValueError, match=f"unknown config key 'exit_network.{name}'"):
        settings.check_options("exit_network", section, fixed.parameters(section))
    content = {key: value for key, value in section.items() if key != "name"}
    with pytest.raises(ValueError, match=f"arch file: unknown key '{name}'"):
        NETWORKS["multi_exit"].from_arch_file(content)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "network.name is missing, choose from ofa_mobilenet_v3"),
        ({"name": "mobilenet_v4"}, "unknown network 'mobilenet_v4', did you mean"),
        ({"name": "small_images"}, "a space of many networks; give network.arch"),
        ({"name": "cifar_resnet", "arch": None}, "network.arch is None: give an arch file, or leave it out"),
        ({"name": "mobilenet_v2", "arch": {}}, "one fixed network; leave out network.arch"),
        ({"name": "small_images", "arch": "absent.json"}, "network.arch: cannot read absent.json"),
        ({"name": "mobilenet_v2", "width": "wide"}, "width is 'wide', must be a number"),
        ({"name": "mobilenet_v2", "depthwise": "fast"}, "depthwise is 'fast', choose from"),
    ],
)
def test_a_wrong_section_is_one_line(section, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        fixed.build(section, FACTS)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_section_tells_whether_there_are_several_exits():
    fixed.check({"name": "msdnet"}, several_exits=True)
    with pytest.raises(
        ValueError, match="network.name is 'msdnet', a network of several exits; call the section exit_network"
    ):
        fixed.check({"name": "msdnet"})
    with pytest.raises(
        ValueError, match="exit_network.name is 'fbnet_a', a network with a single answer; choose from msdnet"
    ):
        fixed.check({"name": "fbnet_a"}, several_exits=True)
