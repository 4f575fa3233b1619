"""The averages and the reward, against the paper's own figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.dynamic import metric

# ENAS4D, arXiv 2009.09182: average top-1 and MACs, cumulative MACs (Table 1), fractions and top-1 of the stages (Table 3).
PAPER = {
    "A": (70.5, 92, (75, 148, 240), (80.3, 17.3, 2.3), (79.4, 37.1, 15.6)),
    "B": (70.8, 123, (90, 175, 218), (67.2, 21.6, 11.2), (85.7, 49.3, 23.1)),
    "C": (72.1, 153, (103, 149, 237), (44.3, 27.9, 27.9), (94.6, 70.5, 38.2)),
    "D": (74.4, 185, (141, 201, 359), (64.7, 20.9, 14.4), (89.5, 57.1, 31.8)),
}


@pytest.mark.parametrize("network", PAPER)
def test_averages_are_the_papers(network):
    accuracy, macs, cost, exits, hits = PAPER[network]
    found = metric.averages(np.asarray(exits) / 100, np.asarray(hits) / 100, np.asarray(cost))
    assert 100 * found.accuracy == pytest.approx(accuracy, abs=0.15)
    assert found.cost == pytest.approx(macs, abs=1)


def test_the_reward_falls_beyond_the_target_only():
    assert metric.reward(0.7, 90.0, 100) == 0.7
    assert metric.reward(0.7, 200.0, 100, omega=1.0) == pytest.approx(0.35)
    assert metric.reward(0.7, 200.0, 100) == pytest.approx(0.7 * 0.5**0.09)
    assert metric.reward(0.7, 200.0, 100, omega=0.0) == 0.7
    costs = np.float32([50, 100, 200])
    traced = jax.jit(lambda cost: metric.reward(jnp.float32(0.7), cost, 100))(costs)
    np.testing.assert_allclose(traced, [metric.reward(0.7, float(cost), 100) for cost in costs], rtol=1e-6)
