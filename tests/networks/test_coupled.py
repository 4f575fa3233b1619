"""A supernet of pairs: what it adds, and that sorting channels and recalibrating leave it whole."""

import jax
import numpy as np
import pytest

from dynnas_jax import channel_sorting
from dynnas_jax.elastic import extract, init_supernet
from dynnas_jax.masking import mask_variables
from dynnas_jax.networks import coupled, ofa
from dynnas_jax.train import calibration

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def pairs():
    supernet = ofa.small_images(
        image_size=8, stem=8, stage_widths=(16,), stage_strides=(2,), head=24, widths=(0.5, 0.75, 1.0), depths=(1, 2),
        kernels=(3,), expands=(1, 2), divisor=4,
    )  # fmt: skip
    return coupled.coupled(supernet, router_units=4)


@pytest.fixture(scope="module")
def variables(pairs):
    keys = iter(jax.random.split(KEY, 1000))
    made = init_supernet(pairs, KEY, (8, 8, 3))
    noisy = jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), made)
    stats = jax.tree.map(lambda leaf: 0.5 + abs(leaf), noisy["batch_stats"])
    return {**noisy, "batch_stats": stats}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def answer(pairs, images):
    """answer(variables, genome): logits and what the head read, of the sliced subnet."""

    def run(variables, genome):
        net, own = extract(pairs, variables, genome)
        logits, endpoints = jax.jit(net.apply)(own, images)
        return logits, list(endpoints.values())[-2]

    return run


def test_a_fresh_supernet_has_two_heads_and_an_undecided_router(pairs, answer):
    made = init_supernet(pairs, KEY, (8, 8, 3))
    genome = pairs.space.largest
    (big, endpoint), (little, same) = answer(made, genome), answer(coupled.as_little(made), genome)
    assert (np.abs(np.asarray(big) - little) > 1e-3).any()
    np.testing.assert_array_equal(endpoint, same)
    np.testing.assert_array_equal(coupled.route(made, endpoint), np.zeros(6))


def test_a_sliced_little_equals_a_masked_one(pairs, variables, images, answer):
    net = pairs.largest_net()
    for genome in np.asarray(pairs.space.sample(KEY, 4)):
        masked = mask_variables(pairs, coupled.as_little(variables), genome)
        logits, endpoints = jax.jit(net.apply)(masked, images)
        sliced, endpoint = answer(coupled.as_little(variables), genome)
        np.testing.assert_allclose(logits, sliced, rtol=1e-4, atol=1e-4)
        routed = [coupled.route(variables, x) for x in (list(endpoints.values())[-2], endpoint)]
        np.testing.assert_allclose(*routed, rtol=1e-4, atol=1e-4)
        assert np.ptp(np.asarray(routed[0])) > 1e-3


def test_sorting_channels_changes_no_answer_of_the_largest(pairs, variables, answer):
    largest = pairs.space.largest
    sort = jax.jit(lambda v: channel_sorting.sort(pairs, v["params"], v, largest))
    after = sort(variables)
    for role in (lambda v: v, coupled.as_little):
        np.testing.assert_allclose(
            answer(role(after), largest)[0], answer(role(variables), largest)[0], rtol=1e-4, atol=1e-4
        )
    routed = [coupled.route(v, answer(coupled.as_little(v), largest)[1]) for v in (after, variables)]
    np.testing.assert_allclose(*routed, rtol=1e-4, atol=1e-4)
    smallest = [answer(coupled.as_little(v), pairs.space.smallest)[0] for v in (after, variables)]
    assert np.abs(np.asarray(smallest[0]) - smallest[1]).max() > 1e-2


def test_little_has_statistics_of_its_own(pairs, variables, images):
    batches = np.stack([images, images[::-1]])
    for role in (lambda v: v, coupled.as_little):
        net, own = calibration.extract_calibrated(pairs, role(variables), pairs.space.smallest, batches)
        (_, _), updated = net.clone(momentum=0.0).apply(own, images, True, mutable=["batch_stats"])
        for found, wanted in zip(
            jax.tree.leaves(own["batch_stats"]), jax.tree.leaves(updated["batch_stats"]), strict=True
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
