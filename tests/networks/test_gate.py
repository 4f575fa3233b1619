"""What a tilt does to the heads of a gate, by their scores."""

import jax
import numpy as np
import pytest

from dynnas_jax.networks import gate


@pytest.mark.parametrize("head", gate.HEADS)
def test_a_tilt_moves_choices_one_way(head):
    spec = gate.GateSpec(hidden=4, choices=4, head=head)
    x = np.random.default_rng(0).normal(size=(64, 2, 2, 3)).astype(np.float32) * 5
    params = gate.Gate(spec).init(jax.random.key(0), x)["params"]
    params["choose_conv"]["kernel"] = 40 * params["choose_conv"]["kernel"]  # choices of all kinds
    unit, mean = -np.linspace(0, 1, 4, dtype=np.float32), []
    for tilt in (-200.0, -1.0, 0.0, 1.0, 200.0):
        heads = gate.tilted(gate.trained({"block": {gate.NAME: params}}), {"block": np.float32(tilt) * unit})
        told = gate.scores(spec, gate.with_trained({"block": {gate.NAME: params}}, heads)["block"][gate.NAME], x)
        assert told.shape == (64, 4)
        mean.append(np.asarray(told.argmax(-1)).mean())
    assert mean == sorted(mean, reverse=True)
    assert mean[0] == 3.0
    assert mean[-1] == 0.0
    assert mean[1] > mean[2] > mean[3]
