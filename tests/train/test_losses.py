"""Losses against their formulas in float64."""

import jax
import numpy as np

from dynnas_jax.train.losses import cross_entropy


def test_cross_entropy_is_the_mean_negative_log_likelihood():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(6, 5)) * 4, generator.integers(0, 5, 6)
    likelihood = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = -np.log(likelihood[np.arange(6), labels]).mean()
    np.testing.assert_allclose(
        jax.jit(cross_entropy)(logits.astype(np.float32), labels.astype(np.int32)), wanted, rtol=1e-5
    )


def test_cross_entropy_of_large_logits_is_finite():
    assert cross_entropy(np.asarray([[1e4, -1e4]], np.float32), np.asarray([1], np.int32)) == 2e4
