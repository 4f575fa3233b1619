"""What slicing does to the leaves; that it computes what masking does is tests/networks/test_supernets.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dynnas_jax.elastic import extract, image_struct, positions, slice_variables
from dynnas_jax.networks import ofa

IMAGE = (8, 8, 1)


def flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")


def genome_with(space, **values):
    """The largest genome with some genes' indices set; dots are written as double underscores."""
    genome = space.largest
    for name, index in values.items():
        genome[space.index(name.replace("__", "."))] = index
    return genome


def test_extracted_variables_are_those_of_the_subnet(tiny, random_genomes):
    supernet = tiny.supernet
    for genome in [supernet.space.smallest, supernet.space.largest, *random_genomes]:
        net, own = extract(supernet, tiny.variables, genome)
        wanted = jax.eval_shape(net.init, jax.random.key(0), image_struct(net.arch))
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, wanted)
        assert net.arch == supernet.arch(genome)


def test_extracting_the_largest_changes_nothing(tiny):
    own = extract(tiny.supernet, tiny.variables, tiny.supernet.space.largest)[1]
    jax.tree.map(np.testing.assert_array_equal, own, tiny.variables)


def test_slices_are_leading_channels_and_the_kernel_window(tiny):
    genome = genome_with(tiny.supernet.space, stage1__width=0, stage1__block0__kernel=0, stage1__block0__expand=0)
    before, own = flat(tiny.variables), flat(extract(tiny.supernet, tiny.variables, genome)[1])
    # Stem 8, hidden 8 x 1 of 8 x 2, out 4 of 8, the 3x3 window of the 5x5 kernel.
    block = "params/stage1_block0"
    for leaf, window in {
        f"{block}/expand_conv/kernel": np.s_[:, :, :, :8],
        f"{block}/depthwise_conv/kernel": np.s_[1:4, 1:4, :, :8],
        f"{block}/project_conv/kernel": np.s_[:, :, :8, :4],
        f"{block}/project_norm/scale": np.s_[:4],
        "batch_stats/stage1_block0/expand_norm/var": np.s_[:8],
        "params/stem/conv/kernel": np.s_[:],
        "params/stage2_block0/expand_conv/kernel": np.s_[:, :, :4, :8],
    }.items():
        np.testing.assert_array_equal(own[leaf], before[leaf][window], err_msg=leaf)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage_widths": (12, 16)}, r"stage1_block0/\S+ of the arch is .*, the supernet's is"),
        (
            {"kernels": (3, 5, 7)},
            r"depthwise_conv/kernel of the arch is \(7, 7, 1, 16\), the supernet's is \(5, 5, 1, 16\)",
        ),
        ({"depths": (1, 2, 3)}, "stage1_block2"),
        ({"stage_widths": (8, 16, 16), "stage_strides": (1, 2, 1)}, "stage3_block0"),
    ],
)
def test_too_large_an_arch(tiny, options, message):
    base = {"stage_widths": (8, 16), "stage_strides": (1, 2), "depths": (1, 2), "kernels": (3, 5), "expands": (1, 2)}
    common = {
        "image_size": 8,
        "channels": 1,
        "mean": (0.4,),
        "std": (0.3,),
        "classes": 3,
        "stem": 8,
        "head": 16,
        "widths": (0.5, 1.0),
        "divisor": 4,
    }
    larger = ofa.small_images(**common, **{**base, **options})
    with pytest.raises(ValueError, match=message):
        slice_variables(tiny.supernet, tiny.variables, larger.arch(larger.space.largest))


def test_extract_refuses_a_foreign_genome(tiny):
    with pytest.raises(ValueError, match="integers"):
        extract(tiny.supernet, tiny.variables, np.zeros(3, np.int32))


def test_positions_know_the_length_of_every_axis(tiny):
    space = tiny.supernet.space
    found = {position.name: position for position in positions(tiny.supernet)}
    assert list(found) == ["stem", "stage1_block0", "stage1_block1", "stage2_block0", "stage2_block1", "head"]
    assert found["stem"].genes == ()
    assert found["stage1_block0"].depth is None
    assert found["stage1_block1"].depth == (space.index("stage1.depth"), 1)
    block = found["stage2_block0"]
    assert [space.genes[g].name for g in block.genes] == [
        "stage1.width",
        "stage2.width",
        "stage2.block0.kernel",
        "stage2.block0.expand",
    ]
    assert block.sizes == (2, 2, 2, 2)
    by_hand = [
        [(kernel, kernel, 1, hidden), (1, 1, hidden, out)]
        for hidden, out, kernel in (
            (before * expand, out, kernel)
            for before in (4, 8)
            for out in (8, 16)
            for kernel in (3, 5)
            for expand in (1, 2)
        )
    ]
    for i, leaf in enumerate(("depthwise_conv", "project_conv")):
        np.testing.assert_array_equal(block.lengths["params", leaf, "kernel"], [shapes[i] for shapes in by_hand])
    np.testing.assert_array_equal(found["head"].lengths["params", "conv", "kernel"], [(1, 1, 8, 8), (1, 1, 16, 16)])
