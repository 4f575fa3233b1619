"""What masking does to the leaves; that it computes what slicing does is tests/networks/test_supernets.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dynnas_jax.elastic import extract
from dynnas_jax.masking import identity_kernel, mask_variables


def flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")


def masked_under_vmap(tiny, unbatched):
    """Traces masking of a population with the leaves that `unbatched` names declared free of the population's axis."""

    def out_axis(path, _):
        return None if unbatched("/".join(entry.key for entry in path)) else 0

    axes = jax.tree_util.tree_map_with_path(out_axis, tiny.variables)
    population = jax.ShapeDtypeStruct((5, len(tiny.supernet.space.genes)), jnp.int32)
    mask = jax.vmap(lambda genome: mask_variables(tiny.supernet, tiny.variables, genome), out_axes=axes)
    return jax.eval_shape(mask, population)


def is_pointwise(path):
    return path.endswith(("conv/kernel", "classifier/kernel")) and "depthwise" not in path


def test_pointwise_kernels_stay_unbatched(tiny):
    shapes = flat(masked_under_vmap(tiny, lambda path: is_pointwise(path) or path.startswith("batch_stats")))
    before = flat(tiny.variables)
    assert (
        shapes["params/stage1_block0/expand_conv/kernel"].shape
        == before["params/stage1_block0/expand_conv/kernel"].shape
    )
    assert shapes["params/stage1_block0/depthwise_conv/kernel"].shape == (5, 5, 5, 1, 16)
    # That vmap lets the others not pass for unbatched is what makes this test one.
    for leaf in ("stage1_block0/depthwise_conv/kernel", "stage2_block1/project_norm/scale"):
        with pytest.raises(ValueError, match="out_axes"):
            masked_under_vmap(tiny, lambda path, leaf=leaf: path == f"params/{leaf}")


def test_masking_zeroes_what_slicing_cuts(tiny, random_genomes):
    supernet = tiny.supernet
    masked_leaves = jax.jit(lambda genome: mask_variables(supernet, tiny.variables, genome))
    for genome in random_genomes:
        masked, own = flat(masked_leaves(genome)), flat(extract(supernet, tiny.variables, genome)[1])
        for path, leaf in masked.items():
            name = path.rsplit("/", 2)[1]
            if not (name.endswith("norm") or name == "depthwise_conv") or path.startswith("batch_stats"):
                np.testing.assert_array_equal(leaf, flat(tiny.variables)[path], err_msg=path)
            elif path not in own:
                assert not np.any(leaf) or name == "depthwise_conv", path
            elif name.endswith("norm"):
                np.testing.assert_array_equal(leaf[: own[path].size], own[path], err_msg=path)
                assert not np.any(leaf[own[path].size :]), path
            else:
                edge = (leaf.shape[0] - own[path].shape[0]) // 2
                inside = np.pad(np.ones(own[path].shape[:2], bool), edge)
                assert not np.any(np.asarray(leaf)[~inside]), path
                np.testing.assert_array_equal(
                    np.asarray(leaf)[inside], flat(tiny.variables)[path][inside], err_msg=path
                )


def test_skipped_blocks_are_the_identity(tiny, as_users_compile):
    supernet = tiny.supernet
    net = supernet.largest_net()
    run = lambda g: net.apply(mask_variables(supernet, tiny.variables, g), tiny.images)[1]  # noqa: E731
    endpoints = jax.jit(run, compiler_options=as_users_compile)
    skipping = supernet.space.largest
    skipping[[supernet.space.index(f"{stage}.depth") for stage in ("stage1", "stage2")]] = 0
    skipped = endpoints(skipping)
    kept = endpoints(supernet.space.largest)
    for stage in ("stage1", "stage2"):
        np.testing.assert_array_equal(skipped[f"{stage}_block1"], skipped[f"{stage}_block0"])
        assert np.abs(kept[f"{stage}_block1"] - kept[f"{stage}_block0"]).max() > 0.1


def test_only_a_pointwise_convolution_can_be_left_out_of_a_block():
    """The identity takes its place; nothing takes that of a norm, which would end in an error of NumPy's."""
    np.testing.assert_array_equal(identity_kernel(jnp.zeros((1, 1, 2, 2)))[0, 0], np.eye(2))
    with pytest.raises(ValueError, match=r"shape \(3,\) that some subnets lack: only 1x1 convolutions"):
        identity_kernel(jnp.zeros(3))
