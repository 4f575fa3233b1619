"""A head of some classes."""

import numpy as np
import pytest

from dynnas_jax import elastic
from dynnas_jax.costs import macs
from dynnas_jax.networks import specialised


def test_the_logits_are_those_of_the_classes(tiny):
    net, variables = elastic.extract(tiny.supernet, tiny.variables, tiny.supernet.space.smallest)
    classes = np.asarray([0, 2])
    own, cut = specialised.specialised(net, variables, classes)
    whole = np.asarray(net.apply(variables, tiny.images)[0])
    np.testing.assert_allclose(own.apply(cut, tiny.images)[0], whole[:, classes], atol=1e-6)
    features = variables["params"]["head"]["classifier"]["kernel"].shape[0]
    before, after = (macs.net_cost(which, (8, 8, 1)) for which in (net, own))
    assert before[0] - after[0] == features
    assert before[1] - after[1] == features + 1


def test_one_class_needs_no_network(tiny):
    net, variables = elastic.extract(tiny.supernet, tiny.variables, tiny.supernet.space.smallest)
    with pytest.raises(ValueError, match="1 class needs no network"):
        specialised.specialised(net, variables, np.asarray([1]))


def test_a_net_without_a_classifier(tiny):
    net, variables = elastic.extract(tiny.supernet, tiny.variables, tiny.supernet.space.smallest)
    params = {name: leaf for name, leaf in variables["params"].items() if name != "head"}
    with pytest.raises(ValueError, match="has no module 'classifier'"):
        specialised.specialised(net, {**variables, "params": params}, np.asarray([0, 1]))
