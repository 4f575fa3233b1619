"""Switched == sliced: logits and gradients, in evaluation and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import switched
from dynnas_jax.elastic import extract
from dynnas_jax.networks import ofa

QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def supernet():
    moments = {"channels": 1, "mean": (0.4,), "std": (0.3,), "classes": 3}
    stages = {"stem": 4, "stage_widths": (8,), "stage_strides": (2,), "head": 8, "divisor": 4}
    genes = {"widths": (0.5, 1.0), "depths": (1, 2), "kernels": (1, 3), "expands": (1, 2)}
    return ofa.small_images(image_size=8, depthwise="shifts", **moments, **stages, **genes)


def weighted(run):
    """f(variables, images, *more): (logits in evaluation, in training), gradient of a loss of both."""

    def loss(params, variables, images, *more):
        logits = [run({**variables, "params": params}, images, train, *more) for train in (False, True)]
        return sum(jnp.sin(some).sum() for some in logits), logits

    program = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)
    return lambda variables, *more: program(variables["params"], variables, *more)


def test_switched_equals_sliced(supernet, noisy_variables):
    space, variables = supernet.space, noisy_variables(supernet.largest_net(), (8, 8, 1))
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    run = switched.program(supernet)
    found = weighted(lambda variables, images, train, genome: run(variables, images, genome, train))
    one_block = space.largest
    one_block[[space.index("stage1.depth"), space.index("stage1.block0.kernel")]] = 0
    for genome in (space.smallest, one_block):

        def sliced(variables, images, train, genome=genome):
            net, own = extract(supernet, variables, genome)
            return net.apply(own, images, True, mutable=["batch_stats"])[0][0] if train else net.apply(own, images)[0]

        gradient, logits = found(variables, images, jnp.asarray(genome))
        wanted_gradient, wanted = weighted(sliced)(variables, images)
        for some, leaf in zip(logits, wanted, strict=True):
            np.testing.assert_allclose(some, leaf, rtol=1e-4, atol=1e-5)
        for path, leaf in jax.tree_util.tree_leaves_with_path(wanted_gradient):
            other = dict(jax.tree_util.tree_leaves_with_path(gradient))[path]
            np.testing.assert_allclose(
                other, leaf, rtol=0, atol=1e-3 * max(0.01, np.abs(leaf).max()), err_msg=str(path)
            )


def test_choices_that_are_the_same_are_compiled_once():
    """Widths that round to the same channels: stage 1 is 8 channels whatever its gene says."""
    options = {"image_size": 8, "stage_widths": (8,), "stage_strides": (1,), "depths": (1,), "kernels": (3, 5)}
    supernet = ofa.small_images(**options, widths=(0.5, 1.0), expands=(1, 2), head=8)
    position = next(p for p in switched.positions(supernet) if p.name == "stage1_block0")
    choices, table = switched._choices(supernet, position, {})
    assert len(table) == int(np.prod(position.sizes))
    assert len(choices) == 4 <= len(table)
    assert sorted(set(table.tolist())) == list(range(4))
