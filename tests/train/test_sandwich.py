"""The rule's gradient against the subnets' gradients, each computed alone and sliced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.elastic import extract
from dynnas_jax.train import distillation, losses, sandwich

TEMPERATURE, KEY = 2.0, jax.random.key(7)


@pytest.fixture(scope="module")
def batch(split):
    return split.images[:12], split.labels[:12]


@pytest.fixture(scope="module")
def variables(micro, noisy_variables):
    return noisy_variables(micro.largest_net(), (8, 8, 1))


@pytest.fixture(scope="module")
def made(micro, variables, batch):
    objective = sandwich.rule(random_subnets=2, temperature=TEMPERATURE)(micro)
    return jax.jit(objective)(variables, *batch, KEY)


@pytest.fixture(scope="module")
def alone(micro, variables, batch):
    """alone(genome, teacher=None): (loss, logits, statistics, gradient) of one sliced subnet."""
    images, labels = batch

    def run(genome, teacher=None):
        net = micro.net(micro.arch(genome))

        def loss(params):
            own = extract(micro, {**variables, "params": params}, genome)[1]
            (logits, _), updated = net.apply(own, images, True, mutable=["batch_stats"])
            if teacher is None:
                return losses.cross_entropy(logits, labels), (logits, updated["batch_stats"])
            return distillation.soft_cross_entropy(logits, teacher, TEMPERATURE), (logits, updated["batch_stats"])

        (value, (logits, stats)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
        return value, logits, stats, gradient

    return run


def test_gradient_is_the_mean_of_the_subnets(micro, batch, made, alone):
    space = micro.space
    loss, teacher, stats, gradient = alone(space.largest)
    genomes = [space.smallest, *np.asarray(space.sample(KEY, 2))]
    assert len({micro.arch(genome) for genome in [space.largest, *genomes]}) == 4
    students = [alone(genome, teacher) for genome in genomes]
    wanted = jax.tree.map(lambda *leaves: sum(leaves) / 4, gradient, *(student[3] for student in students))
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        found = dict(jax.tree_util.tree_leaves_with_path(made.gradient))[path]
        np.testing.assert_allclose(found, leaf, rtol=0, atol=1e-3 * max(0.01, np.abs(leaf).max()), err_msg=str(path))
    found = made.metrics
    np.testing.assert_allclose(found["loss_largest"], loss, rtol=1e-5)
    smallest, *others = (student[0] for student in students)
    np.testing.assert_allclose(found["loss_smallest"], smallest, rtol=1e-5)
    np.testing.assert_allclose(found["loss_random"], sum(others) / 2, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], (loss + smallest + sum(others)) / 4, rtol=1e-5)
    accuracy = (np.asarray(teacher).argmax(-1) == batch[1]).mean()
    assert 0 < accuracy < 1
    np.testing.assert_allclose(found["accuracy_largest"], accuracy, rtol=1e-6)
    # Running statistics are the largest net's, not those of the last subnet that ran.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), made.batch_stats, stats)


def test_targets_and_smoothing_change_what_the_largest_learns_and_not_its_accuracy(micro, variables, batch, made):
    """Of the losses only the largest's."""
    images, labels = batch
    objective = jax.jit(sandwich.rule(random_subnets=0, temperature=TEMPERATURE, label_smoothing=0.2)(micro))
    targets = np.roll(np.eye(3, dtype=np.float32)[labels], 1, axis=1) * 0.3 + np.eye(3, dtype=np.float32)[labels] * 0.7
    found = objective(variables, images, labels, KEY, targets).metrics
    logits = micro.largest_net().apply(variables, images, True, mutable=["batch_stats"])[0][0]
    wanted = losses.cross_entropy(logits, jnp.asarray(0.8 * targets + 0.2 / 3))
    np.testing.assert_allclose(found["loss_largest"], wanted, rtol=1e-5)
    for name in ("loss_smallest", "accuracy_largest"):
        np.testing.assert_allclose(found[name], made.metrics[name], rtol=1e-5)


def test_without_random_subnets_no_such_loss(micro, variables, batch):
    objective = sandwich.rule(random_subnets=0)(micro)
    shapes = jax.eval_shape(objective, variables, *batch, KEY)
    assert set(shapes.metrics) == {"loss", "loss_largest", "loss_smallest", "accuracy_largest"}
    assert all(leaf.shape == () and leaf.dtype == jnp.float32 for leaf in shapes.metrics.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_subnets": -1}, "random_subnets is -1, must not be negative"),
        ({"temperature": 0}, "temperature is 0, must be above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, must be at least 0 and below 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        sandwich.rule(**options)
