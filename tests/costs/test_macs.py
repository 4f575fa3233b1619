"""MACs by hand, and tables against counting the net itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from dynnas_jax.costs.macs import CostTable, _Row, macs, net_cost, params_table, table
from dynnas_jax.elastic import Position
from dynnas_jax.networks import NETWORKS, ofa


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


X, W = floats(4, 6), floats(6, 6)
MATMUL = 4 * 6 * 6


def conv(x, kernel, **options):
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


@pytest.mark.parametrize(
    ("kernel", "options", "by_hand"),
    [
        ((3, 3, 8, 16), {"window_strides": (1, 1), "padding": "SAME"}, 2 * 10 * 9 * 16 * 3 * 3 * 8),
        ((3, 3, 8, 16), {"window_strides": (2, 2), "padding": "SAME"}, 2 * 5 * 5 * 16 * 3 * 3 * 8),
        ((3, 5, 8, 16), {"window_strides": (1, 2), "padding": "VALID"}, 2 * 8 * 3 * 16 * 3 * 5 * 8),
        ((5, 5, 1, 8), {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 8}, 2 * 10 * 9 * 8 * 25),
        ((1, 1, 4, 6), {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2}, 2 * 10 * 9 * 6 * 4),
        ((3, 3, 8, 1), {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 2)}, 2 * 10 * 9 * 3 * 3 * 8),
    ],
)
def test_convolutions(kernel, options, by_hand):
    assert macs(functools.partial(conv, **options), floats(2, 10, 9, 8), floats(*kernel)) == by_hand


def test_products():
    assert macs(jnp.matmul, X, W) == MATMUL
    assert macs(jnp.matmul, floats(3, 4, 5), floats(3, 5, 7)) == 3 * 4 * 5 * 7
    assert (
        macs(lambda a, b: jnp.einsum("bijk,bjkl->bil", a, b), floats(2, 3, 4, 5), floats(2, 4, 5, 6)) == 2 * 3 * 20 * 6
    )
    assert macs(lambda x: jax.nn.relu(x + x * x).sum(), X) == 0


def test_counts_are_exact_above_two_to_the_31():
    found = macs(jnp.matmul, floats(2**16 + 1, 2**17 + 1), floats(2**17 + 1, 3))
    assert found == (2**16 + 1) * (2**17 + 1) * 3
    assert type(found) is int


@jax.custom_vjp
def with_own_gradient(x, w):
    return x @ w


with_own_gradient.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))


def loop(x, w):
    return jax.lax.while_loop(lambda carry: carry.sum() < 1, lambda carry: carry @ w, x)


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (lambda x, w: jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=7)[0], 7),
        (lambda x, w: jax.lax.fori_loop(0, 5, lambda _, c: c @ w, x), 5),
        (lambda x, w: jax.lax.cond(x.sum() > 0, lambda: (x @ w) @ w, lambda: x @ w), 2),
        (lambda x, w: jax.lax.switch(jnp.int32(0), [lambda: x, lambda: x @ w, lambda: x @ w @ w @ w]), 3),
        (lambda x, w: jax.jit(lambda x: x @ w)(x) @ w, 2),
        (lambda x, w: jax.checkpoint(lambda x: jax.jit(jnp.matmul)(x, w))(x), 1),
        (with_own_gradient, 1),
        (jax.grad(lambda x, w: with_own_gradient(x, w).sum(), argnums=(0, 1)), 3),
        (lambda x, w: jax.lax.scan(lambda c, _: (jax.jit(with_own_gradient)(c, w), None), x, None, length=3)[0] @ w, 4),
        (jax.vmap(lambda x, w: x @ w, in_axes=(0, None)), 1),
    ],
    ids=["scan", "fori_loop", "cond", "switch", "jit", "remat", "custom_vjp", "gradient", "nested", "vmap"],
)
def test_what_stands_inside(function, times):
    assert macs(function, X, W) == times * MATMUL


def test_a_while_loop_with_macs():
    with pytest.raises(ValueError, match="while loop cannot be counted"):
        macs(loop, X, W)
    with pytest.raises(ValueError, match="while loop cannot be counted"):
        macs(jax.jit(lambda x, w: jax.lax.scan(lambda c, _: (loop(c, w), None), x, None, length=2)), X, W)
    assert macs(lambda x: jax.lax.while_loop(lambda c: c.sum() < 1, lambda c: c * 2, x), X) == 0


def test_shard_map_counts_the_work_of_all_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("data"), PartitionSpec()

    def mapped(in_specs):
        return jax.shard_map(jnp.matmul, mesh=mesh, in_specs=in_specs, out_specs=split)

    assert macs(mapped((split, whole)), floats(16, 6), W) == 16 * 6 * 6
    assert macs(mapped((whole, whole)), floats(16, 6), W) == 8 * 16 * 6 * 6


# Tables.

SUPERNETS = {
    "small_images": {
        "image_size": 16,
        "widths": (0.25, 0.6, 1.0),
        "depths": (1, 2),
        "kernels": (3, 5),
        "expands": (1, 6),
        "stage_widths": (24, 40),
        "stage_strides": (1, 2),
    },
    "small_images with squeeze-excite and shifts": {
        "image_size": 9,
        "squeeze_excite": True,
        "depthwise": "shifts",
        "act": "hswish",
        "stage_widths": (16,),
        "stage_strides": (2,),
    },
    "ofa_mobilenet_v3": {"resolutions": (64,)},
    "ofa_proxyless": {"resolutions": (64, 100)},
    "attentive_nas": {"resolutions": (64,)},
    "elastic_resnet": {"deepest": (3, 1, 2)},
}


@pytest.fixture(params=SUPERNETS, scope="module")
def supernet(request):
    name = request.param.split()[0]
    supernet = NETWORKS[name](**SUPERNETS[request.param])
    if name in ("small_images", "elastic_resnet"):
        return supernet
    if name == "attentive_nas":
        # Without an expansion, with squeeze-excite over a stride, and two widths of which one needs no convolution.
        stages = (supernet.arch.template.stages[i] for i in (0, 2, 6))
        stages = tuple(dataclasses.replace(stage, depths=(1, 2), kernels=(5,)) for stage in stages)
        return ofa.build(dataclasses.replace(supernet.arch.template, stages=stages))
    # All widths and stages of the published nets; two kernels and expansions keep the table small.
    return ofa.build(dataclasses.replace(supernet.arch.template, kernels=(3, 7), expands=(3, 6)))


def test_every_supernet_has_its_tables_tested():
    assert {name for name, loader in NETWORKS.items() if loader.has_space and not loader.gated} == {
        name.split()[0] for name in SUPERNETS
    }


def test_tables_equal_counting_the_net(supernet):
    space = supernet.space
    for genome in [space.smallest, *np.asarray(space.sample(jax.random.key(0), 3))]:
        arch = supernet.arch(genome)
        found = (table(supernet).exact(genome), params_table(supernet).exact(genome))
        assert found == net_cost(supernet.net(arch), (arch.resolution, arch.resolution, 3))
        assert all(type(value) is int for value in found)


def test_population_equals_one_by_one(supernet):
    genomes = np.asarray(supernet.space.sample(jax.random.key(1), 32))
    costs = table(supernet)
    exact = np.asarray([costs.exact(genome) for genome in genomes])
    for found in (jax.jit(costs)(genomes), jax.jit(jax.vmap(costs))(genomes), costs(genomes.reshape(4, 8, -1)).ravel()):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_resolution_is_an_axis():
    supernet = ofa.small_images(depths=(1,), kernels=(3,), expands=(1, 2))
    template = dataclasses.replace(supernet.arch.template, resolutions=(16, 32))
    supernet = ofa.build(template)
    small, large = supernet.space.largest, supernet.space.largest
    small[supernet.space.index("resolution")] = 0
    assert table(supernet).exact(small) < table(supernet).exact(large)
    assert params_table(supernet).exact(small) == params_table(supernet).exact(large)


def test_exact_costs_are_not_rounded():
    """Two positions, one of them skipped below depth 1, with costs that neither float32 nor int32 holds."""
    first, second = np.asarray([2**40 + 1, 2**41 + 3]), np.asarray([5, 2**33 + 7])
    rows = (_Row(Position("a", (1,), (2,), None, {}), first), _Row(Position("b", (1,), (2,), (0, 1), {}), second))
    costs = CostTable(2, rows)
    assert [costs.exact(np.asarray(g)) for g in ([0, 0], [0, 1], [1, 0], [1, 1])] == [
        2**40 + 1,
        2**41 + 3,
        2**40 + 6,
        2**41 + 2**33 + 10,
    ]


def test_an_overhead_and_fractions():
    """Costs that are measured: floats, and something that every net costs besides."""
    rows = (
        _Row(Position("a", (1,), (2,), None, {}), np.asarray([0.5, 0.25])),
        _Row(Position("b", (0,), (2,), (0, 1), {}), np.asarray([1.5, 3.0])),
    )
    costs = CostTable(2, rows, overhead=0.125)
    by_hand = {(0, 0): 0.625, (0, 1): 0.375, (1, 0): 3.625, (1, 1): 3.375}
    for genome, expected in by_hand.items():
        assert costs.exact(np.asarray(genome)) == expected
        assert float(costs(jnp.asarray(genome))) == expected
    assert costs.only(("b",)).exact(np.asarray([1, 0])) == 3.0  # without the overhead
    assert type(costs.exact(np.asarray([0, 0]))) is float
