"""Once-for-all's tables: their figure of a subnet by their own rule, written down here from their layers' names."""

import dataclasses

import jax
import numpy as np
import pytest
import yaml

from dynnas_jax import job
from dynnas_jax.costs import latency, once_for_all
from dynnas_jax.networks import ofa
from dynnas_jax.stages import cost_tables

STRIDES, WIDTHS = (2, 2, 2, 1, 2), (32, 48, 96, 136, 192)
SE, HSWISH = (0, 1, 0, 1, 1), (0, 0, 1, 1, 1)


def their_sum(table, content):
    """The latency of an arch file's subnet in ms: one look-up for each layer, in the order they run."""

    def block(side, channels, out, hidden, kernel, stride, skip, se, hswish):
        nonlocal total
        after = (side - 1) // stride + 1
        total += table[
            f"expanded_conv-input:{side}x{side}x{channels}-output:{after}x{after}x{out}-expand:{hidden}-kernel:{kernel}"
            f"-stride:{stride}-idskip:{skip}-se:{se}-hs:{hswish}"
        ]["mean"]
        return after, out

    resolution = content["resolution"]
    side, channels = (resolution + 1) // 2, 24
    total = table[f"Conv-input:{resolution}x{resolution}x3-output:{side}x{side}x24"]["mean"]
    side, channels = block(side, channels, 24, 24, 3, 1, 1, 0, 0)
    for stage, (kernels, expands) in enumerate(zip(content["kernel"], content["expand"], strict=True)):
        for i, (kernel, expand) in enumerate(zip(kernels, expands, strict=True)):
            stride = 1 if i else STRIDES[stage]
            hidden = round(channels * expand)
            flags = (int(i > 0), SE[stage], HSWISH[stage])
            side, channels = block(side, channels, WIDTHS[stage], hidden, kernel, stride, *flags)
    total += table[f"Conv_1-input:{side}x{side}x192-output:{side}x{side}x1152"]["mean"]
    total += table[f"AvgPool2D-input:{side}x{side}x1152-output:1x1x1152"]["mean"]
    return total + sum(table[name]["mean"] for name in LAST)


LAST = ("Conv_2-input:1x1x1152-output:1x1x1536", "Logits-input:1x1x1536-output:1000")


@pytest.fixture(scope="module")
def note10(shared):
    folder = shared / "latency_tables" / "note10"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture(scope="module")
def supernet():
    """Two resolutions of theirs, all of their stages; few and short ones keep it small, one with a shortcut."""
    whole = ofa.ofa_mobilenet_v3(width=1.2, resolutions=(160, 224)).arch.template
    stages = tuple(
        dataclasses.replace(stage, depths=(1, 2) if i == 1 else (1,)) for i, stage in enumerate(whole.stages)
    )
    return ofa.build(dataclasses.replace(whole, stages=stages, expands=(3, 6), kernels=(3, 7)))


def test_the_latency_of_a_subnet_is_the_sum_by_their_rule(note10, supernet):
    tables = {r: yaml.safe_load((note10 / f"{r}_lookup_table.yaml").read_text()) for r in (160, 224)}
    table = once_for_all.read(note10, supernet)
    cost = table.of(supernet)
    genomes = np.asarray(supernet.space.sample(jax.random.key(0), 20))
    contents = [supernet.arch.file(genome) for genome in genomes]
    assert {content["resolution"] for content in contents} == {160, 224}
    expected = [their_sum(tables[content["resolution"]], content) for content in contents]
    np.testing.assert_allclose([cost.exact(genome) for genome in genomes], expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(cost)(genomes), expected, rtol=1e-6)


def test_their_tables_as_a_file_of_ours(note10, supernet, tmp_path):
    """Rows of one shape differ by resolution there, and do so still."""
    table = once_for_all.read(note10, supernet)
    latency.save(table, tmp_path / "note10.json")
    loaded = latency.load(tmp_path / "note10.json")
    assert loaded == table
    genome = supernet.space.largest
    assert loaded.of(supernet).exact(genome) == table.of(supernet).exact(genome)


def test_a_run_takes_them_with_a_target_that_restricts_nothing(note10):
    """As a config has it: the space of theirs, a folder in place of a file; phones' own target has no hard-swish in its space."""
    facts = {
        "image_shape": [224, 224, 3],
        "classes": [str(i) for i in range(1000)],
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
    }
    section = {"network": "ofa_mobilenet_v3", "width": 1.2, "resolutions": [224]}
    config = {"supernet": section, "target": "x86"}
    supernet = job.build(config, facts)
    found = cost_tables.read_latency_table(note10, supernet, "x86")
    assert (found.target, found.device["board"]) == ("x86", "note10")
    assert found.of(supernet).exact(supernet.space.smallest) > 0
    with pytest.raises(ValueError, match="has no 'expanded_conv-.*-hs:0': it is a table of another space"):
        cost_tables.read_latency_table(note10, job.build({**config, "target": "android"}, facts), "android")


def test_a_space_they_do_not_know(note10, tiny):
    with pytest.raises(
        ValueError, match=r"tables for \[160, 176, 192, 208, 224\] pixels, but the space has nets for 8"
    ):
        once_for_all.read(note10, tiny.supernet)


@pytest.mark.parametrize("name", ["msdnet_cifar", "multi_exit"])
def test_nets_of_several_exits_have_no_such_layers(tmp_path, name):
    (tmp_path / "32_lookup_table.yaml").write_text("Conv-input:32x32x3-output:32x32x16: {mean: 1, std: 0}\n")
    facts = {"image_shape": [32, 32, 3], "classes": ["a", "b"], "mean": [0.0] * 3, "std": [1.0] * 3}
    section = {"name": name, "network": "small_images"} if name == "multi_exit" else {"name": name}
    supernet = job.build({"exit_network": section}, facts)
    with pytest.raises(ValueError, match="tables are of nets with a single answer; for several exits give a file"):
        cost_tables.read_latency_table(tmp_path, supernet, "x86")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no latency tables"),
        ("a: [", "is no latency table"),
        ("a: " + "[" * 5_000, "is no latency table"),
        ("[1, 2]", "is no latency table"),
        ("Conv: {mean: 1.0}", "is no latency table"),
        ("Conv: {mean: fast, std: 0}", "is no latency table"),
        ("Conv: {mean: -1, std: 0}", "a mean is negative"),
        ("Conv: {mean: 1, std: 0}", "has no 'Conv-input:8x8x1-output:8x8x8': it is a table of another space"),
    ],
)
def test_files_that_are_none(tmp_path, tiny, text, said):
    if text is not None:
        (tmp_path / "8_lookup_table.yaml").write_text(text)
        (tmp_path / "8x_lookup_table.yaml").write_text("not one of theirs")
    with pytest.raises(ValueError, match=said):
        once_for_all.read(tmp_path, tiny.supernet)
