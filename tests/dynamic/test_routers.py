import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.dynamic import routers


def brute_force(score, thresholds):
    choices = []
    for image in score.T:
        hits = [s for s, threshold in enumerate(thresholds) if image[s] > threshold]
        choices.append(hits[0] if hits else len(score) - 1)
    return choices


@pytest.mark.parametrize("how", ["numpy", "jax", "jit"])
@pytest.mark.parametrize("exits", [1, 2, 4])
def test_equals_brute_force(how, exits):
    generator = np.random.default_rng(exits)
    score = (generator.integers(0, 9, (exits, 200)) / 8).astype(np.float32)  # many scores equal a threshold
    thresholds = (generator.integers(0, 9, exits - 1) / 8).astype(np.float32)
    if how == "numpy":
        out = routers.policy(score, thresholds.tolist())
        assert isinstance(out, np.ndarray)
    else:
        out = (jax.jit(routers.policy) if how == "jit" else routers.policy)(jnp.asarray(score), jnp.asarray(thresholds))
        assert isinstance(out, jax.Array)
    assert out.dtype == np.int32
    assert out.tolist() == brute_force(score, thresholds)


def test_strictly_above_and_last_row_unread():
    score = np.float32([[0.5, 0.50001, 1.0, np.nan], [0, 0, 0, 1]])
    assert routers.policy(score, [0.5]).tolist() == [1, 0, 0, 1]
    assert routers.policy(score, [1.0]).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("thresholds", [[1.5], [-0.1], [np.nan], jnp.float32([2])])
def test_threshold_outside(thresholds):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        routers.policy(np.zeros((2, 3), np.float32), thresholds)


@pytest.mark.parametrize(("shape", "thresholds"), [((2, 3), [0.1, 0.2]), ((3, 3), [0.1]), ((2,), [0.1])])
def test_shapes_that_do_not_fit(shape, thresholds):
    with pytest.raises(ValueError, match="one threshold for each choice but the last"):
        routers.policy(np.zeros(shape, np.float32), thresholds)
