"""Channels masked where they are read: what a loss says of wider ratios, and what of it stays unbatched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.extend import core

from dynnas_jax import masking, relaxed, relaxed_reads
from dynnas_jax.networks import ds_net, gate, gated
from dynnas_jax.stages import slimmable

RATIOS = (0.25, 0.5, 1.0)
FACTS = {"classes": 3, "resolution": 8, "channels": 1, "mean": (0.4,), "std": (0.3,), "ratios": RATIOS}
SMALL = {
    "two gates": (
        ds_net.ds_resnet_small,
        {"depths": (1, 2), "widths": (16, 16), "strides": (1, 2), "stem": 8, "groups": 4},
    ),
    "one gate": (ds_net.ds_mobilenet_small, {"stem": 8, "fixed": ((8, 1, 1),), "gated": ((16, 3, 2),)}),
}
IMAGES, TEMPERATURE = 5, 1.3


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module", params=SMALL)
def network(request, noisy_variables):
    """(supernet, variables with statistics of every path, images)."""
    build, options = SMALL[request.param]
    supernet = build(**FACTS, **options)
    variables = {"batch_stats": {}, **noisy_variables(supernet.largest_net(), (8, 8, 1))}
    images = np.random.default_rng(1).integers(0, 256, (4, 16, 8, 8, 1)).astype(np.uint8)
    return supernet, slimmable.with_path_statistics(supernet, variables, images), images[0, :IMAGES]


def last_gate_picks(supernet, variables, choice):
    """(the variables with a last gate that favours a choice, its block)."""
    block = supernet.arch.segments[-1].blocks[0]
    own = gate.trained(variables["params"])[block]
    bias = np.zeros(len(RATIOS), np.float32)
    bias[choice] = 0.5
    own["choose_conv"] = {"kernel": 0.1 * own["choose_conv"]["kernel"], "bias": bias}
    return {**variables, "params": gate.with_trained(variables["params"], {block: own})}, block


def by_differences(supernet, variables, genome, images, weights):
    """float64[b, choices]: how weighted logits change with the chance of each of the last gate's choices, at a path.

    The path with the last gate's largest choice, as an ordinary net in float64, the rows of its kernels by the chances that
    their channels are there: what slicing cuts has rows of zero.
    """
    own = gated.with_statistics(variables, int(genome[0]))
    paths = [[*genome[:-1], choice] for choice in range(len(RATIOS))]
    nets = [gated.path(supernet, own, np.asarray(path, np.int32)) for path in paths]
    shapes = [{path: leaf.shape for path, leaf in traverse_util.flatten_dict(v["params"]).items()} for _, v in nets]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        net, whole = (
            nets[-1][0].clone(dtype="float64"),
            jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nets[-1][1]),
        )
        run = jax.jit(lambda v: net.apply(v, images)[0] @ weights)

        def answers(chances):
            params = traverse_util.flatten_dict(whole["params"])
            for path, leaf in params.items():
                rows = [known[path][-2] for known in shapes] if path[-1] == "kernel" else [0]
                if len(set(rows)) > 1:
                    scale = sum(p * (np.arange(leaf.shape[-2]) < n) for p, n in zip(chances, rows, strict=True))
                    params[path] = leaf * scale[:, None]
            return np.asarray(run({**whole, "params": traverse_util.unflatten_dict(params)}))

        here, step = np.eye(len(RATIOS))[genome[-1]], 1e-6
        ends = [[answers(here + sign * step * one) for sign in (1, -1)] for one in np.eye(len(RATIOS))]
        return np.stack([(up - down) / (2 * step) for up, down in ends], axis=1)


@pytest.mark.parametrize("choice", range(len(RATIOS)))
def test_the_gradient_of_every_ratio_is_what_its_channels_would_add(network, choice):
    supernet, variables, images = network
    variables, block = last_gate_picks(supernet, variables, choice)
    weights = np.asarray([1.0, -2.0, 0.5], np.float32)

    def answers(bias):
        heads = gate.trained(variables["params"])[block]
        heads["choose_conv"] = {**heads["choose_conv"], "bias": bias}
        own = {**variables, "params": gate.with_trained(variables["params"], {block: heads})}
        ran = gated.masked(supernet, own, images, None, TEMPERATURE)
        return ran.logits @ weights, ran

    bias = jnp.asarray(gate.trained(variables["params"])[block]["choose_conv"]["bias"])
    found, ran = jax.jit(jax.jacrev(answers, has_aux=True))(bias)
    genomes = np.asarray(ran.genome.argmax(-1))
    assert (genomes[:, -1] == choice).all()
    own = np.float64(jax.nn.softmax(ran.scores[-1] / TEMPERATURE))
    for row, genome in enumerate(genomes):
        slope = by_differences(supernet, variables, genome, images[row : row + 1], weights)[0]
        wanted = own[row] * (slope - own[row] @ slope) / TEMPERATURE
        np.testing.assert_allclose(found[row], wanted, rtol=2e-3, atol=2e-4 * np.abs(wanted).max())
        for wider in range(choice + 1, len(RATIOS)):
            assert abs(slope[wider] - slope[choice]) > 1e-3 * np.abs(slope).max(), "it says what wider ones would add"


def test_no_kernel_has_an_axis_of_images(network):
    """In the program of masked images and of its gradient: no array is a kernel for each image."""
    supernet, variables, images = network
    assert IMAGES not in {n for leaf in jax.tree.leaves(variables["params"]) for n in leaf.shape}

    def loss(heads):
        own = {**variables, "params": gate.with_trained(variables["params"], heads)}
        return gated.masked(supernet, own, images, None, 1.0).logits.sum()

    heads = gate.trained(variables["params"])
    frozen = {
        path: leaf for path, leaf in traverse_util.flatten_dict(variables["params"]).items() if path[-1] == "kernel"
    }
    kernels = {leaf.shape for path, leaf in frozen.items() if path[1:] not in traverse_util.flatten_dict(heads)}
    made = {array.shape for array in arrays(jax.make_jaxpr(jax.grad(loss))(heads).jaxpr)}
    assert any(shape[:1] == (IMAGES,) for shape in made)
    trained = {leaf.shape for leaf in jax.tree.leaves(heads)}
    assert not {shape for shape in kernels - trained if (IMAGES, *shape) in made}


def arrays(jaxpr):
    """All arrays of a jaxpr, of those in it too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars if hasattr(variable.aval, "shape"))
        for inner in core.jaxprs_in_params(equation.params):
            yield from arrays(inner)


def test_of_a_genome_it_is_the_subnet_in_training_too(network):
    """Logits, and the statistics of the channels in use, against masked norms."""
    supernet, variables, images = network
    plain = {name: variables[name] for name in ("params", "batch_stats")}
    net = supernet.largest_net()

    @jax.jit
    def both(genome):
        masked = net.apply(masking.mask_variables(supernet, plain, genome), images, True, mutable=["batch_stats"])
        with relaxed_reads.scaled(supernet, relaxed.one_hot(supernet.space, genome)):
            return masked, net.apply(plain, images, True, mutable=["batch_stats"])

    for genome in (supernet.space.smallest, supernet.space.largest):
        masked, read = both(jnp.asarray(genome))
        np.testing.assert_allclose(masked[0][0], read[0][0], atol=2e-5)
        cut = [
            gated.path(supernet, {"params": plain["params"], "batch_stats": {}, **ran[1]}, genome)[1]["batch_stats"]
            for ran in (masked, read)
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *cut)
