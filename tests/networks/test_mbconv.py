"""The named networks against their published costs, and the shapes of the chain."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.costs.macs import net_cost
from dynnas_jax.networks import NETWORKS, mbconv, mobilenets, network

# torchvision's mobilenet_v2 has 3,504,872 parameters; the published table has none for it.
NOT_IN_THE_TABLE = {"mobilenet_v2": 3_504_872}
FIXED = [name for name, loader in NETWORKS.items() if loader.module == mobilenets.__name__]


@pytest.mark.parametrize("name", FIXED)
def test_published_costs(published, name):
    row = next(row for row in published["fixed_networks"] if row["name"] == name)
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


# Everything a block can have at once: groups, two depthwise convolutions, a shortcut over a stride and a convolution.
BLOCKS = (
    mbconv.BlockSpec(3, 16, 8, 1, "relu", groups=2, depthwise=2, shortcut=True),
    mbconv.BlockSpec(5, 24, 12, 2, "swish", se=8, groups=4, depthwise=2, shortcut=True, shortcut_conv=True),
    mbconv.BlockSpec(3, 12, 12, 2, "relu", expand=False, shortcut=True),
)


@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
def test_forms_are_equal_in_a_net_of_every_kind_of_block(padding, noisy_variables):
    arch = mbconv.Arch(18, 8, "relu", (("stage1", BLOCKS),), 16, "relu", 4, padding=padding)
    nets = [mbconv.Net(arch, form) for form in ("conv", "shifts")]
    variables = noisy_variables(nets[0], (18, 18, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, 18, 18, 3)).astype(np.uint8)
    (conv, ends), (shifts, _) = (jax.jit(net.apply)(variables, images) for net in nets)
    np.testing.assert_allclose(conv, shifts, rtol=1e-4, atol=1e-5)
    assert [ends[f"stage1_block{i}"].shape[1:3] for i in range(3)] == [(9, 9), (5, 5), (3, 3)]


def test_what_a_block_adds_to_its_output(noisy_variables):
    """With its last norm at zero a block gives its shortcut alone: the mean of 2x2 pixels, through its convolution."""
    arch = mbconv.Arch(16, 8, "relu", (("stage1", BLOCKS[1:2]),), 16, "relu", 4)
    variables = noisy_variables(mbconv.Net(arch), (16, 16, 3))
    block = variables["params"]["stage1_block0"]
    block["project_norm"] = jax.tree.map(np.zeros_like, block["project_norm"])
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    ends = jax.jit(lambda v, x: mbconv.Net(arch).apply(v, x)[1])(variables, images)
    means = np.asarray(ends["stem"]).reshape(2, 4, 2, 4, 2, 8).mean((2, 4))
    expected = means @ block["shortcut_conv"]["kernel"][0, 0]
    np.testing.assert_allclose(ends["stage1_block0"], expected, rtol=1e-4, atol=1e-5)


# Less work for the compiler, and the same arithmetic.
QUICK = {"xla_backend_optimization_level": 0}

# Precision and rematerialisation.

SHALLOW = mbconv.Arch(
    16,
    8,
    "relu",
    (
        (
            "stage1",
            (mbconv.BlockSpec(3, 32, 8, 1, "relu6", shortcut=True), mbconv.BlockSpec(3, 32, 12, 2, "hswish", se=8)),
        ),
    ),
    16,
    "hswish",
    4,
    stem_stride=1,
)


@pytest.fixture(scope="module")
def trained(noisy_variables):
    """trained(**fields): (logits, one image behind the first block, new statistics, gradient) of a net's training pass."""
    variables = noisy_variables(mbconv.Net(SHALLOW), (16, 16, 3))
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3)).astype(np.uint8)

    def loss(net, params):
        (logits, ends), updated = net.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
        return jnp.square(logits[:, 0] - 1).mean(), (logits, ends["stage1_block0"][:1], updated["batch_stats"])

    @functools.cache
    def run(**fields):
        gradient = jax.value_and_grad(functools.partial(loss, mbconv.Net(SHALLOW, **fields)), has_aux=True)
        (_, made), found = jax.jit(gradient, compiler_options=QUICK)(variables["params"])
        return *made, found

    return run


@pytest.mark.parametrize("form", ["conv", "shifts"])
def test_bfloat16_keeps_params_statistics_and_logits_in_float32(trained, form):
    logits, inside, stats, gradient = trained(depthwise=form, dtype="bfloat16")
    assert inside.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, stats, gradient))} == {jnp.dtype("float32")}
    exact_logits, _, exact_stats, exact = trained(depthwise="shifts")
    np.testing.assert_allclose(logits, exact_logits, rtol=0, atol=0.05 * np.abs(exact_logits).max())
    for path, leaf in jax.tree_util.tree_leaves_with_path(exact_stats):
        found = dict(jax.tree_util.tree_leaves_with_path(stats))[path]
        np.testing.assert_allclose(found, leaf, rtol=0, atol=0.02 * np.abs(leaf).max(), err_msg=str(path))
    largest = max(map(np.linalg.norm, jax.tree.leaves(exact)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(exact):
        found = dict(jax.tree_util.tree_leaves_with_path(gradient))[path]
        cosine = np.vdot(found, leaf) / (np.linalg.norm(found) * np.linalg.norm(leaf))
        # Measured: 0.957 and more. The gradient of a bias that the next norm takes away is rounding alone.
        assert cosine > 0.9 or np.linalg.norm(leaf) < 1e-6 * largest, (path, cosine)
        assert not np.array_equal(found, leaf), path  # something was computed in bfloat16


DEEP = replace(SHALLOW, stages=(("stage1", (mbconv.BlockSpec(1, 32, 8, 1, "hswish", shortcut=True),) * 6),))


def test_remat_gives_the_same_gradient(trained):
    wanted = trained(depthwise="shifts")
    for remat in ("norms", "blocks"):
        found = dict(jax.tree_util.tree_leaves_with_path(trained(depthwise="shifts", remat=remat)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
            # The compiler fuses otherwise, so that sums round otherwise.
            np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-5 * np.abs(leaf).max(), err_msg=str(path))


def test_remat_keeps_less_for_the_gradient():
    """What the backward pass is handed; and the memory of the whole program, where XLA's CPU backend schedules for it."""
    images = jax.ShapeDtypeStruct((32, 16, 16, 3), jnp.uint8)
    shapes = jax.eval_shape(mbconv.Net(DEEP).init, jax.random.key(0), images)
    kept, used = {}, {}
    options = {**QUICK, "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    for dtype, remat in itertools.product(("float32", "bfloat16"), mbconv.REMATS):
        net = mbconv.Net(DEEP, "shifts", dtype=dtype, remat=remat)

        def loss(params, variables, images, net=net):
            return net.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])[0][0].sum()

        handed = jax.eval_shape(lambda *given: jax.vjp(loss, *given)[1], shapes["params"], shapes, images)
        kept[dtype, remat] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(handed))
        if dtype == "float32" and remat != "blocks":
            program = jax.jit(jax.grad(loss)).lower(shapes["params"], shapes, images).compile(options)
            used[remat] = program.memory_analysis().temp_size_in_bytes
    for dtype in ("float32", "bfloat16"):
        assert kept[dtype, "blocks"] < kept[dtype, "norms"] / 2 < kept[dtype, "none"] / 4, kept
    for remat in mbconv.REMATS:
        assert kept["bfloat16", remat] < 0.8 * kept["float32", remat], kept
    share = 0.9 if jax.__version_info__ < (0, 11) else 1  # the compiler of JAX 0.11.2 saves 2 %, that of 0.10.2 16 %
    assert used["norms"] < share * used["none"], used


@pytest.mark.parametrize(
    ("options", "message"), [({"padding": "VALID"}, "padding is 'VALID'"), ({"epsilon": 0.0}, "epsilon")]
)
def test_conventions_no_net_has(options, message):
    with pytest.raises(ValueError, match=message):
        mobilenets.mobilenet_v2(**options)


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
