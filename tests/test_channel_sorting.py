"""Sorting the channels changes no answer of the nets in use, and puts the important ones first."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynnas_jax import channel_sorting
from dynnas_jax.elastic import extract
from dynnas_jax.networks import NETWORKS, ofa
from dynnas_jax.train import state


@pytest.fixture(scope="module", params=["plain", "squeeze-excite"])
def case(request, noisy_variables):
    supernet = ofa.small_images(
        image_size=8, stem=8, stage_widths=(8, 16), stage_strides=(1, 2), head=24, widths=(0.5, 0.75, 1.0), depths=(1, 2),
        kernels=(3,), expands=(1, 2, 3), divisor=4, squeeze_excite=request.param != "plain",
    )  # fmt: skip
    variables = noisy_variables(supernet.largest_net(), (8, 8, 3))
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    return supernet, variables, images


@pytest.fixture(scope="module")
def resorted(case):
    """resorted(least): the variables sorted."""
    supernet, variables, _ = case

    @functools.cache
    def run(least):
        sort = jax.jit(lambda v: channel_sorting.sort(supernet, v["params"], v, np.asarray(least)))
        return sort(variables)

    return lambda least: run(tuple(int(choice) for choice in least))


def logits(supernet, variables, genome, images):
    net, own = extract(supernet, variables, genome)
    return jax.jit(lambda v, x: net.apply(v, x)[0])(own, images)


def test_the_largest_net_is_unchanged_and_its_channels_are_not(case, resorted):
    supernet, variables, images = case
    largest = supernet.space.largest
    after = resorted(largest)
    np.testing.assert_allclose(
        logits(supernet, after, largest, images), logits(supernet, variables, largest, images), rtol=1e-4, atol=1e-5
    )
    smallest = supernet.space.smallest
    change = logits(supernet, after, smallest, images) - logits(supernet, variables, smallest, images)
    assert np.abs(change).max() > 1e-2


def test_what_was_unlocked_before_is_unchanged_too(case, resorted):
    """With the second choice of everything in use, its subnets answer as before; the smallest do not."""
    supernet, variables, images = case
    least = np.minimum(1, supernet.space.largest)
    after = resorted(least)
    for genome in (least.astype(np.int32), supernet.space.largest):
        np.testing.assert_allclose(
            logits(supernet, after, genome, images), logits(supernet, variables, genome, images), rtol=1e-4, atol=1e-5
        )
    smallest = supernet.space.smallest
    change = logits(supernet, after, smallest, images) - logits(supernet, variables, smallest, images)
    assert np.abs(change).max() > 1e-2


@pytest.mark.parametrize("case", ["plain"], indirect=True)  # squeeze-excite reads the hidden channels too
def test_hidden_channels_stand_by_the_norm_of_what_reads_them(case, resorted):
    supernet, variables, _ = case
    after = resorted(supernet.space.largest)
    for name in ("stage1_block0", "stage1_block1", "stage2_block0", "stage2_block1"):
        norms = np.abs(np.asarray(after["params"][name]["project_conv"]["kernel"])).sum((0, 1, 3))
        np.testing.assert_array_equal(np.argsort(-norms, kind="stable"), np.arange(len(norms)))
        before = np.abs(variables["params"][name]["project_conv"]["kernel"]).sum((0, 1, 3))
        np.testing.assert_allclose(np.sort(norms), np.sort(before), rtol=1e-5)


def test_a_streams_channels_stand_by_the_norm_of_all_that_read_them(case, resorted):
    """What the blocks of stage 1 write is read by the second of them and by stage 2."""
    supernet, variables, _ = case
    names = ("stage1_block1", "stage2_block0")
    read = lambda v: sum(np.abs(np.asarray(v["params"][n]["expand_conv"]["kernel"])).sum((0, 1, 3)) for n in names)  # noqa: E731
    after = read(resorted(supernet.space.largest))
    np.testing.assert_allclose(after, np.sort(read(variables))[::-1], rtol=1e-5)


def test_momentum_and_averages_move_with_the_params(case, resorted):
    """A step of the optimizer before sorting, or after: the same params."""
    supernet, variables, _ = case
    transform = optax.sgd(0.1, 0.9, nesterov=True)
    params = jax.tree.map(jnp.asarray, variables["params"])
    moments = transform.update(jax.tree.map(jnp.sin, params), transform.init(params))[1]
    current = state.create({**variables, "params": params}, transform)._replace(optimizer=moments)
    largest = supernet.space.largest
    order = functools.partial(channel_sorting.sort, supernet, params, least=largest)
    move = lambda s: optax.apply_updates(  # noqa: E731
        s.variables["params"], transform.update(jax.tree.map(jnp.cos, s.variables["params"]), s.optimizer)[0]
    )
    first, then = jax.jit(lambda s: move(order(s)))(current), jax.jit(lambda s: order(move(s)))(current)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), first, then)
    wanted = order(current)
    jax.tree.map(np.testing.assert_array_equal, wanted.ema, wanted.variables["params"])


def test_a_space_whose_widths_decide_where_shortcuts_stand():
    supernet = NETWORKS["attentive_nas"](resolutions=(32,))
    with pytest.raises(ValueError, match="cannot be sorted; give train.progressive_shrinking.sort_channels=False"):
        channel_sorting.groups(supernet)
