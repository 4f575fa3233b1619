"""Spaces restricted for a target: what is left of their genes, archs, tables and arch files, and what does not fit."""

import jax
import numpy as np
import pytest

from dynnas_jax import elastic
from dynnas_jax.costs import macs
from dynnas_jax.export import targets
from dynnas_jax.networks import NETWORKS, ofa
from dynnas_jax.networks.restricted import restricted

# Spaces of inverted residuals: what others are made of is no choice of a target.
SPACES = [
    name
    for name, loader in NETWORKS.items()
    if loader.has_space and name != "elastic_resnet" and not name.startswith("ds_")
]
RESTRICTING = [name for name, target in targets.TARGETS.items() if target.space != targets.EVERYTHING]


def archs(supernet, count=30):
    """Archs of the smallest, the largest and random genomes."""
    space = supernet.space
    genomes = [space.smallest, space.largest, *np.asarray(space.sample(jax.random.key(0), count))]
    return [supernet.arch(genome) for genome in genomes]


def activations(arch):
    return {arch.stem_act, arch.head_act, *(spec.act for _, spec in arch.named_blocks())}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("target", RESTRICTING)
def test_every_arch_is_what_the_target_runs_well(name, target):
    wanted, whole = targets.TARGETS[target], NETWORKS[name]()
    supernet = restricted(whole, wanted)
    for arch in archs(supernet):
        specs = [spec for _, spec in arch.named_blocks()]
        assert {spec.kernel for spec in specs} <= set(wanted.space.kernels)
        assert activations(arch) <= set(wanted.space.activations)
        assert wanted.space.squeeze_excite or not any(spec.se for spec in specs)
    kernels = [gene.choices for gene in supernet.space.genes if gene.name.endswith("kernel")]
    assert set(kernels) == {(3, 5)}
    others = [[gene for gene in s.space.genes if not gene.name.endswith("kernel")] for s in (whole, supernet)]
    assert others[0] == others[1]


@pytest.mark.parametrize("name", SPACES)
def test_a_target_that_restricts_nothing_leaves_the_space_itself(name):
    supernet = NETWORKS[name]()
    for target in set(targets.TARGETS) - set(RESTRICTING):
        assert restricted(supernet, targets.TARGETS[target]) is supernet


def test_a_space_that_is_within_the_target_stays_itself():
    supernet = ofa.small_images(kernels=(3, 5), act="relu6")
    assert restricted(supernet, targets.TARGETS["edgetpu"]) is supernet


def test_the_fingerprint_tells_restrictions_apart():
    whole = NETWORKS["ofa_mobilenet_v3"]()
    prints = [restricted(whole, targets.TARGETS[name]).space.fingerprint for name in ("x86", "edgetpu", "pi4", "pi5")]
    assert prints[0] == whole.space.fingerprint
    assert len(set(prints)) == 3
    assert prints[2] == prints[3]


def test_a_restricted_space_equals_one_declared_so():
    """All that is known of it, its cost table too, is that of the space written by hand."""
    options = {"image_size": 16, "classes": 4, "stage_widths": (8, 16), "stage_strides": (1, 2), "head": 16}
    wide = ofa.small_images(act="hswish", squeeze_excite=True, kernels=(3, 5, 7), **options)
    by_hand = ofa.small_images(act="relu6", squeeze_excite=False, kernels=(3, 5), **options)
    narrow = restricted(wide, targets.TARGETS["edgetpu"])
    assert narrow.space == by_hand.space
    assert narrow.arch.template == by_hand.arch.template
    tables = [macs.table(supernet) for supernet in (narrow, by_hand)]
    for genome in np.asarray(narrow.space.sample(jax.random.key(1), 10)):
        assert (
            float(tables[0](genome))
            == float(tables[1](genome))
            == macs.net_cost(narrow.net(narrow.arch(genome)), (16, 16, 3))[0]
        )


def test_arch_files_follow():
    supernet = restricted(NETWORKS["ofa_proxyless"](), targets.TARGETS["pi5"])
    content = supernet.arch.file(supernet.space.largest)
    assert supernet.arch.from_file(content) == supernet.arch(supernet.space.largest)
    content["kernel"][1][0] = 7
    with pytest.raises(ValueError, match=r"kernel 7 in stage 2, choose from \[3, 5\]"):
        supernet.arch.from_file(content)


def test_forms_and_kernel_transforms_are_kept():
    whole = ofa.small_images(depthwise="shifts", kernel_transforms=True)
    supernet = restricted(whole, targets.TARGETS["pi4"])
    assert supernet.transforms
    assert supernet.largest_net().depthwise == "shifts"


def test_a_space_left_without_kernels_is_one_plain_line():
    with pytest.raises(ValueError, match=r"^target pi4 runs kernels 3 and 5 well, the space has only \[7, 9\]: .*$"):
        restricted(ofa.small_images(kernels=(7, 9)), targets.TARGETS["pi4"])


def test_a_subnet_of_a_restricted_space_is_cut_from_its_supernet(noisy_variables):
    wide = ofa.small_images(
        image_size=8, channels=1, mean=(0.4,), std=(0.3,), classes=3, stem=8, stage_widths=(8,), stage_strides=(1,),
        head=8, depths=(1,), widths=(1.0,), expands=(1, 2), kernels=(3, 5, 7), act="hswish", squeeze_excite=True,
    )  # fmt: skip
    supernet = restricted(wide, targets.TARGETS["edgetpu"])
    variables = noisy_variables(supernet.largest_net(), (8, 8, 1))
    images = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 1), np.uint8)
    net, own = elastic.extract(supernet, variables, supernet.space.smallest)
    logits, _ = net.apply(own, images)
    assert logits.shape == (2, 3)
    assert not any("se" in block for block in variables["params"].values())
