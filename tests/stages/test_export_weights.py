"""The weights that a run will export, counted before training, against the files that come out."""

import jax
import pytest
from ml_collections import ConfigDict

from dynnas_jax import elastic, job, kinds, settings
from dynnas_jax.export import functions, lint, targets, tflite
from dynnas_jax.networks import ds_net, gated_parts
from dynnas_jax.stages import export_weights
from dynnas_jax.workdir import Workdir


def ready(path, **sections):
    config = settings.as_dict(ConfigDict({"data": {"name": "digits"}, "export": {"precisions": ("fp32",)}, **sections}))
    return job.prepare(Workdir(path, kinds.of(config).stages, config), config)


def test_a_single_nets_file_holds_as_many(tmp_path):
    found = ready(tmp_path, network={"name": "mobilenet_v2", "width": 0.25}, target="x86")
    net = found.supernet.largest_net().clone(depthwise=targets.target("x86").depthwise)
    variables = elastic.init(net, jax.random.key(0), (8, 8, 1))
    function = functions.whole(lambda images: net.apply(variables, images)[0], (8, 8, 1))
    with tflite.saved({functions.SINGLE: tflite.Signature(function.call, function.shapes)}) as traced:
        traced.write(tmp_path / "net.tflite", precision="fp32")
    (file,) = lint.lint(tmp_path / "net.tflite", "x86").files
    numbers = export_weights.least(found)
    vectors = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 1)
    assert 4 * numbers <= file.parameters_bytes <= 4 * (numbers + vectors) + 1024


def test_parts_share_what_they_have_in_common(tmp_path):
    options = {"depths": (1, 2), "widths": (8, 16), "strides": (1, 2), "stem": 8, "groups": 4, "ratios": (0.5, 1.0)}
    supernet = ds_net.ds_resnet_small(classes=3, resolution=8, channels=1, mean=(0.4,), std=(0.3,), **options)
    parts = gated_parts.every(supernet)
    variables = elastic.init(supernet.largest_net(), jax.random.key(0), (8, 8, 1))
    cut = gated_parts.cut(supernet, variables)
    kernels = sum(leaf.size for name, leaf in cut.leaves.items() if "/params/" in name and leaf.ndim > 1)
    assert export_weights.of_parts(supernet, parts) == kernels
    assert export_weights.of_parts(supernet, parts[1:3]) < kernels


def test_onnx_files_of_parts_share_nothing(tmp_path, monkeypatch):
    options = {"depths": (1, 1), "widths": (16, 16), "strides": (1, 2), "stem": 8, "groups": 4, "ratios": (0.5, 1.0)}
    found = ready(tmp_path, slimmable={"network": "ds_resnet_small", **options}, target="jetson_nano")
    shared, alone = export_weights.least(found), export_weights.apart(found.supernet)
    each = [sum(gated_parts.kernels(found.supernet, part).values()) for part in gated_parts.every(found.supernet)]
    assert alone == sum(each) > shared
    board = targets.target("jetson_nano")._replace(memory_bytes=4 * alone - 1)
    monkeypatch.setattr(targets, "target", lambda name: board)
    export_weights.check(found, ("int8", "fp16"))  # of fp16 there is no ONNX file
    with pytest.raises(ValueError, match="MiB in fp32, which do not fit"):
        export_weights.check(found)


def test_a_precision_that_does_not_fit(tmp_path, monkeypatch):
    found = ready(tmp_path, network={"name": "mobilenet_v2", "width": 0.25}, target="pi4")
    numbers = export_weights.least(found)
    room = targets.target("pi4")._replace(memory_bytes=2 * numbers)
    monkeypatch.setattr(targets, "target", lambda name: room)
    export_weights.check(found, ("int8", "fp16"))
    with pytest.raises(ValueError, match="MiB in fp32, which do not fit in .* MiB .pi4.; take a smaller one"):
        export_weights.check(found)
