import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from dynnas_jax import job, settings
from dynnas_jax.confidence import SCORES
from dynnas_jax.costs import macs
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


# The routers of a pair.


@pytest.fixture(scope="module")
def seen():
    """(features float32[6, 4, 5, 3], one image of which is dead, logits float32[6, 7])."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(6, 4, 5, 3)).astype(np.float32) * np.float32([0.1, 1, 20])
    features[2] = 0
    return features, generator.normal(size=(6, 7)).astype(np.float32)


def test_statistics_in_float64(seen):
    x = seen[0].astype(np.float64)
    energy = np.square(x)
    magnitude = np.stack([np.sqrt(energy.mean(axis=(1, 2, 3))), np.abs(x).mean(axis=(1, 2, 3))], axis=-1)
    with np.errstate(invalid="ignore"):
        spread = [
            stats.entropy(part.reshape(6, -1), axis=1, base=part[0].size)
            for part in (energy.mean((1, 2)), energy.mean(3))
        ]
    wanted = {"mean": x.mean(axis=(1, 2)), "variance": x.var(axis=(1, 2)), "norm": magnitude}
    wanted["entropy"] = np.nan_to_num(np.stack(spread, axis=-1))
    assert set(wanted) == set(routers.STATISTICS)
    for name, values in wanted.items():
        np.testing.assert_allclose(routers.STATISTICS[name](seen[0]), values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_one_signature(seen):
    """Each router's score from what it may look at, against the formula in float64."""
    features, logits = seen
    generator = np.random.default_rng(1)
    learned = {
        "hidden": {"kernel": generator.normal(size=(3, 4)), "bias": generator.normal(size=4)},
        "out": {"kernel": generator.normal(size=(4, 1)), "bias": generator.normal(size=1)},
    }
    difficulty = {"kernels": {"variance": generator.normal(size=(3, 1)) / 100, "norm": np.ones((2, 1))}, "bias": [-2.0]}
    mean, variance = (getattr(features.astype(np.float64), name)(axis=(1, 2)) for name in ("mean", "var"))
    hidden = np.maximum(mean @ learned["hidden"]["kernel"] + learned["hidden"]["bias"], 0)
    weighed = np.asarray(routers.norm(features)).sum(axis=1) + (variance @ difficulty["kernels"]["variance"])[:, 0] - 2
    wanted = (
        (routers.Router("confidence", confidence="margin"), None, SCORES["margin"](logits)),
        (
            routers.Router("learned"),
            learned,
            special.expit((hidden @ learned["out"]["kernel"])[:, 0] + learned["out"]["bias"]),
        ),
        (routers.Router("difficulty", statistics=("variance", "norm")), difficulty, special.expit(weighed)),
    )
    for router, params, scores in wanted:
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params, is_leaf=lambda x: isinstance(x, list))
        np.testing.assert_allclose(router.score(params, features, logits), scores, rtol=1e-4, atol=1e-5)
        assert routers.Router.from_json(router.to_json()) == router
        assert np.ptp(scores) > 0.1


def test_the_learned_router_costs_less_than_a_hundredth_of_the_smallest_little():
    """Of the space of the CIFAR-10 recipe."""
    config = settings.as_dict(settings.load(["--config=configs/cifar10.py"]))
    facts = {"image_shape": [32, 32, 3], "classes": list("abcdefghij"), "mean": [0.5] * 3, "std": [0.2] * 3}
    supernet = job.build_supernet(config["supernet"], facts)
    arch = supernet.arch(supernet.space.smallest)
    channels = list(arch.named_blocks())[-1][1].out
    shapes = {"hidden": {"kernel": (channels, 16), "bias": (16,)}, "out": {"kernel": (16, 1), "bias": (1,)}}
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    features = jax.ShapeDtypeStruct((1, 8, 8, channels), np.float32)
    cost = routers.Router("learned").cost(params, features, None)
    assert cost == (channels * 16 + 16, channels * 16 + 16 + 16 + 1)
    assert cost.macs < 0.01 * macs.net_cost(supernet.net(arch), (32, 32, 3))[0]
