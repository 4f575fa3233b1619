"""Which step a router's scores lead to."""

import numpy as np
import pytest

from dynnas_jax.export import handover, metadata


@pytest.mark.parametrize(
    ("scores", "thresholds", "forced", "step"),
    [
        ([0.6], [0.5], None, 0),
        ([0.5], [0.5], None, 1),  # strictly above
        ([0.1, 3.0, -2.0], [], None, 1),
        ([0.1, 0.1, 0.0], [], None, 0),
        ([0.1, 3.0, -2.0], [], 2, 2),
    ],
)
def test_chosen(scores, thresholds, forced, step):
    assert handover.chosen(np.asarray(scores, np.float32), thresholds, forced) == step


def test_metadata_of_a_router_that_picks():
    told = {"version": metadata.VERSION, "labels": ["a", "b"], "image_shape": [8, 8, 1], "router": "gate"}
    told |= {
        "steps": ["path1", "path2", "path3"],
        "files": dict.fromkeys(("gate", "path1", "path2", "path3"), "m.tflite"),
    }
    told |= {"cost": [1, 2, 3], "thresholds": [], "policy": {"rule": metadata.PICKED, "score": "max_softmax"}}
    assert metadata.check(told, "it") is told
    assert metadata.picks(told)
    with pytest.raises(ValueError, match="does not give 0 thresholds"):
        metadata.check({**told, "thresholds": [0.5, 0.5]}, "it")
    with pytest.raises(ValueError, match="does not give 2 thresholds"):
        metadata.check({**told, "policy": {"rule": metadata.ROUTED, "score": "max_softmax"}}, "it")
    without = {name: value for name, value in told.items() if name != "router"}
    assert not metadata.picks(without)
