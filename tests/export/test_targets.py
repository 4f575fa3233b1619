"""The table of targets holds together, and is light."""

import subprocess
import sys

import pytest

from dynnas_jax.export import targets


def test_the_targets_of_the_command_line():
    assert list(targets.TARGETS) == ["edgetpu", "pi4", "pi5", "jetson_nano", "android", "x86"]
    for name, target in targets.TARGETS.items():
        assert target.name == name
        assert targets.target(name) is target
        assert set(target.precisions) <= {"fp32", "fp16", "dynamic_range", "int8"}
        assert target.onnx == (target.onnx_opset is not None)
        assert target.power is None or (0 < target.power.watts < 100 and len(target.power.source) > 20)


def test_a_desktop_restricts_nothing():
    assert targets.TARGETS["x86"].space == targets.EVERYTHING
    assert targets.TARGETS["x86"].memory_bytes is None


def test_what_litert_runs_slowly_is_advised_against_wherever_it_runs():
    """Measured on a desktop: int8 hard-swish and kernels of 7x7 are slow there too, though its space is not restricted."""
    slow = {name: known.advice or known.space for name, known in targets.TARGETS.items()}
    assert slow["x86"] == slow["pi4"] == slow["pi5"] == slow["android"] == targets.LITERT_SPACE
    assert slow["jetson_nano"] == targets.EVERYTHING  # TensorRT


def test_coral_by_its_published_figures():
    """8 MiB of cache, 2 W; ReLU6, no squeeze-excite, kernels 3 and 5; int8 in files of their own."""
    coral = targets.TARGETS["edgetpu"]
    assert (coral.memory_bytes, coral.power.watts) == (8 * 1024**2, 2)
    assert coral.space == targets.Space((3, 5), ("relu6",), False)
    assert (coral.precisions, coral.only, coral.one_file) == (("int8",), ("int8",), False)
    assert "HARD_SWISH" not in coral.ops
    assert (coral.ops["CONV_2D"], coral.ops["DEPTHWISE_CONV_2D"], coral.ops["FULLY_CONNECTED"]) == (3, 3, 5)


def test_jetson_by_the_importers_of_its_parser():
    """What onnx-tensorrt's release 8.2 has importers for: the 129 operators its matrix marks as supported, and Reciprocal."""
    jetson = targets.TARGETS["jetson_nano"]
    assert jetson.onnx_opset == 13
    assert len(jetson.onnx_ops) == 129 + 1
    assert {
        "Conv",
        "MatMul",
        "Gemm",
        "QuantizeLinear",
        "DequantizeLinear",
        "HardSigmoid",
        "Clip",
        "Reciprocal",
    } <= jetson.onnx_ops
    refused = {
        "BitShift",
        "ConvInteger",
        "Hardmax",
        "IsInf",
        "MatMulInteger",
        "Mod",
        "NonZero",
        "OneHot",
        "QLinearConv",
    }
    assert not (refused | {"HardSwish", "LayerNormalization", "Xor"}) & jetson.onnx_ops


@pytest.mark.parametrize("name", ["pi3", "", None, ["x86"]])
def test_an_unknown_target_is_one_plain_line(name):
    with pytest.raises(ValueError, match=r"^target is .*, choose from \['edgetpu', 'pi4', 'pi5', [^\n]*\]$"):
        targets.target(name)


def test_it_loads_nothing_heavy():
    code = "import sys, dynnas_jax.export.targets; print({'jax', 'numpy', 'tensorflow', 'ai_edge_litert'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
