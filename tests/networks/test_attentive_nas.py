"""AttentiveNAS's space: published costs, shortcuts that change with the widths, and wrong arch files."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from dynnas_jax.costs.macs import net_cost
from dynnas_jax.elastic import extract, slice_variables
from dynnas_jax.masking import mask_variables
from dynnas_jax.networks import NETWORKS, attentive_nas, mbconv, template

NETS = json.loads((Path(__file__).parents[1] / "published_costs.json").read_text())["attentive_nas"]["nets"]
A = {row["name"]: row for row in NETS}
QUICK = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("name", A)
def test_published_costs(name):
    """To the MAC, also those of the shortcuts' convolutions, which the published totals hold."""
    row = A[name]
    arch = NETWORKS["attentive_nas"].from_arch_file(row["arch"]).arch
    macs, params = net_cost(mbconv.Net(arch), (arch.resolution, arch.resolution, 3))
    assert macs == row["macs"]
    assert round(macs / 1e6) == row["published_mflops"]
    # The authors' model also keeps convolutions in the shortcuts that do not use them.
    unused = sum(spec.out**2 for _, specs in arch.stages for spec in specs if not spec.shortcut_conv)
    assert params == row["authors_params"] - unused


def test_size_of_the_space():
    """The product of the published choices: no two of them build the same net."""
    depths, expands = (2, 3, 4, 4, 6, 6, 2), (1, 3, 3, 3, 3, 1, 1)
    widths = (2, 2, 2, 2, 2, 3, 4, 2, 2)
    resolutions, kernels = 4, 2**7
    expected = resolutions * kernels * math.prod(depths) * math.prod(expands) * math.prod(widths)
    assert attentive_nas.attentive_nas().space.size() == expected


def test_a_published_arch_as_a_genome_and_back():
    supernet = attentive_nas.attentive_nas()
    values = {"resolution": 224, "stem.width": 16, "head.width": 1984, "stage3.expand": 5, "stage6.kernel": 5}
    values |= {f"stage{i}.width": width for i, width in enumerate((16, 24, 32, 64, 112, 200, 224), 1)}
    values |= {f"stage{i}.depth": depth for i, depth in enumerate((1, 3, 3, 3, 3, 4, 1), 1)}
    genes = supernet.space.genes
    genome = [gene.choices.index(values.get(gene.name, gene.choices[0])) for gene in genes]
    assert supernet.arch.file(genome) == A["a2"]["arch"]
    assert supernet.arch(genome) == supernet.arch.from_file(A["a2"]["arch"])


# Shortcuts that come and go.


def small():
    """A stem and a stage of 8 or 16 channels each, then one over a stride: a shortcut is the identity where they agree."""
    base = mbconv.Arch(12, 16, "swish", (), 2, "swish", 3, 16)
    stages = (
        template.Stage(1, 1, "swish", False, (1, 2), (8, 16), (3,), (1,)),
        template.Stage(1, 2, "swish", True, (1,), (8, 16), (3, 5), (2, 4)),
    )
    options = {"elastic_head": True, "stem_widths": (8, 16), "head_widths": (8, 16), "alike": True, "shortcuts": True}
    return template.build(template.Template(base, stages, (12,), (), (), (), **options))


@pytest.fixture(scope="module")
def small_supernet(noisy_variables):
    supernet = small()
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3)).astype(np.uint8)
    return supernet, noisy_variables(supernet.largest_net(), (12, 12, 3)), images


@pytest.mark.parametrize(
    ("widths", "convolutions"),
    [((0, 0, 0), (False, False)), ((0, 1, 1), (True, False)), ((1, 0, 1), (True, True)), ((1, 1, 1), (False, False))],
)
def test_sliced_equals_masked_whatever_the_shortcuts(small_supernet, widths, convolutions):
    supernet, variables, images = small_supernet
    space, genome = supernet.space, supernet.space.largest
    genome[[space.index(name) for name in ("stem.width", "stage1.width", "stage2.width")]] = widths
    net, own = extract(supernet, variables, genome)
    blocks = ("stage1_block0", "stage2_block0")
    assert tuple("shortcut_conv" in own["params"][name] for name in blocks) == convolutions
    sliced = jax.jit(lambda v: net.apply(v, images)[0], compiler_options=QUICK)(own)
    whole = supernet.largest_net()
    run = jax.jit(lambda v, g: whole.apply(mask_variables(supernet, v, g), images)[0], compiler_options=QUICK)
    np.testing.assert_allclose(run(variables, genome), sliced, rtol=1e-4, atol=1e-5)
    assert np.abs(sliced).max() > 1e-3


def test_the_whole_has_every_shortcut_convolution(small_supernet):
    """The largest subnet, of equal widths, needs none; the variables hold those of all others."""
    supernet, variables, _ = small_supernet
    assert not any(spec.shortcut_conv for _, specs in supernet.arch(supernet.space.largest).stages for spec in specs)
    blocks = {name: block for name, block in variables["params"].items() if "shortcut_conv" in block}
    shapes = {name: block["shortcut_conv"]["kernel"].shape for name, block in blocks.items()}
    assert shapes == {"stage1_block0": (1, 1, 16, 16), "stage2_block0": (1, 1, 16, 16)}


def test_archs_the_variables_cannot_give(small_supernet):
    supernet, variables, _ = small_supernet
    arch = supernet.arch(supernet.space.largest)

    def with_first_block(stage, **changes):
        stages = list(arch.stages)
        name, (first, *others) = stages[stage]
        stages[stage] = (name, (replace(first, **changes), *others))
        return replace(arch, stages=tuple(stages))

    with pytest.raises(ValueError, match="groups in stage2_block0"):
        slice_variables(supernet, variables, with_first_block(1, groups=2))
    with pytest.raises(
        ValueError, match=r"stage1_block0/depthwise2_\w+/\w+ of the arch is a leaf the supernet does not"
    ):
        slice_variables(supernet, variables, with_first_block(0, depthwise=2))


# Wrong arch files.


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("width", 1.0, r"width must be 9 numbers \(stem, stage 1, .*, stage 7, head\), got 1.0"),
        ("width", [16, 24, 32, 64, 112, 192, 216], "width must be 9 numbers"),
        ("width", [16, 16, 24, 32, 64, 116, 192, 216, 1792], r"width 116 in stage 5, choose from \[112, 120, 128\]"),
        ("width", [32, 16, 24, 32, 64, 112, 192, 216, 1792], r"width 32 in stem, choose from \[16, 24\]"),
        ("width", [16, 16, 24, 32, 64, 112, 192, 216, 1280], r"width 1280 in head, choose from \[1792, 1984\]"),
        ("width", [[16], 16, 24, 32, 64, 112, 192, 216, 1792], r"width \[16\] in stem"),
        ("kernel", [3, 3, 3, 3, 3, 3, 3], "kernel must be 7 lists, one per stage"),
        (
            "kernel",
            [[3], [3, 3, 7], [3] * 3, [3] * 3, [3] * 3, [3] * 3, [3]],
            r"kernel 7 in stage 2, choose from \[3, 5\]",
        ),
        (
            "kernel",
            [[3], [3, 5, 3], [3] * 3, [3] * 3, [3] * 3, [3] * 3, [3]],
            r"kernel of stage 2 is \[3, 5, 3\], must be the same",
        ),
        ("expand", [[1], [6] * 3, [6] * 3, [6] * 3, [6] * 3, [4] * 3, [6]], r"expand 4 in stage 6, choose from \[6\]"),
        ("expand", [[1] * 3, [6] * 3, [6] * 3, [6] * 3, [6] * 3, [6] * 3, [6]], "expand of stage 1 has 3 entries"),
        (
            "expand",
            [[1, 1], [6] * 3, [6] * 3, [6] * 3, [6] * 3, [6] * 3, [6]],
            "stage 1 has 1 kernels but 2 expansions",
        ),
        ("resolution", 16, "resolution is 16, must be an integer of at least 32"),
        ("depth", [1, 3, 3, 3, 3, 3, 1], "object with the keys"),
    ],
)
def test_wrong_arch_files(key, value, message):
    content = copy.deepcopy(A["a0"]["arch"]) | {key: value}
    with pytest.raises(ValueError, match=message):
        NETWORKS["attentive_nas"].from_arch_file(content)
