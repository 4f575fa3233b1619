"""The networks of any width against published costs, and narrow variables inside wide ones."""

import jax
import numpy as np
import pytest

from dynnas_jax.elastic import image_struct
from dynnas_jax.networks import chains, slimmable
from dynnas_jax.search_space import make_divisible

ROWS = 7


@pytest.mark.parametrize("number", range(ROWS))
def test_published_costs(published, meets_published, number):
    rows = published["slimmable"]["nets"]
    assert len(rows) == ROWS
    meets_published(rows[number])


def test_every_published_width_of_mobilenet(published):
    """All 31, counted by hand on the widths of the arch: the totals are printed cut off."""
    for width, printed in published["slimmable"]["us_mobilenet_v1_M"].items():
        arch = slimmable.us_mobilenet_v1(width=float(width)).arch
        side, before = 112, arch.stem_out
        macs = side**2 * 27 * before
        for stage in arch.stages:
            for out, stride in stage:
                side //= stride
                macs += side**2 * before * (9 + out)
                before = out
        assert int((macs + 1000 * before) / 1e6) == printed, width


def test_widths_are_rounded():
    arch = slimmable.us_mobilenet_v1(width=0.35).arch
    assert arch.stem_out == make_divisible(32 * 0.35) == 16
    assert [stage[0] for stage in arch.stages] == [(24, 1), (48, 2), (88, 2), (176, 2), (360, 2)]
    assert slimmable.us_mobilenet_v1(width=2).arch.stages[-1] == ((2048, 2), (2048, 1))
    arch = slimmable.slimmable_resnet50(width=0.3).arch
    assert (arch.stem_out, arch.widths) == (19, (76, 152, 304, 612))


@pytest.mark.parametrize("name", ["us_mobilenet_v1", "slimmable_resnet50"])
def test_a_narrower_net_s_variables_are_inside_a_wider_one_s(small, name):
    narrow, wide = (
        jax.eval_shape(net.init, jax.random.key(0), image_struct(net.arch))
        for net in (small(name, width=width) for width in (0.0625, 0.25))
    )
    assert jax.tree.structure(narrow) == jax.tree.structure(wide)
    pairs = zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True)
    assert all(np.less_equal(few.shape, many.shape).all() for few, many in pairs)
    assert chains.cost(small(name, width=0.0625)) < chains.cost(small(name, width=0.25))


def test_stages_and_strides_follow_the_arch(small):
    net = small("us_mobilenet_v1")
    (_, ends), _ = jax.eval_shape(net.init_with_output, jax.random.key(0), image_struct(net.arch))
    assert [ends[f"stage{i}_block0"].shape[1] for i in range(1, 6)] == [16, 8, 4, 2, 1]
    assert len(ends) == 2 + 13


@pytest.mark.parametrize("width", [0, -1.0, float("inf"), True, "wide"])
@pytest.mark.parametrize("build", [slimmable.us_mobilenet_v1, slimmable.slimmable_resnet50])
def test_widths_there_are_none_of(build, width):
    with pytest.raises(ValueError, match="width is .*, must be a number above 0"):
        build(width=width)


def test_a_width_that_leaves_no_channels():
    with pytest.raises(ValueError, match=r"widths is \(0, 0, 0, 4\), must be at least 1"):
        slimmable.slimmable_resnet50(width=0.002)


def test_an_arch_of_no_stages():
    with pytest.raises(ValueError, match=r"stages is \(\), must be at least one"):
        slimmable.Arch(resolution=32, classes=10, stem_out=8, stages=())
