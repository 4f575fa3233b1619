"""A once-for-all supernet's weights in a supernet of several exits: the first exit is then that supernet's own subnet."""

import jax
import numpy as np
import pytest

from dynnas_jax import channel_sorting, elastic, kernel_transforms
from dynnas_jax.elastic import extract
from dynnas_jax.networks import multi_supernet, ofa
from dynnas_jax.networks.multi_transfer import transferred

QUICK = {"xla_backend_optimization_level": 0}
SMALL = {
    **{"image_size": 8, "stem": 8, "stage_widths": (8,), "stage_strides": (2,), "head": 8, "classes": 3},
    **{"widths": (1.0,), "depths": (1, 2), "kernels": (3, 5), "expands": (3, 4, 6), "divisor": 4},
    **{"act": "hswish", "squeeze_excite": True, "kernel_transforms": True},
}


@pytest.fixture(scope="module")
def made(noisy_variables):
    """(the space of single nets, its variables, the supernet of three exits, fresh variables of it)"""
    source = ofa.small_images(**SMALL)
    supernet, generator, found = multi_supernet.build(source), np.random.default_rng(3), []
    for seed, one in enumerate((source, supernet)):
        variables = noisy_variables(one.largest_net(), (8, 8, 3), seed)
        variables["params"][kernel_transforms.PLACE] = jax.tree.map(
            lambda leaf: leaf + generator.normal(0, 0.2, leaf.shape).astype(np.float32),
            kernel_transforms.identity(elastic.elastic_kernels(one)),
        )
        found.append(variables)
    return source, found[0], supernet, found[1]


def test_the_first_exit_is_a_subnet_of_the_source(made):
    """Of half the hidden channels, a smaller kernel and less depth; and the last one, alone, is the largest."""
    source, trained, supernet, fresh = made
    found = transferred(supernet, fresh, source, trained, least=source.space.smallest)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    net, own = extract(supernet, found.variables, supernet.space.smallest)
    ends = jax.jit(net.apply, compiler_options=QUICK)(own, images)[1]
    single, subnet = extract(source, trained, source.space.smallest)
    wanted = jax.jit(single.apply, compiler_options=QUICK)(subnet, images)[0]
    # Reordered within what that subnet keeps, so that it is the same.
    np.testing.assert_allclose(ends["exit1"], wanted, rtol=1e-4, atol=1e-5)
    assert np.ptp(wanted, axis=0).max() > 1e-2


def test_what_was_transferred_is_listed(made):
    source, trained, supernet, fresh = made
    found = transferred(supernet, fresh, source, trained, least=source.space.largest)
    leaves = {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(fresh)}
    assert set(found.taken) == leaves
    assert found.fresh == found.unused == ()
    assert found.taken["params/exit3/classifier/kernel"] == "params/head/classifier/kernel"
    assert found.taken["params/exit2_stage1_block1/project_norm/scale"] == "params/stage1_block1/project_norm/scale"
    transform = "params/kernel_transforms/{}/5to3"
    assert found.taken[transform.format("exit1_stage1_block0")] == transform.format("stage1_block0")
    assert jax.tree.map(np.shape, found.variables) == jax.tree.map(np.shape, fresh)


def test_the_most_important_channels_go_to_the_first_exit(made):
    source, trained, supernet, fresh = made
    largest = source.space.largest
    found = transferred(supernet, fresh, source, trained, least=largest).variables["params"]
    ordered = channel_sorting.sort(source, trained["params"], trained["params"], largest)
    for leaf, name in (("kernel", "project_conv"), ("scale", "expand_norm")):
        np.testing.assert_array_equal(found["exit1_stage1_block0"][name][leaf], ordered["stage1_block0"][name][leaf])
    assert (
        np.abs(
            found["exit1_stage1_block0"]["expand_norm"]["scale"]
            - trained["params"]["stage1_block0"]["expand_norm"]["scale"]
        ).max()
        > 0
    )


def test_without_expansions_to_choose_all_channels_are_put_in_order(made, noisy_variables):
    """Exit 1 with all of them is the same net; with half of them it has those that the projection reads most."""
    source = ofa.small_images(**{**SMALL, "expands": (4,)})
    supernet = multi_supernet.build(source)
    trained = noisy_variables(source.largest_net(), (8, 8, 3))
    fresh = noisy_variables(supernet.largest_net(), (8, 8, 3), 1)
    found = transferred(supernet, fresh, source, trained, least=source.space.smallest).variables
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    net, own = extract(supernet, found, supernet.space.largest)
    single, subnet = extract(source, trained, source.space.largest)
    answers = jax.jit(net.apply, compiler_options=QUICK)(own, images)[1]["exit1"]
    wanted = jax.jit(single.apply, compiler_options=QUICK)(subnet, images)[0]
    np.testing.assert_allclose(answers, wanted, rtol=1e-4, atol=1e-5)
    for name in ("stage1_block0", "stage1_block1"):
        block = found["params"][f"exit1_{name}"]
        readers = (block["project_conv"]["kernel"], block["se"]["reduce_conv"]["kernel"])
        norms = sum(np.abs(kernel).sum(axis=(0, 1, 3)) for kernel in readers)
        assert (np.diff(norms) <= 1e-5).all()
        assert np.ptp(norms) > 0.1


def test_what_the_source_lacks_stays_as_it_was(made):
    source, trained, supernet, fresh = made
    head = {name: leaf for name, leaf in trained["params"].items() if name != "head"}
    some = {**trained, "params": {**head, "other": {"kernel": np.ones(3, np.float32)}}}
    found = transferred(supernet, fresh, source, some, least=source.space.smallest)
    assert {path.partition("/")[0] for path in found.fresh} == {"params"}
    assert {path.split("/")[1] for path in found.fresh} == {"exit1", "exit2", "exit3"}
    kernel = found.variables["params"]["exit2"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, fresh["params"]["exit2"]["conv"]["kernel"])
    assert found.unused == ("params/other/kernel",)


def test_another_supernets_weights(made, noisy_variables):
    _, _, supernet, fresh = made
    other = ofa.small_images(**{**SMALL, "stage_widths": (12,), "depths": (1,), "kernels": (3,)})
    trained = noisy_variables(other.largest_net(), (8, 8, 3))
    with pytest.raises(ValueError, match=r"exit1_stage1_block0/\S+ is .*, but .*stage1_block0/\S+ of the trained"):
        transferred(supernet, fresh, other, trained, least=other.space.smallest)
