import numpy as np
import pytest

from dynnas_jax.search import pareto


def brute_force(cost, accuracy):
    dominated = [
        any(
            c <= cost[i] and a >= accuracy[i] and (c < cost[i] or a > accuracy[i])
            for c, a in zip(cost, accuracy, strict=True)
        )
        for i in range(len(cost))
    ]
    return ~np.array(dominated, bool)


@pytest.mark.parametrize("values", [3, 10, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_front_equals_brute_force_with_ties(seed, values):
    rng = np.random.default_rng(seed)
    cost, accuracy = rng.integers(0, values, (2, 60)) / values
    marked = pareto.front(cost, accuracy)
    np.testing.assert_array_equal(marked, brute_force(cost, accuracy))
    assert marked.any()


def test_equal_points_and_infinities_are_kept():
    cost = np.array([1, 1, 2, np.inf])
    accuracy = np.array([0.5, 0.5, -np.inf, 0.6])
    np.testing.assert_array_equal(pareto.front(cost, accuracy), [True, True, False, True])
    assert pareto.front(np.zeros(0), np.zeros(0)).shape == (0,)


def test_what_cannot_be_ordered_is_refused():
    with pytest.raises(ValueError, match=r"accuracy\[1\] is NaN"):
        pareto.front(np.ones(3), np.array([1, np.nan, 2]))
    with pytest.raises(ValueError, match="vectors of one length"):
        pareto.front(np.ones(3), np.ones(2))
