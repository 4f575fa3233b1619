"""Training nets of several exits: every exit learns, and a loss is the sum over them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dynnas_jax.elastic import extract, init_supernet
from dynnas_jax.networks import fixed, msdnet, multi_supernet, ofa
from dynnas_jax.train import plain, sandwich
from dynnas_jax.train.rules import Given

QUICK = {"xla_backend_optimization_level": 0}
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
LABELS = np.asarray([0, 2, 1, 1], np.int32)


@pytest.fixture(scope="module")
def supernet():
    small = {"image_size": 8, "stem": 8, "stage_widths": (8,), "stage_strides": (2,), "head": 8, "classes": 3}
    small |= {"widths": (1.0,), "depths": (1, 2), "kernels": (3,), "expands": (2,), "divisor": 4}
    return multi_supernet.build(ofa.small_images(**small), exits=2, ratios=(0.5, 1.0))


def exits_of(net, variables):
    _, endpoints = net.apply(variables, IMAGES, True, mutable=["batch_stats"])[0]
    return [logits for name, logits in endpoints.items() if name in ("exit1", "exit2", "exit3")]


def test_the_sandwich_rule_sums_over_exits(supernet):
    variables = init_supernet(supernet, jax.random.key(0), (8, 8, 3))
    objective = sandwich.rule(random_subnets=1)(supernet)
    run = jax.jit(lambda v, key: objective(Given(v), IMAGES, LABELS, key), compiler_options=QUICK)
    made = run(variables, jax.random.key(1))

    largest, smallest = (extract(supernet, variables, getattr(supernet.space, end)) for end in ("largest", "smallest"))
    own = exits_of(*largest)
    expected = sum(optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean() for logits in own)
    np.testing.assert_allclose(made.metrics["loss_largest"], expected, rtol=1e-5)
    teacher = jax.nn.softmax(own[-1])  # the last exit of the whole net
    expected = sum(optax.softmax_cross_entropy(logits, teacher).mean() for logits in exits_of(*smallest))
    np.testing.assert_allclose(made.metrics["loss_smallest"], expected, rtol=1e-5)
    assert jax.tree.structure(made.gradient) == jax.tree.structure(variables["params"])
    heads = [made.gradient[name] for name in supernet.exits]
    assert all(jnp.abs(leaf).max() > 0 for head in heads for leaf in jax.tree.leaves(head)), "every exit's head learns"


def test_a_random_net_runs_masked_as_it_does_sliced(supernet):
    """Where the random net is the only one there is, its part of the gradient is that of the net itself."""
    variables = init_supernet(supernet, jax.random.key(0), (8, 8, 3))
    results = {}
    for form in ("masked", "pool"):
        rule = sandwich.rule(random_subnets=1, subnets=form, pool_size=1)
        genome = tuple(np.asarray(supernet.space.sample(jax.random.key(7))).tolist())
        given = {"pool": (genome,)} if form == "pool" else {}

        class Drawn:
            """The space, drawing that genome."""

            def __init__(self, space, genome):
                self.space, self.genome = space, jnp.asarray([genome], jnp.int32)

            def __getattr__(self, name):
                return getattr(self.space, name)

            def sample(self, key, count, least=None):
                return self.genome

        own = supernet._replace(space=Drawn(supernet.space, genome)) if form == "masked" else supernet
        objective = rule(own)
        run = jax.jit(
            lambda v, key, objective=objective, given=given: objective(Given(v), IMAGES, LABELS, key, **given),
            compiler_options=QUICK,
        )
        results[form] = run(variables, jax.random.key(1))
    masked, pool = results["masked"], results["pool"]
    np.testing.assert_allclose(masked.metrics["loss_random"], pool.metrics["loss_random"], rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 + 1e-3 * float(jnp.abs(b).max())),
        masked.gradient,
        pool.gradient,
    )


def test_a_fixed_net_of_several_exits_learns_at_each():
    facts = {"image_shape": [8, 8, 3], "classes": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.25] * 3}
    options = {"blocks": 3, "base": 1, "step": 1, "channels": 4, "growth": 4, "factors": (1, 2), "head_width": 4}
    supernet = fixed.build({"name": "msdnet_cifar", **options}, facts)
    assert supernet.exits == ("exit1", "exit2", "exit3")
    assert isinstance(supernet.largest_net().arch, msdnet.Arch)
    variables = init_supernet(supernet, jax.random.key(0), (8, 8, 3))
    objective = plain.rule()(supernet)
    made = jax.jit(lambda v: objective(Given(v), IMAGES, LABELS, jax.random.key(1)), compiler_options=QUICK)(variables)
    own = exits_of(supernet.largest_net(), variables)
    expected = sum(optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean() for logits in own)
    np.testing.assert_allclose(made.metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(made.metrics["accuracy"], (np.asarray(own[-1]).argmax(-1) == LABELS).mean())
