"""Sliced == masked: two ways to compute one subnet, for every supernet, in evaluation and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.elastic import extract, init, mask_variables
from dynnas_jax.networks import NETWORKS, ofa

SMALL = {
    "small_images": {
        "image_size": 8,
        "stage_widths": (8, 16),
        "stage_strides": (1, 2),
        "head": 16,
        "depths": (1, 2),
        "divisor": 4,
    },
    "small_images, hard-swish and squeeze-excite": {
        "image_size": 9,
        "stem": 8,
        "stage_widths": (8, 16),
        "stage_strides": (2, 2),
        "head": 16,
        "depths": (1, 2),
        "act": "hswish",
        "squeeze_excite": True,
        "depthwise": "shifts",
        "divisor": 4,
    },
    "ofa_mobilenet_v3": {"resolutions": (32,), "classes": 5},
    "ofa_proxyless": {"resolutions": (32,), "classes": 5},
}


def trim(supernet, depths=(1, 2)):
    """The same space with at most two blocks a stage and a quarter of the channels, small enough to run in float64."""
    template = supernet.arch.template
    stages = tuple(
        ofa.replace(stage, out=max(8, stage.out // 8), depths=tuple(d for d in depths if len(stage.depths) > 1) or (1,))
        for stage in template.stages
    )
    base = ofa.replace(template.base, head_conv=16, head_features=16 if template.base.head_features else 0)
    return ofa.build(ofa.replace(template, base=base, stages=stages))


def test_every_supernet_is_here():
    assert {name for name, loader in NETWORKS.items() if loader.has_space} == {name.split(",")[0] for name in SMALL}


@pytest.fixture(params=SMALL, scope="module")
def case(request):
    supernet = NETWORKS[request.param.split(",")[0]](**SMALL[request.param])
    if request.param.startswith("ofa"):
        supernet = trim(supernet)
    arch = supernet.arch(supernet.space.largest)
    shape = (arch.resolution, arch.resolution, arch.channels)
    variables = init(supernet.largest_net(), jax.random.key(0), shape)
    # Statistics, scales and biases of a trained net, so that nothing passes because it is zero or one.
    leaves, treedef = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.3 * jnp.abs(jax.random.normal(k, leaf.shape)) for leaf, k in zip(leaves, keys, strict=True)]
    images = jax.random.randint(jax.random.key(2), (4, *shape), 0, 256).astype(jnp.uint8)
    return supernet, jax.tree.unflatten(treedef, noisy), images


def loss(net, variables, images, train):
    mutable = ["batch_stats"] if train else False
    out = net.apply(variables, images, train, mutable=mutable)
    logits = out[0][0] if train else out[0]
    return jnp.sum(jnp.sin(logits)), logits


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_sliced_equals_masked(case, train):
    supernet, variables, images = case
    genomes = np.asarray(supernet.space.sample(jax.random.key(3), 1))
    # Flax promotes the statistics of float64 inputs itself, which strict promotion refuses.
    with jax.enable_x64(), jax.numpy_dtype_promotion("standard"):
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        for genome in [supernet.space.smallest, *genomes]:
            net = extract(supernet, variables, genome)[0].clone(dtype="float64")
            largest = supernet.largest_net().clone(dtype="float64")

            def sliced(v, net=net, genome=genome):
                return loss(net, extract(supernet, v, genome)[1], images, train)

            def masked(v, genome=genome, largest=largest):
                return loss(largest, mask_variables(supernet, v, jnp.asarray(genome)), images, train)

            (_, logits), gradient = jax.jit(jax.value_and_grad(sliced, has_aux=True))(variables)
            (_, others), other = jax.jit(jax.value_and_grad(masked, has_aux=True))(variables)
            np.testing.assert_allclose(logits, others, rtol=0, atol=1e-9)
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradient["params"]):
                against = dict(jax.tree_util.tree_leaves_with_path(other["params"]))[path]
                np.testing.assert_allclose(leaf, against, rtol=1e-6, atol=1e-9, err_msg=str(path))
