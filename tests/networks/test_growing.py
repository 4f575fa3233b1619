"""What the stage-wise paper prints of its nets, counted anew; weights taken stage by stage against those of the source."""

import jax
import numpy as np
import pytest

from dynnas_jax.networks import growing
from dynnas_jax.networks.cifar_resnet import bottleneck_resnet, cifar_resnet
from dynnas_jax.networks.nasnet import nasnet

FACTS = {"image_shape": [8, 8, 3], "classes": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.2] * 3}
RESIDUAL = {"name": "cifar_resnet", "widths": (4, 8, 8), "shortcut": "projection"}
CELLS = {"name": "nasnet", "filters": 2, "stem": 4}

# Table I and III: depth, params in M, MACs in M, memory in MiB, all cut off after the digits that are printed. Of uniform nets
# the depth is in their names; where the paper has no modules, they are the only ones that have what it prints.
PRINTED = [
    ((7, 7, 7), None, 0.66, 97, 8.14),
    ((9, 9, 9), None, 0.86, 125, 10.42),
    ((18, 18, 18), None, 1.7, 253, 20.67),
    ((2, 4, 4), 23, 0.36, 45, 3.81),
    ((6, 8, 6), 43, 0.60, 92, 7.58),
    ((10, 10, 10), 63, 0.95, 139, 11.56),
    ((10, 10, 12), 67, 1.1, 149, 12.34),  # table I, from 10 blocks
    ((6, 6, 6), 39, 0.56, 83, 7.00),  # weight transfer, iteration 1
    ((6, 8, 10), 51, 0.90, 111, 9.16),  # iteration 3
    ((6, 10, 14), None, 1.23, 139, 11.31),  # iteration 5, where the paper has a depth of 59
]


def cut(value, digits):
    return int(value * 10**digits) / 10**digits


@pytest.mark.parametrize(("depths", "depth", "params", "macs", "memory"), PRINTED)
def test_what_the_paper_prints_of_residual_nets(depths, depth, params, macs, memory):
    found = growing.costs("cifar_resnet", cifar_resnet(depths=depths, shortcut="projection"))
    assert depth in (None, found.depth)
    assert found.macs // 10**6 == macs
    assert cut(found.params_with_statistics / 1e6, 1 if params == 1.7 else 2) == params
    # Its projections have no norm: two of them, 32 channels of 16x16 and 64 of 8x8 pixels.
    norms = 4 * (32 * 16**2 + 64 * 8**2) + 4 * 4 * (32 + 64)
    assert cut((found.memory_bytes - norms) / 2**20, 2) == memory


def test_what_of_the_paper_s_cannot_be_met():
    """MACs tell the depth, as a block of each stage has as many; of depth 59 no net has 139 M."""
    for depths in ((8, 10, 10), (14, 6, 8)):
        found = growing.costs("cifar_resnet", cifar_resnet(depths=depths, shortcut="projection"))
        assert (found.depth, found.macs // 10**6) == (59, 130)
    assert growing.costs("cifar_resnet", cifar_resnet(depths=(6, 10, 14), shortcut="projection")).depth == 63


def test_depth_as_the_paper_counts_it():
    """ResNet39 has six blocks a stage; NASNet241, 205 and 169 six, five and four cells; its own have 7, 9 and 13 in all."""
    assert growing.costs("cifar_resnet", cifar_resnet(depths=(6, 6, 6))).depth == 39
    for cells, depth in (((6, 6, 6), 241), ((5, 5, 5), 205), ((4, 4, 4), 169), ((2, 3, 2), 109), ((4, 5, 4), 181)):
        each, rest = growing.family("nasnet").layers
        assert each * sum(cells) + rest == depth


@pytest.mark.parametrize("growth", [RESIDUAL, CELLS], ids=lambda section: section["name"])
def test_stages_end_with_their_last_module(growth):
    net = growing.built(growth, (1, 2, 1), FACTS).largest_net()
    assert growing.depths(net) == (1, 2, 1)
    ends = growing.stage_ends(net)
    word = "block" if growth is RESIDUAL else "cell"
    assert ends == (f"stage1_{word}0", f"stage2_{word}1", f"stage3_{word}0")
    shapes = growing.stage_shapes(net)
    assert [shape[:2] for shape in shapes] == [(8, 8), (4, 4), (2, 2)]
    assert [shape[2] for shape in shapes] == ([4, 8, 8] if growth is RESIDUAL else [12, 24, 48])


def test_four_stages_of_bottlenecks():
    net = bottleneck_resnet(depths=(1, 1, 1, 1), resolution=64)
    assert growing.stage_ends(net)[-1] == "stage4_block0"
    assert growing.uniform({"name": "bottleneck_resnet"}, 2) == (2, 2, 2, 2)
    assert growing.uniform({**RESIDUAL, "widths": (4, 8)}, 3) == (3, 3)


def test_nothing_to_begin_with_is_not_the_paper_s_depth():
    assert growing.initial({"growth": RESIDUAL}) == (6, 6, 6)
    assert growing.initial({"growth": RESIDUAL, "grow": {"initial_modules": None}}) == (6, 6, 6)
    assert growing.initial({"growth": RESIDUAL, "grow": {"initial_modules": 0}}) == (0, 0, 0)


def test_a_cell_s_features_are_what_it_puts_out(noisy_variables):
    net = nasnet(cells=(1,), filters=2, stem=4, resolution=4)
    variables = noisy_variables(net, (4, 4, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)

    def both(v, x):
        return growing.stage_maps(net)(v, x), net.apply(v, x)[1]

    maps, ends = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(variables, images)
    np.testing.assert_array_equal(maps[0], ends["stage1_cell0"].last)
    assert len(maps) == 1


@pytest.mark.parametrize("growth", [RESIDUAL, CELLS], ids=lambda section: section["name"])
def test_modules_take_the_first_weights_of_each_stage(growth, noisy_variables):
    stages = ((2, 3, 2), (2, 2, 1)) if growth is RESIDUAL else ((3, 3), (2, 2))
    deep, shallow = (growing.built(growth, depths, FACTS).largest_net() for depths in stages)
    source = noisy_variables(deep, (8, 8, 3))
    found = growing.transferred(source, shallow)
    for kind, blocks in found.items():
        for name, leaves in blocks.items():
            jax.tree.map(np.testing.assert_array_equal, leaves, source[kind][name])
    names = set(jax.eval_shape(shallow.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.uint8))["params"])
    assert set(found["params"]) == names
    with pytest.raises(
        ValueError, match=r"shallower than the candidate: it has 2 modules in stage\d, and stage\d_.*2 is wanted"
    ):
        growing.transferred(found, deep)


def test_a_source_of_other_channels(noisy_variables):
    deep = growing.built({**RESIDUAL, "widths": (4, 8, 16)}, (1, 1, 1), FACTS).largest_net()
    source = noisy_variables(deep, (8, 8, 3))
    with pytest.raises(ValueError, match=r"the source net is another: stage3_block0 has leaves of .*16.*not .*8"):
        growing.transferred(source, growing.built(RESIDUAL, (1, 1, 1), FACTS).largest_net())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "mobilenet_v2"}, "growth.name is 'mobilenet_v2', choose from"),
        ({}, "growth.name is None"),
        ({"name": "cifar_resnet", "depths": (1, 1, 1)}, "growth.depths is what is searched; leave it out"),
    ],
)
def test_what_cannot_grow(section, message):
    with pytest.raises(ValueError, match=message):
        growing.section(section, (1, 1, 1))
