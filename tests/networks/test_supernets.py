"""Sliced == masked: two ways to compute one subnet, for every supernet, in evaluation and in training."""

import contextlib
import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import kernel_transforms
from dynnas_jax.elastic import elastic_kernels, extract
from dynnas_jax.kernel_transforms import PLACE
from dynnas_jax.masking import mask_variables
from dynnas_jax.networks import NETWORKS, ofa

SMALL = {
    "classes": 5,
    "stem": 8,
    "stage_widths": (8, 16),
    "head": 16,
    "widths": (0.5, 1.0),
    "depths": (1, 2),
    "divisor": 4,
}
CASES = {
    "small_images": {**SMALL, "image_size": 8, "stage_strides": (1, 2), "expands": (1, 2)},
    "small_images, hard-swish, squeeze-excite and shifts": {
        **SMALL,
        "image_size": 9,
        "stage_widths": (8,),
        "stage_strides": (2,),
        "kernels": (3, 5),
        "expands": (4, 12),
        "act": "hswish",
        "squeeze_excite": True,
        "depthwise": "shifts",
    },
    "small_images, kernel transforms": {
        **SMALL,
        "image_size": 8,
        "stage_widths": (8,),
        "stage_strides": (1,),
        "kernels": (3, 5, 7),
        "expands": (1, 2),
        "kernel_transforms": True,
    },
    "ofa_mobilenet_v3": {"resolutions": (16,), "classes": 5},
    "ofa_proxyless": {"resolutions": (16,), "classes": 5},
    "attentive_nas": {"resolutions": (16,), "classes": 5},
    "elastic_resnet": {"deepest": (2, 2, 2), "widths": (4, 4, 8), "image_size": 8, "classes": 5},
}
# Which stages stay, two blocks of the first and one of the second: of v3 one with squeeze-excite, of proxyless
# the one-block last one too, of attentive_nas the one without expansion and one with squeeze-excite over a stride.
KEPT = {"small_images": (0, 1), "ofa_mobilenet_v3": (1,), "ofa_proxyless": (0, 5), "attentive_nas": (0, 2)}
# One case in float64, which leaves no doubt; it compiles too slowly for all.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}
# Less work for the compiler, and the same arithmetic.
QUICK = {"xla_backend_optimization_level": 0}


def trim(supernet, kept):
    """The same space with two of its stages, at most two blocks in each, and fewer channels."""
    template = supernet.arch.template
    stages = (template.stages[i] for i in kept)
    stages = tuple(
        replace(stage, out=out, depths=(1, 2) if first else (1,))
        for stage, out, first in zip(stages, (8, 16), (1, 0), strict=False)
    )
    base = replace(template.base, head_conv=16, head_features=16 if template.base.head_features else 0)
    changes = {"base": base, "stages": stages}
    if template.stem_widths:  # then stages have channels of their own, and the head a multiple of the last one's
        stages = tuple(replace(stage, out=1, widths=(8, 16)) for stage in stages)
        base = replace(base, head_conv=2)
        changes = {"base": base, "stages": stages, "stem_widths": (8, 16), "head_widths": (8, 16)}
    return ofa.build(replace(template, **changes))


@contextlib.contextmanager
def computing_in(dtype):
    # Flax promotes the statistics of float64 inputs itself, which strict promotion refuses.
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        yield


def losses_and_gradient(net, variables_of):
    """f(weights[2], variables, images, *more): (logits in evaluation, in training), gradient of the weighted losses."""

    def weighted(variables, weights, images, *more):
        own = variables_of(variables, *more)
        evaluated = net.apply(own, images)[0]
        trained = net.apply(own, images, True, mutable=["batch_stats"])[0][0]
        return weights[0] * jnp.sin(evaluated).sum() + weights[1] * jnp.sin(trained).sum(), (evaluated, trained)

    def run(weights, variables, images, *more):
        gradient, logits = jax.grad(weighted, has_aux=True)(variables, weights, images, *more)
        return logits, gradient["params"]

    return jax.jit(run, compiler_options=QUICK)


def masked_program(supernet, **options):
    net = supernet.largest_net().clone(**options)
    return losses_and_gradient(net, lambda variables, genome: mask_variables(supernet, variables, genome))


def sliced_program(supernet, genome, **options):
    net = supernet.net(supernet.arch(genome)).clone(**options)
    return losses_and_gradient(net, lambda variables: extract(supernet, variables, genome)[1])


def noisy_transforms(supernet):
    generator = np.random.default_rng(5)
    identities = kernel_transforms.identity(elastic_kernels(supernet))
    return jax.tree.map(lambda leaf: leaf + generator.normal(0, 0.3, leaf.shape), identities)


class Case:
    def __init__(self, name, noisy_variables):
        supernet = NETWORKS[name.split(",")[0]](**CASES[name])
        self.supernet = trim(supernet, KEPT[name]) if name in KEPT else supernet
        self.dtype = "float64" if name == "small_images" else "float32"
        arch = self.supernet.arch(self.supernet.space.largest)
        shape = (arch.resolution, arch.resolution, arch.channels)
        variables = noisy_variables(self.supernet.largest_net(), shape)
        if self.supernet.transforms:
            variables["params"][PLACE] = noisy_transforms(self.supernet)
        self.variables = jax.tree.map(lambda leaf: leaf.astype(self.dtype), variables)
        self.images = np.random.default_rng(2).integers(0, 256, (4, *shape), dtype=np.uint8)
        self.masked = masked_program(self.supernet, dtype=self.dtype)
        self.random = np.asarray(self.supernet.space.sample(jax.random.key(4)))

    def run(self, program, mode, *more):
        return program(np.asarray(MODES[mode], self.dtype), self.variables, self.images, *more)

    def assert_same(self, found, wanted):
        """Logits and gradients agree within rounding, measured by each leaf's largest value."""
        relative = TOLERANCE[self.dtype]
        found = dict(jax.tree_util.tree_leaves_with_path(found))
        for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
            atol = relative * max(0.01, np.abs(leaf).max())
            np.testing.assert_allclose(found[path], leaf, rtol=0, atol=atol, err_msg=str(path))


MODES = {"evaluation": (1.0, 0.0), "training": (0.0, 1.0)}


@pytest.fixture(scope="module")
def cases(noisy_variables):
    """cases(name): each made once, its masked program compiled once."""
    return functools.lru_cache(lambda name: Case(name, noisy_variables))


@pytest.mark.parametrize("which", ["smallest", "random"])
@pytest.mark.parametrize("name", CASES)
def test_sliced_equals_masked(cases, name, which):
    case = cases(name)
    genome = case.supernet.space.smallest if which == "smallest" else case.random
    with computing_in(case.dtype):
        sliced = sliced_program(case.supernet, genome, dtype=case.dtype)
        for mode in MODES:
            logits, gradient = case.run(sliced, mode)
            case.assert_same(case.run(case.masked, mode, genome), (logits, gradient))
            # Neither is trivially right: something flows through the net in both directions.
            assert all(1e-3 < np.abs(leaf).max() < 1e3 for leaf in logits)
            assert 1e-5 < np.abs(gradient["stem"]["conv"]["kernel"]).max() < 1e3


@pytest.mark.parametrize("name", CASES)
def test_the_random_genome_is_between_the_ends(cases, name):
    arch, space = cases(name).supernet.arch, cases(name).supernet.space
    assert arch(cases(name).random) not in (arch(space.smallest), arch(space.largest))


def test_shifts_equal_conv_in_a_whole_net(cases):
    case = cases("small_images, hard-swish, squeeze-excite and shifts")
    conv = masked_program(case.supernet, depthwise="conv")
    with computing_in(case.dtype):
        for mode in MODES:
            largest = case.supernet.space.largest
            case.assert_same(case.run(case.masked, mode, largest), case.run(conv, mode, largest))


def test_smaller_kernels_are_transforms_of_the_larger_by_numpy(cases):
    case = cases("small_images, kernel transforms")
    own = extract(case.supernet, case.variables, case.supernet.space.smallest)[1]
    for name, (low, middle, high) in elastic_kernels(case.supernet).items():
        assert (low, middle, high) == (3, 5, 7)
        kernel = np.asarray(case.variables["params"][name]["depthwise_conv"]["kernel"], np.float64)
        for side, pair in ((5, "7to5"), (3, "5to3")):
            edge = (len(kernel) - side) // 2
            window = kernel[edge : edge + side, edge : edge + side].reshape(side * side, -1)
            kernel = (np.asarray(case.variables["params"][PLACE][name][pair], np.float64) @ window).reshape(
                side, side, 1, -1
            )
        if name not in own["params"]:
            continue
        found = own["params"][name]["depthwise_conv"]["kernel"]
        np.testing.assert_allclose(found, kernel[..., : found.shape[-1]], rtol=1e-5, atol=1e-5)


def test_every_supernet_is_here():
    here = {name for name, loader in NETWORKS.items() if loader.has_space and not name.startswith("ds_")}  # test_ds_net
    assert here == {name.split(",")[0] for name in CASES}
