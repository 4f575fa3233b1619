"""What eight devices tell each other in a training step, from its compiled program: gradients and moments, never their images."""

import functools
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from dynnas_jax import devices, settings
from dynnas_jax.data import augment, mixing
from dynnas_jax.train import loop, rules, sandwich

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import hlo  # noqa: E402
from scaling import lowered_step, purpose  # noqa: E402

DEVICES, BATCH, IN_MEMORY, SHAPE = 8, 16, 40, (8, 8, 1)


def augmentation(recipe):
    """The augmentations of a recipe."""
    config = settings.as_dict(settings.load([f"--config={ROOT / 'configs' / recipe}.py"]))
    return augment.rule(**config["data"]["augment"])


def brightness(supernet, axis, answers):
    """A rule without a net, which compiles faster."""

    def objective(given, images, labels, key, targets=None):
        nothing = jax.tree.map(jnp.zeros_like, given.variables["params"])
        learned = labels if targets is None else targets
        metrics = {"loss": images.astype(jnp.float32).mean() + learned.astype(jnp.float32).mean()}
        return rules.Update(nothing, given.variables["batch_stats"], metrics)

    return objective


def program(micro, rule=brightness, subnet=1, **options):
    """The text of a step's program for eight devices."""
    options = {"in_memory": IN_MEMORY, "augment": augmentation("cifar10"), **options}
    return lowered_step(micro, rule, devices.data_mesh(DEVICES, subnet), BATCH, SHAPE, **options).compile().as_text()


def is_whole_batch(array):
    """Whether an array of one device has room for all images of a step; those of the split in memory may be there."""
    images = array.shape[:3] == (BATCH, *SHAPE[:2])
    return images or (
        array.dtype == "u8" and array.shape[:1] != (IN_MEMORY,) and array.size_bytes >= BATCH * math.prod(SHAPE)
    )


def whole_batches(text):
    """(operations whose result is as large as the images of the whole batch, exchanges of that size)."""
    made = [name for name, results in hlo.arrays(text) if any(map(is_whole_batch, results))]
    size = BATCH * math.prod(SHAPE)
    exchanged = [c for c in hlo.collectives(text) if c.kind != "all-reduce" and c.size_bytes >= size]
    return made, exchanged


CASES = {
    "in memory": {"rule": sandwich.rule(random_subnets=1)},
    # A device has four images then: padded, they would be as large as all sixteen.
    "random subnets spread over devices": {"rule": sandwich.rule(random_subnets=2), "subnet": 2, "augment": None},
    "in memory, two steps a call, mixed": {"steps_per_call": 2, "mix": mixing.rule(mixup=0.2, cutmix=1.0)},
    "streamed, resized, mixed": {"in_memory": None, "resolution": 6, "mix": mixing.rule(mixup=0.2)},
}


@pytest.fixture(scope="module")
def programs(micro):
    """programs(case): the text of a case's program, compiled once."""
    return functools.cache(lambda case: program(micro, **CASES[case]))


@pytest.mark.parametrize("case", CASES)
def test_no_device_gets_the_images_of_the_whole_batch(programs, case):
    assert whole_batches(programs(case)) == ([], [])


def test_colours_of_each_image_are_changed_where_it_is(micro, monkeypatch):
    """In the form for accelerators; a CPU takes the images one after another."""
    augment = augmentation("imagenet_ofa")

    def on_accelerator(key, images):
        with monkeypatch.context() as patched:
            patched.setattr(jax, "default_backend", lambda: "gpu")
            return augment(key, images)

    assert whole_batches(program(micro, augment=on_accelerator, in_memory=None)) == ([], [])


def test_a_gathered_batch_is_found(micro):
    shuffled = lambda key, images: images[jax.random.permutation(key, len(images))]  # noqa: E731 - one line says it all
    made, exchanged = whole_batches(program(micro, augment=shuffled))
    assert made
    assert [collective.kind for collective in exchanged] == ["all-gather"]


def test_gradients_and_moments_are_reduced(micro, programs):
    """The gradient of every param, and four moments for each norm of both nets."""
    reduced = [c for c in hlo.collectives(programs("in memory")) if c.kind == "all-reduce"]
    params = jax.eval_shape(micro.largest_net().init, jax.random.key(0), jnp.zeros((1, *SHAPE), jnp.uint8))["params"]
    squeezed = lambda shape: tuple(length for length in shape if length > 1)  # noqa: E731 - XLA drops axes of length 1
    wanted = [squeezed(leaf.shape) for leaf in jax.tree.leaves(params)]
    found = [squeezed(array.shape) for collective in reduced for array in collective.results]
    kernels = lambda shapes: sorted(shape for shape in shapes if len(shape) > 1)  # noqa: E731 - moments are vectors
    assert kernels(found) == kernels(wanted)
    norms = sum(path[-1].key == "scale" for path, _ in jax.tree_util.tree_leaves_with_path(params))
    assert len(found) - len(kernels(found)) >= len(wanted) - len(kernels(wanted)) + 2 * 4 * norms


def test_metrics_are_reduced_once_together_with_the_gradient(micro, programs):
    """Beside the moments of norms a step has one exchange: every param's gradient and all metrics, each once.

    The running statistics need none: they come from moments that all devices have already.
    """
    exchanged = [c for c in hlo.collectives(programs("in memory")) if purpose(c) != "batch statistics"]
    (whole,) = exchanged
    assert whole.kind == "all-reduce"
    update = jax.eval_shape(functools.partial(one_update, micro))
    leaves = jax.tree_util.tree_leaves_with_path((update.gradient, update.metrics))
    wanted = sum(leaf.size for _, leaf in leaves)
    # A sum of a norm's backward pass may be a gradient of its own, and has been exchanged there.
    norms = sum(leaf.size for path, leaf in leaves if "norm" in jax.tree_util.keystr(path))
    assert len(update.metrics) >= 4
    assert sum(array.shape == () for array in whole.results) == len(update.metrics)
    assert wanted - norms <= sum(math.prod(array.shape) for array in whole.results) <= wanted


def one_update(supernet):
    """What the rule of the case makes of a batch, on one device."""
    variables = supernet.largest_net().init(jax.random.key(0), jnp.zeros((1, *SHAPE), jnp.uint8))
    images, labels = jnp.zeros((BATCH, *SHAPE), jnp.uint8), jnp.zeros(BATCH, jnp.int32)
    given = rules.Given(variables, variables["params"], None, None)
    return CASES["in memory"]["rule"](supernet, None, None)(given, images, labels, jax.random.key(1))


def test_the_host_fetches_nothing_of_a_step_that_is_not_logged(micro, split, monkeypatch):
    """Once for the steps that are logged, whatever they measured; the training state is looked at then too."""
    fetched = []
    monkeypatch.setattr(devices, "on_host", lambda tree, real=devices.on_host: fetched.append(tree) or real(tree))
    options = {"batch_size": 16, "mesh": devices.data_mesh(DEVICES), "trackers": ()}
    loop.fit(micro, split, sandwich.rule(random_subnets=0), steps=6, log_every=3, **options)
    assert [sorted(tree) == sorted(fetched[0]) and "loss" in tree for tree in fetched] == [True, True]


def test_the_reader_finds_what_a_program_exchanges():
    mesh, split = devices.data_mesh(DEVICES), PartitionSpec(devices.DATA)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(split, split, split), out_specs=(PartitionSpec(), split, split)
    )
    def exchange(x, y, z):
        following = [(i, (i + 1) % DEVICES) for i in range(DEVICES)]
        summed, (turned, scattered) = (
            jax.lax.psum(x, devices.DATA),
            (
                jax.lax.ppermute(y, devices.DATA, following),
                jax.lax.psum_scatter(z, devices.DATA, tiled=True),
            ),
        )
        return summed, turned, scattered

    shapes = [
        jax.ShapeDtypeStruct(*spec) for spec in (((8, 3), jnp.float32), ((16, 5), jnp.uint8), ((64, 2), jnp.bfloat16))
    ]
    found = hlo.collectives(jax.jit(exchange).lower(*shapes).compile().as_text())
    sizes = {collective.kind: (len(collective.results), collective.size_bytes) for collective in found}
    assert sizes["all-reduce"] == (1, 1 * 3 * 4)
    assert sizes["collective-permute"] == (1, 2 * 5 * 1)
    assert sizes["reduce-scatter"][0] == 1
    assert sizes["reduce-scatter"][1] in (1 * 2 * 2, 1 * 2 * 4)  # the CPU's program sums bfloat16 as float32


def test_the_reader_takes_a_tuple_apart_and_counts_an_asynchronous_exchange_once():
    text = """
  %a = (f32[2,3]{1,0:T(8,128)}, /*index=1*/pred[]) all-reduce(%x, %y), to_apply=%sum, metadata={op_name="jit(f)/norm/psum"}
  ROOT %s = (u8[4]{0}, u8[32]{0}) all-gather-start(%z), dimensions={0}
  %d = u8[32]{0} all-gather-done(%s)
"""
    reduced, gathered = hlo.collectives(text)
    assert reduced == ("all-reduce", (("f32", (2, 3)), ("pred", ())), "jit(f)/norm/psum")
    assert (reduced.size_bytes, gathered.size_bytes) == (25, 32)
    with pytest.raises(ValueError, match="'token' is not known"):
        hlo.Array("token", ()).size_bytes  # noqa: B018
