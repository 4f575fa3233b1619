"""What holds for every net that is a chain of blocks of its own: shapes, costs, gradients, forms, conventions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.costs.macs import net_cost
from dynnas_jax.elastic import image_struct
from dynnas_jax.networks import NETWORKS, chains, exits

QUICK = {"xla_backend_optimization_level": 0}


def images_of(net, count):
    side = net.arch.resolution
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def in_float64(variables):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)


def exit_names(net):
    return [segment.exit.name for segment in net.segments()] if isinstance(net, exits.ExitNet) else []


def test_every_family_is_tested(small_families):
    assert set(small_families) == {name for name, loader in NETWORKS.items() if loader.family}


def test_endpoints_are_the_blocks_outputs(small_net):
    (logits, ends), variables = jax.eval_shape(
        small_net.init_with_output, jax.random.key(0), image_struct(small_net.arch, 2)
    )
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)
    names = [block.name for block in small_net.chain()]
    assert set(ends) == {*names, *exit_names(small_net)}
    assert set(variables["params"]) == set(ends)


def test_costs_by_blocks_are_those_of_the_whole(small_net):
    """Counted once over the chain, whatever form the net computes in, and once over the whole program."""
    side = small_net.arch.resolution
    whole = net_cost(small_net, (side, side, 3))
    net = small_net.clone(depthwise="shifts")
    if isinstance(net, exits.ExitNet):
        found = exits.costs(net)
        assert (found.macs[-1], found.params[-1]) == whole
        assert list(found.macs) == sorted(set(found.macs))
    else:
        assert chains.cost(net) == whole
    assert all(type(value) is int for value in whole)


def test_padding_changes_no_shape(small_net):
    arch, symmetric = small_net.arch, functools.partial(dataclasses.replace, padding="symmetric")
    if "padding" in vars(arch):
        symmetric = small_net.clone(arch=symmetric(arch))
    elif "trunk" in vars(arch):
        symmetric = small_net.clone(arch=dataclasses.replace(arch, trunk=symmetric(arch.trunk)))
    else:  # an arch for each exit
        symmetric = small_net.clone(arch=dataclasses.replace(arch, exits=tuple(map(symmetric, arch.exits))))
    shapes = [
        jax.eval_shape(net.init_with_output, jax.random.key(0), image_struct(net.arch))
        for net in (small_net, symmetric)
    ]
    assert shapes[0] == shapes[1]


def test_forms_agree_and_gradients_reach_every_leaf(small_net, noisy_variables):
    """In float64: logits of both forms, all exits, in evaluation; the gradient of a training pass, and its statistics."""
    images, side = images_of(small_net, 4), small_net.arch.resolution
    variables, names = noisy_variables(small_net, (side, side, 3)), exit_names(small_net)

    def predictions(net, variables, train=False):
        (logits, ends), updated = net.apply(variables, images, train, mutable=["batch_stats"])
        return jnp.stack([ends[name] for name in names] or [logits]), updated["batch_stats"]

    def loss(params, variables, net):
        found, stats = predictions(net, {**variables, "params": params}, train=True)
        return jnp.sum(jnp.square(found - jnp.asarray([1.0, 0.0, -1.0]).reshape(1, 1, 3))), stats

    def program(variables):
        forms = [small_net.clone(depthwise=form, dtype="float64") for form in ("conv", "shifts")]
        gradient, stats = jax.grad(loss, has_aux=True)(variables["params"], variables, forms[0])
        return [predictions(net, variables)[0] for net in forms], gradient, stats

    # In training flax's norm names float32 beside whatever it is given.
    with jax.enable_x64(), jax.numpy_dtype_promotion("standard"):
        variables = in_float64(variables)
        (conv, shifts), gradient, stats = jax.jit(program, compiler_options=QUICK)(variables)
        np.testing.assert_allclose(conv, shifts, rtol=1e-9, atol=1e-12)
        assert np.ptp(conv, axis=1).min() > 1e-6  # no prediction is blind to its images
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            assert np.isfinite(leaf).all(), path
            assert np.abs(leaf).max() > 0, path
        before = dict(jax.tree_util.tree_leaves_with_path(variables["batch_stats"]))
        for path, leaf in jax.tree_util.tree_leaves_with_path(stats):
            assert not np.array_equal(leaf, before[path]), path


@pytest.mark.parametrize("name", ["cifar_resnet", "msdnet_cifar", "multi_exit", "nasnet"])
@pytest.mark.parametrize("remat", ["norms", "blocks"])
def test_rematerialised_nets_have_the_same_variables(small, name, remat):
    net = small(name)
    image = image_struct(net.arch)
    plain, again = (jax.eval_shape(n.init, jax.random.key(0), image) for n in (net, net.clone(remat=remat)))
    assert plain == again


@pytest.mark.parametrize("name", ["cifar_resnet", "msdnet_cifar", "multi_exit", "nasnet", "us_mobilenet_v1"])
def test_bfloat16_flows_between_the_blocks_alone(small, name):
    net = small(name).clone(dtype="bfloat16")
    (logits, ends), variables = jax.eval_shape(net.init_with_output, jax.random.key(0), image_struct(net.arch))
    heads = {"head", *exit_names(net)}
    inside = [leaf for block, end in ends.items() if block not in heads for leaf in jax.tree.leaves(end)]
    assert {leaf.dtype for leaf in inside} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, variables))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar_resnet", {"padding": "VALID"}, "padding is 'VALID'"),
        ("nasnet", {"channels": 1}, "images of 1 channels, but mean is"),
        ("msdnet", {"resolution": 0}, "resolution is 0, must be at least 1 and whole"),
        ("us_mobilenet_v1", {"classes": 2.5}, "classes is 2.5, must be at least 1 and whole"),
    ],
)
def test_conventions_no_net_has(small, name, options, message):
    with pytest.raises(ValueError, match=message):
        small(name, **options)
