"""What one net answers, against its logits sorted."""

import functools

import jax
import numpy as np
import pytest

from dynnas_jax.confidence import SCORES
from dynnas_jax.data.splits import Split
from dynnas_jax.dynamic import protocol, single


@pytest.mark.parametrize("at_once", [100, 8])
def test_one_net_is_a_dynamic_network_of_one_choice(tiny, at_once):
    net, labels = tiny.supernet.largest_net(), np.arange(13, dtype=np.int32) % 3
    split = Split(tiny.images[:13], labels, np.arange(13))
    logits = np.asarray(jax.jit(lambda v, x: net.apply(v, x)[0])(tiny.variables, split.images), np.float64)
    outputs = functools.partial(single.outputs, net, score="margin")
    found = protocol.answering(outputs, batch=4, at_once=at_once)(tiny.variables, split)
    assert all(leaf.shape == (13, 1) for leaf in found)
    np.testing.assert_array_equal(found.prediction[:, 0], logits.argmax(axis=1))
    np.testing.assert_array_equal(found.correct[:, 0], logits.argmax(axis=1) == labels)
    np.testing.assert_allclose(found.score[:, 0], SCORES["margin"](logits), atol=1e-5)
    np.testing.assert_allclose(found.probability[:, 0], SCORES["max_softmax"](logits), atol=1e-5)
    assert found.among_likeliest.all()  # of three classes all
