"""What one net answers, against its logits sorted."""

import jax
import numpy as np
import pytest

from dynnas_jax.confidence import SCORES
from dynnas_jax.data.splits import Split
from dynnas_jax.dynamic import single


@pytest.mark.parametrize("at_once", [100, 8])
def test_the_likeliest_classes_of_every_image(tiny, at_once):
    net, labels = tiny.supernet.largest_net(), np.arange(13, dtype=np.int32) % 3
    split = Split(tiny.images[:13], labels, np.arange(13))
    logits = np.asarray(jax.jit(lambda v, x: net.apply(v, x)[0])(tiny.variables, split.images), np.float64)
    found = single.answers(net, tiny.variables, split, score="margin", batch=4, at_once=at_once)
    order = np.argsort(-logits, axis=1)
    np.testing.assert_array_equal(found.likeliest, order)  # of three classes all
    np.testing.assert_array_equal(found.correct, order[:, 0] == labels)
    assert found.among_likeliest.all()
    np.testing.assert_allclose(found.score, SCORES["margin"](logits), atol=1e-5)
    few = found._replace(likeliest=order[:, :2])
    np.testing.assert_array_equal(few.among_likeliest, (order[:, 0] == labels) | (order[:, 1] == labels))
