"""Distillation against its formula in float64."""

import jax
import numpy as np
import pytest

from dynnas_jax.train.distillation import soft_cross_entropy


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def logits():
    generator = np.random.default_rng(0)
    return generator.normal(size=(2, 6, 5)) * 3


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient(logits, temperature):
    student, teacher = logits
    targets = np.exp(log_softmax(teacher / temperature))
    wanted = -(targets * log_softmax(student / temperature)).sum(-1).mean() * temperature**2
    # d/ds of -T^2 sum t log softmax(s / T) is T (softmax(s / T) - t).
    slope = temperature * (np.exp(log_softmax(student / temperature)) - targets) / len(student)
    loss = jax.jit(jax.value_and_grad(lambda s, t: soft_cross_entropy(s, t, temperature), argnums=(0, 1)))
    value, gradients = loss(student.astype(np.float32), teacher.astype(np.float32))
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradients[0], slope, atol=1e-5)
    np.testing.assert_array_equal(gradients[1], np.zeros_like(teacher))


def test_temperature_is_one_unless_given(logits):
    student, teacher = logits.astype(np.float32)
    assert soft_cross_entropy(student, teacher) == soft_cross_entropy(student, teacher, 1.0)
