"""The rule of one fixed net, against cross-entropy differentiated directly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynnas_jax.networks import fixed, nasnet
from dynnas_jax.train import plain
from dynnas_jax.train.rules import Given

QUICK = {"xla_backend_optimization_level": 0}


def test_the_update_is_that_of_the_labels_alone(tiny):
    space = tiny.supernet.space
    net = tiny.supernet.net(tiny.supernet.arch(space.largest))
    labels = np.arange(16, dtype=np.int32) % 3
    targets = np.random.default_rng(0).dirichlet(np.ones(3), 16).astype(np.float32)

    def direct(params, wanted):
        variables = {**tiny.variables, "params": params}
        (logits, _), updated = net.apply(variables, tiny.images, True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy(logits, wanted).mean(), (logits, updated["batch_stats"])

    objective = jax.jit(plain.rule(label_smoothing=0.1)(fixed.of_net(net)))
    expected = jax.jit(jax.value_and_grad(direct, has_aux=True))
    for given, one_hot in ((None, np.eye(3, dtype=np.float32)[labels]), (targets, targets)):
        made = objective(Given(tiny.variables), jnp.asarray(tiny.images), labels, jax.random.key(0), targets=given)
        (loss, (logits, stats)), gradient = expected(tiny.variables["params"], 0.9 * one_hot + np.float32(0.1 / 3))
        np.testing.assert_allclose(made.metrics["loss"], loss, rtol=1e-5)
        assert made.metrics["accuracy"] == (logits.argmax(-1) == labels).mean()
        for mine, other in ((made.gradient, gradient), (made.batch_stats, stats)):
            assert jax.tree.structure(mine) == jax.tree.structure(other)
            for one, two in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_what_it_does_not_do(tiny):
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"label_smoothing is {wrong}"):
            plain.rule(label_smoothing=wrong)
    for given in ({"answers": len}, {"subnet_axis": "subnet"}):
        with pytest.raises(ValueError, match="one fixed net learns labels, alone"):
            plain.rule()(tiny.supernet, **given)


def test_paths_are_dropped_more_and_more():
    """None at the first step; in the middle as the net itself does when it is told so."""
    nets = [
        nasnet.nasnet(cells=(1,), filters=2, stem=2, resolution=4, classes=3, keep_path=keep) for keep in (0.3, 1.0)
    ]
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
    variables = jax.jit(nets[0].init)(jax.random.key(0), images[:1])
    labels, key = np.arange(8, dtype=np.int32) % 3, jax.random.key(1)
    dropping, whole = (jax.jit(plain.rule()(fixed.of_net(net)), compiler_options=QUICK) for net in nets)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def direct(progress):
        (logits, _), _ = nets[0].apply(
            variables, images, True, progress, mutable=["batch_stats"], rngs={"drop_path": key}
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    losses = []
    for progress in (0.0, 0.5, 1.0):
        made = dropping(Given(variables, progress=jnp.float32(progress)), images, labels, key)
        losses.append(float(made.metrics["loss"]))
        assert losses[-1] == pytest.approx(float(direct(jnp.float32(progress))), rel=1e-5)
    assert losses[0] == pytest.approx(float(whole(Given(variables), images, labels, key).metrics["loss"]), rel=1e-5)
    assert len(set(losses)) == 3


def test_paths_are_dropped_in_training_and_in_nothing_else():
    """Other keys, other gradients; statistics are measured with all paths."""
    net = nasnet.nasnet(cells=(1,), filters=2, stem=2, resolution=4, keep_path=0.3, classes=3)
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
    variables = jax.jit(net.init)(jax.random.key(0), images[:1])
    objective = jax.jit(plain.rule()(fixed.of_net(net)), compiler_options=QUICK)
    labels = np.arange(8, dtype=np.int32) % 3
    first, again, other = (objective(Given(variables), images, labels, jax.random.key(k)) for k in (1, 1, 2))
    assert first.metrics["loss"] == again.metrics["loss"] != other.metrics["loss"]
    whole = nasnet.nasnet(cells=(1,), filters=2, stem=2, resolution=4, classes=3)
    runs = [
        jax.jit(lambda v, x, n=n: n.apply(v, x, True, mutable=["batch_stats"])[1], compiler_options=QUICK)
        for n in (net, whole)
    ]
    own, expected = (run(variables, images) for run in runs)
    jax.tree.map(np.testing.assert_array_equal, own, expected)
