"""Once-for-all's specialised nets against their published costs; arch files, options and what is wrong in them."""

import copy
import json

import jax
import numpy as np
import pytest

from dynnas_jax.costs.macs import net_cost
from dynnas_jax.networks import NETWORKS, ofa
from dynnas_jax.networks.mbconv import Net
from dynnas_jax.networks.template import in_training

IDS = (
    "LG-G8_lat-24ms_top1-76.4_finetune-25",
    "flops-595M_top1-80.0_finetune-75",
    "pixel1_lat-20ms_top1-71.4_finetune-25",
    "tx2_gpu16-35ms_top1-70.3_finetune-25",
)


@pytest.fixture(scope="module")
def specialised(published):
    return {row["id"]: row for row in published["ofa_specialised"]}


def test_all_specialised_nets_are_here(specialised):
    assert set(specialised) == set(IDS)


@pytest.mark.parametrize("which", IDS)
def test_published_costs(specialised, which):
    row = specialised[which]
    net = NETWORKS[row["network"]].from_arch_file(row["arch"])
    resolution = row["arch"]["resolution"]
    assert net.arch.resolution == resolution
    assert net_cost(net, (resolution, resolution, 3)) == (row["macs"], row["params"])


ARCH = {
    "resolution": 160,
    "width": 1.0,
    "kernel": [[3, 3], [5, 5, 3], [3, 3], [7, 5], [3, 3]],
    "expand": [[3, 4], [4, 4, 3], [6, 6], [3, 3], [6, 6]],
}


def put(*path_and_value):
    """A change of the arch file: the value at the end is put at the path."""
    *path, last, value = path_and_value

    def change(content):
        content = copy.deepcopy(content)
        at = content
        for key in path:
            at = at[key]
        at[last] = value
        return content

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("kernel", 1, 2, 4), r"kernel 4 in stage 2, choose from \[3, 5, 7\]"),
        (put("kernel", 1, 2, "3"), "kernel '3' in stage 2"),
        (put("kernel", 1, 2, [3]), r"kernel \[3\] in stage 2"),
        (put("expand", 0, 0, 5), r"expand 5 in stage 1, choose from \[3, 4, 6\]"),
        (put("expand", 0, 0, None), "expand None in stage 1"),
        (put("kernel", 0, [3]), r"kernel of stage 1 has 1 entries, choose a depth from \[2, 3, 4\]"),
        (put("expand", 4, [6] * 5), "expand of stage 5 has 5 entries"),
        (put("kernel", 0, [3, 3, 3]), "stage 1 has 3 kernels but 2 expansions"),
        (put("kernel", [[3, 3]]), "kernel must be 5 lists, one per stage"),
        (put("expand", 3), "expand must be 5 lists"),
        (put("kernel", 2, 3), "kernel must be 5 lists"),
        (put("width", 1.1), r"width is 1.1, choose from \[1.0, 1.2\]"),
        (put("width", "1.0"), "width is '1.0', must be one number"),
        (put("width", True), "width is True, must be one number"),
        (put("width", [1.0] * 5), "must be one number"),
        (put("resolution", 31), "resolution is 31, must be an integer of at least 32"),
        (put("resolution", 160.0), "resolution is 160.0"),
        (put("resolution", True), "resolution is True"),
        (put("depth", [2, 2, 2, 2, 2]), "object with the keys"),
        (lambda content: {k: v for k, v in content.items() if k != "kernel"}, "object with the keys"),
        (lambda content: {k: v for k, v in content.items() if k != "width"}, "width is None"),
        (lambda content: [content], "width is None"),
        (lambda content: "mobilenet", "width is None"),
    ],
)
def test_wrong_arch_files(change, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS["ofa_mobilenet_v3"].from_arch_file(change(ARCH))


def test_arch_file_with_whole_floats_gives_integers():
    as_floats = put("kernel", 0, [3.0, 3])(put("expand", 1, [4.0, 4, 3])(ARCH))
    found = NETWORKS["ofa_mobilenet_v3"].from_arch_file(as_floats)
    assert repr(found.arch) == repr(NETWORKS["ofa_mobilenet_v3"].from_arch_file(ARCH).arch)


def test_resolution_is_free_in_an_arch_file():
    assert NETWORKS["ofa_mobilenet_v3"].from_arch_file({**ARCH, "resolution": 236}).arch.resolution == 236


@pytest.mark.parametrize("content", [None, [], "arch", {}, {"resolution": 32}])
def test_small_images_arch_file_that_is_none(content):
    with pytest.raises(ValueError, match="an arch file is an object with the keys"):
        NETWORKS["small_images"].from_arch_file(content)


@pytest.mark.parametrize("name", ["small_images", "ofa_mobilenet_v3", "ofa_proxyless", "attentive_nas"])
def test_genomes_as_arch_files_and_back(name):
    supernet = NETWORKS[name]()
    genomes = np.asarray(supernet.space.sample(jax.random.key(0), 40))
    for genome in [supernet.space.smallest, supernet.space.largest, *genomes]:
        content = json.loads(json.dumps(supernet.arch.file(genome)))
        assert set(content) == {"resolution", "width", "kernel", "expand"}
        assert supernet.arch.from_file(content) == supernet.arch(genome)


@pytest.mark.parametrize(("name", "width"), [("ofa_mobilenet_v3", 1.2), ("ofa_proxyless", 1.3)])
def test_an_arch_file_says_which_width_of_the_network_it_is_of(name, width):
    supernet = NETWORKS[name](width=width)
    genome = supernet.space.sample(jax.random.key(1), 1)[0]
    content = supernet.arch.file(genome)
    assert content["width"] == width
    assert NETWORKS[name].from_arch_file(content) == supernet.net(supernet.arch(genome))
    with pytest.raises(ValueError, match=f"width is 1.1, but this network's is {width}"):
        supernet.arch.from_file({**content, "width": 1.1})


def test_auto_is_the_form_that_is_fast_here():
    form = {"cpu": "shifts"}.get(jax.default_backend(), "conv")
    assert ofa.small_images(depthwise="auto").largest_net().depthwise == form


def test_training_computes_otherwise_and_nothing_else_does():
    supernet = ofa.small_images(depthwise="shifts")
    trained = in_training(supernet, "bfloat16", "norms")
    smallest, largest = supernet.arch(supernet.space.smallest), supernet.arch(supernet.space.largest)
    for arch in (smallest, largest):
        assert trained.net(arch) == Net(arch, "shifts", dtype="bfloat16", remat="norms")
        assert supernet.net(arch) == Net(arch, "shifts")
        assert trained.blocks(arch) == supernet.blocks(arch)
    assert trained.largest_net() == trained.net(largest)
    assert trained.space is supernet.space


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, r"train.precision is 'float16', choose from \['float32', 'bfloat16'\]"),
        ({"remat": "all"}, r"train.remat is 'all', choose from \['none', 'norms', 'blocks'\]"),
    ],
)
def test_forms_that_training_does_not_have(options, message):
    with pytest.raises(ValueError, match=message):
        in_training(ofa.small_images(), **options)


def test_small_images_takes_a_width_per_stage_or_one_for_all():
    supernet = ofa.small_images(depths=(1,))
    content = {"resolution": 32, "width": 0.5, "kernel": [[3]] * 3, "expand": [[2]] * 3}
    arch = supernet.arch.from_file(content)
    assert arch == supernet.arch.from_file({**content, "width": [0.5, 0.5, 0.5]})
    assert [specs[0].out for _, specs in arch.stages] == [16, 24, 32]
    assert arch.head_conv == 64
    with pytest.raises(ValueError, match=r"width must be 3 numbers \(stage 1, stage 2, stage 3\), got \[0.5, 0.5\]"):
        supernet.arch.from_file({**content, "width": [0.5, 0.5]})
    with pytest.raises(ValueError, match="width 0.3 in stage 1"):
        supernet.arch.from_file({**content, "width": 0.3})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ofa.small_images(act="gelu"), "act is 'gelu', choose from"),
        (lambda: ofa.small_images(stage_widths=(8, 16)), "2 stage_widths but 3 stage_strides"),
        (lambda: ofa.small_images(image_size=7), "image_size is 7, choose from 8 to 64"),
        (lambda: ofa.small_images(image_size=65), "image_size is 65"),
        (lambda: ofa.small_images(image_size=12, stem_stride=4), "image_size is 12, choose from 16 to 64"),
        (
            lambda: ofa.small_images(depthwise="matmul"),
            r"depthwise is 'matmul', choose from \['auto', 'conv', 'shifts', 'bands'\]",
        ),
        (lambda: ofa.small_images(channels=1), r"images of 1 channels, but mean is \(0.485, 0.456, 0.406\)"),
        (lambda: ofa.small_images(depths=(2, 1)), "choices must ascend"),
        (lambda: ofa.ofa_mobilenet_v3(width=1.1), "width is 1.1"),
        (lambda: ofa.ofa_proxyless(width=1.0), r"width is 1.0, choose from \[1.3\]"),
    ],
)
def test_wrong_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_choices_with_one_value_are_no_genes():
    space = ofa.small_images(kernels=(3,), widths=(1.0,)).space
    assert not [gene.name for gene in space.genes if "kernel" in gene.name or "width" in gene.name]
    assert "resolution" not in space
    assert "resolution" in ofa.ofa_proxyless().space


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("kernels", (2, 3)),
        ("depths", (0, 1)),
        ("expands", (0, 1)),
        ("widths", (0.0, 1.0)),
        ("stage_strides", (1, 0, 1)),
    ],
)
def test_values_no_block_can_have(name, values):
    with pytest.raises(ValueError, match=f"small_images: {name} is"):
        ofa.small_images(**{name: values})


def test_spaces_of_other_widths_are_not_the_same():
    """Their genes are alike, but a genome of one is another subnet in the other."""
    spaces = [ofa.small_images(stage_widths=widths).space for widths in ((24, 40, 64), (48, 80, 128))]
    assert spaces[0].sizes == spaces[1].sizes
    assert spaces[0].fingerprint != spaces[1].fingerprint
    same = ofa.small_images(stage_widths=(24, 40, 64), mean=(0.1, 0.2, 0.3), depthwise="shifts").space
    assert same.fingerprint == spaces[0].fingerprint
