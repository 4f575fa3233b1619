"""Losses against their formulas in float64."""

import jax
import numpy as np
import pytest

from dynnas_jax.train.losses import LEAST, cross_entropy, log_odds


def test_cross_entropy_is_the_mean_negative_log_likelihood():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(6, 5)) * 4, generator.integers(0, 5, 6)
    likelihood = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = -np.log(likelihood[np.arange(6), labels]).mean()
    np.testing.assert_allclose(
        jax.jit(cross_entropy)(logits.astype(np.float32), labels.astype(np.int32)), wanted, rtol=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_smoothed_and_soft_targets_follow_the_formula(soft, smoothing):
    generator = np.random.default_rng(1)
    logits, labels = generator.normal(size=(6, 5)) * 4, generator.integers(0, 5, 6)
    targets = generator.dirichlet(np.ones(5), 6) if soft else np.eye(5)[labels]
    smoothed = (1 - smoothing) * targets + smoothing / 5
    wanted = -(smoothed * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1).mean()
    given = targets.astype(np.float32) if soft else labels.astype(np.int32)
    found = jax.jit(cross_entropy, static_argnums=2)(logits.astype(np.float32), given, smoothing)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_cross_entropy_of_large_logits_is_finite():
    assert cross_entropy(np.asarray([[1e4, -1e4]], np.float32), np.asarray([1], np.int32)) == 2e4


def test_log_odds_are_those_of_float64_and_stay_finite():
    probability = np.float32([0, 1e-4, 0.25, 0.5, 0.9, 1])
    inside = np.clip(probability.astype(np.float64), LEAST, 1 - LEAST)
    np.testing.assert_allclose(log_odds(probability), np.log(inside / (1 - inside)), rtol=0.01, atol=1e-6)
