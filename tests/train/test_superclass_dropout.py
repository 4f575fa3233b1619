"""Superclass dropout: which logits remain, and the loss over them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynnas_jax import devices, elastic
from dynnas_jax.train import distillation, losses, rules, sandwich, state, superclass_dropout
from dynnas_jax.train.step import make_step

OWNER = np.asarray([0, 2, 1, 0, 1, 2, 2])  # of seven classes in three superclasses
LABELS = np.arange(7, dtype=np.int32).repeat(300)


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


def kept(rate, labels=LABELS, seed=0):
    return np.asarray(superclass_dropout.rule(OWNER, rate)(jax.random.key(seed), jnp.asarray(labels)))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_superclasses_drop_as_a_whole_the_own_never(rate):
    found = kept(rate)
    for label, row in zip(LABELS, found, strict=True):
        assert row[OWNER[label] == OWNER].all()
        for other in range(3):
            assert len(set(row[other == OWNER].tolist())) == 1
    foreign = found[OWNER[LABELS][:, None] != OWNER[None]]
    assert foreign.mean() == pytest.approx(1 - rate, abs=0.03)
    # Superclass by superclass and image by image, independently.
    pairs = found[LABELS == 0][:, [1, 2]]
    assert pairs.all(axis=1).mean() == pytest.approx((1 - rate) ** 2, abs=0.1)


def test_mixed_images_keep_all_their_superclasses():
    targets = np.zeros((2, 7), np.float32)
    targets[0, [0, 2]] = 0.4, 0.6
    targets[1, 5] = 1.0
    found = kept(1.0, targets)
    assert found[0].tolist() == (np.isin(OWNER, [0, 1])).tolist()
    assert found[1].tolist() == (OWNER == 2).tolist()


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan"), "0.5", True])
def test_a_rate_is_from_0_to_1(rate):
    with pytest.raises(ValueError, match="superclass_dropout is .*, must be a number from 0 to 1"):
        superclass_dropout.rule(OWNER, rate)


def softmax(logits):
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_over_what_remains(smoothing):
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(20, 7)) * 3, np.arange(20) % 7
    mask = kept(0.5, labels)
    expected = []
    for row, label, remain in zip(logits, labels, mask, strict=True):
        classes = np.flatnonzero(remain)
        target = (1 - smoothing) * (classes == label) + smoothing / len(classes)
        expected.append(-(target * np.log(softmax(row[classes]))).sum())
    arguments = jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32), smoothing
    found = losses.cross_entropy(*arguments, jnp.asarray(mask))
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)
    everything = losses.cross_entropy(*arguments, jnp.ones_like(jnp.asarray(mask)))
    assert float(everything) == pytest.approx(float(losses.cross_entropy(*arguments)), rel=1e-5)


def test_distillation_is_over_what_remains():
    generator = np.random.default_rng(1)
    student, teacher = generator.normal(size=(2, 20, 7))
    mask = kept(0.5, np.arange(20) % 7)
    expected = []
    for a, b, remain in zip(student, teacher, mask, strict=True):
        expected.append(-(softmax(b[remain]) * np.log(softmax(a[remain]))).sum())
    both = (losses.among(jnp.asarray(x, jnp.float32), jnp.asarray(mask)) for x in (student, teacher))
    assert float(distillation.soft_cross_entropy(*both)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_sandwich_learns_over_what_remains(tiny):
    """Its losses are those of the losses' own functions on the nets' logits."""
    objective = sandwich.rule(random_subnets=0)(tiny.supernet)
    labels = jnp.asarray(np.arange(16) % 3, jnp.int32)
    mask = superclass_dropout.rule(np.asarray([0, 0, 1]), 0.5)(jax.random.key(3), labels)
    made = jax.jit(objective)(rules.Given(tiny.variables), tiny.images, labels, jax.random.key(0), kept=mask)
    answers = {}
    for name in ("smallest", "largest"):
        net, own = elastic.extract(tiny.supernet, tiny.variables, getattr(tiny.supernet.space, name))
        answers[name] = net.apply(own, tiny.images, True, mutable=["batch_stats"])[0][0]
    largest = losses.cross_entropy(answers["largest"], labels, kept=mask)
    assert float(made.metrics["loss_largest"]) == pytest.approx(float(largest), rel=1e-4)
    both = losses.among(answers["smallest"], mask), losses.among(answers["largest"], mask)
    assert float(made.metrics["loss_smallest"]) == pytest.approx(
        float(distillation.soft_cross_entropy(*both)), rel=1e-4
    )


def test_what_is_dropped_does_not_depend_on_the_number_of_devices(tiny):
    """What remains is drawn for the whole batch, and each device has its part of it."""

    def rule(supernet, axis_name=None, answers=None):
        def objective(given, images, labels, key, kept):
            weights = jnp.arange(1, 1 + kept.shape[1], dtype=jnp.float32)
            code = (labels.astype(jnp.float32) + 1) * (kept.astype(jnp.float32) * weights[None]).sum(axis=1)
            return rules.Update(given.variables["params"], given.variables["batch_stats"], {"loss": code.mean()})

        return objective

    found, drop = [], superclass_dropout.rule(np.asarray([0, 1, 2]), 0.5)
    for count in (1, 8):
        mesh = devices.data_mesh(count)
        transform = optax.set_to_zero()
        step = make_step(tiny.supernet, rule, transform, mesh, drop=drop)
        start = state.create(jax.tree.map(jnp.array, tiny.variables), transform)
        labels = jnp.asarray(np.arange(16) % 3, jnp.int32)
        indices = jnp.arange(16, dtype=jnp.int32)
        put = functools.partial(devices.replicated, mesh)
        _, told = step(put(start), *put((jnp.asarray(tiny.images), labels, indices)), jax.random.key(1))
        found.append(float(told["loss"]))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
