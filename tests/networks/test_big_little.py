"""The pair: two nets of one supernet that share the stem, against each net alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.costs import macs
from dynnas_jax.networks import big_little

STEM_MACS = 8 * 8 * (3 * 3 * 1) * 8  # of `tiny`: 8x8 pixels, a 3x3 kernel, 1 channel in, 8 out
STEM_PARAMS = 3 * 3 * 1 * 8 + 2 * 8


def both(pair):
    """(variables, images) -> logits[2, b, classes], the stem run once."""

    def run(variables, images):
        stem = big_little.run_stem(pair, variables, images)
        return jnp.stack([big_little.after_stem(pair, which, variables, stem) for which in ("little", "big")])

    return jax.jit(run)


def test_outputs_are_those_of_each_net_alone(tiny_pair, tiny):
    pair, variables = tiny_pair
    logits = both(pair)(variables, tiny.images)
    assert logits.shape == (2, 16, 3)
    for s, (which, net) in enumerate((("little", pair.little), ("big", pair.big))):
        alone = jax.jit(lambda v, x, net=net: net.apply(v, x)[0])(variables[which], tiny.images)
        np.testing.assert_allclose(logits[s], alone, rtol=1e-5, atol=1e-5)
    assert np.ptp(logits, axis=1).min() > 0.01  # neither net is blind to its images
    assert np.abs(logits[0] - logits[1]).max() > 0.01


def test_the_stem_is_what_stands_in_front_of_every_choice(tiny_pair, tiny):
    pair, variables = tiny_pair
    assert pair.stem == ("stem",)
    stem = jax.jit(lambda v, x: big_little.run_stem(pair, v, x))(variables, tiny.images)
    alone = jax.jit(lambda v, x: pair.big.apply(v, x)[1]["stem"])(variables["big"], tiny.images)
    assert stem.shape == (16, 8, 8, 8)
    np.testing.assert_allclose(stem, alone, rtol=1e-6, atol=1e-6)


def test_costs_count_the_stem_once(tiny):
    space = tiny.supernet.space
    genomes = np.asarray(space.sample(jax.random.key(3), 6))
    for little, big in ((space.smallest, space.largest), *genomes.reshape(3, 2, -1)):
        pair = big_little.build(tiny.supernet, little, big)
        found = big_little.cost(pair)
        expected = [macs.net_cost(net, (8, 8, 1))[0] for net in (pair.little, pair.big)]
        assert found.stem == STEM_MACS
        assert [found.little, found.big] == expected
        assert found.cumulative == (expected[0], expected[0] + expected[1] - STEM_MACS)


def test_params_count_the_stem_once(tiny_pair):
    pair, variables = tiny_pair
    nets = [macs.net_cost(net, (8, 8, 1))[1] for net in (pair.little, pair.big)]
    assert big_little.params(pair, variables) == sum(nets) - STEM_PARAMS


def test_another_form_computes_and_costs_the_same(tiny_pair, tiny):
    pair, variables = tiny_pair
    shifts = big_little.in_form(pair, "shifts")
    assert (shifts.little.depthwise, shifts.big.depthwise) == ("shifts", "shifts")
    one, other = (both(form)(variables, tiny.images) for form in (pair, shifts))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert big_little.cost(shifts) == big_little.cost(pair)


def test_a_genome_out_of_range_is_refused(tiny):
    wrong = tiny.supernet.space.largest
    wrong[-1] = 9
    with pytest.raises(ValueError, match="is 9, out of range 0 to 1"):
        big_little.build(tiny.supernet, wrong, tiny.supernet.space.largest)


def test_two_nets_that_share_nothing(tiny_pair, tiny):
    """Each reads the image; big's whole cost comes on top of little's."""
    shared, variables = tiny_pair
    pair = shared._replace(stem=())
    assert big_little.run_stem(pair, variables, tiny.images) is tiny.images
    np.testing.assert_allclose(both(pair)(variables, tiny.images), both(shared)(variables, tiny.images), rtol=1e-5)
    little, big = (macs.net_cost(net, (8, 8, 1)) for net in (pair.little, pair.big))
    assert big_little.cost(pair) == big_little.PairCost(0, little[0], big[0], (little[0], little[0] + big[0]))
    assert big_little.params(pair, variables) == little[1] + big[1]
