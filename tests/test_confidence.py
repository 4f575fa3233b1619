import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from dynnas_jax import confidence


def reference(name, logits):
    """The definitions in float64, by SciPy."""
    p = special.softmax(np.asarray(logits, np.float64), axis=-1)
    ordered = np.sort(p, axis=-1)
    return {
        "max_softmax": ordered[..., -1],
        "margin": ordered[..., -1] - ordered[..., -2],
        "entropy": 1 - stats.entropy(p, axis=-1) / np.log(p.shape[-1]),
    }[name]


@pytest.mark.parametrize("name", confidence.SCORES)
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, "jit"], ids=["numpy", "jax", "jit"])
@pytest.mark.parametrize("shape", [(7,), (64, 10), (2, 5, 2), (3, 1000)])
def test_equals_definition(name, convert, shape):
    logits = np.random.default_rng(0).normal(0, 4, shape).astype(np.float32)
    score = confidence.SCORES[name]
    out = jax.jit(score)(logits) if convert == "jit" else score(convert(logits))
    assert out.shape == shape[:-1]
    assert out.dtype == np.float32
    np.testing.assert_allclose(np.asarray(out), reference(name, logits), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", confidence.SCORES)
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_extreme_logits(name, convert):
    logits = np.float32(
        [[3e38, -3e38, 0, 0], [1e4, 1e4, -1e4, 0], [5, 5, 5, 5], [-np.inf, 2, 1, -np.inf], [3e4, 2.9e4, 0, 0]]
    )
    with np.errstate(over="ignore"):  # 3e38 - -3e38 is not a float32; the score does not mind
        out = np.asarray(confidence.SCORES[name](convert(logits)))
    pair = special.softmax([2.0, 1.0])
    by_hand = {
        "max_softmax": [1, 0.5, 0.25, pair[0], 1],
        "margin": [1, 0, 0, pair[0] - pair[1], 1],
        "entropy": [1, 0.5, 0, 1 + (pair * np.log(pair)).sum() / np.log(4), 1],
    }
    np.testing.assert_allclose(out, by_hand[name], atol=1e-6)
    assert np.all((out >= 0) & (out <= 1))


def test_margin_of_a_tie_is_zero_and_small_margins_survive():
    logits = np.float32([[2, 2, 0], [1e-6, 0, -50]])
    margin = confidence.margin(logits)
    assert margin[0] == 0
    np.testing.assert_allclose(margin[1], 0.5e-6, rtol=1e-5)


def test_scores_differentiate():
    for score in confidence.SCORES.values():
        gradient = jax.grad(lambda x, score=score: score(x).sum())(jnp.float32([[1, 2, 3], [500, 0, -500]]))
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("shape", [(), (3, 1)])
def test_too_few_classes(shape):
    with pytest.raises(ValueError, match="at least 2 classes"):
        confidence.max_softmax(np.zeros(shape, np.float32))


def test_needs_numpy_only():
    code = (
        "import sys, runpy; sys.modules['jax'] = None\n"
        f"scores = runpy.run_path({confidence.__file__!r})['SCORES']\n"
        "import numpy as np; print([float(f(np.float32([0, 0]))) for f in scores.values()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0.5, 0.0, 0.0]"
