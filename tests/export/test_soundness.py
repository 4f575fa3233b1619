"""What LiteRT takes for granted: each rule broken on purpose, and files with random bytes, none of which may end the process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as objects
from hand_made import DATA

from dynnas_jax.export import flatbuffer, soundness

FILES = sorted(DATA.rglob("*.tflite"))


@pytest.fixture
def model():
    return flatbuffer.load(DATA / "own_files" / "first_int8.tflite")


def operator(model, index):
    return model.subgraphs[0].operators[index]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_the_converter_writes_is_sound(path):
    assert soundness.problem(flatbuffer.load(path)) is None


def test_a_tensor_is_written_once_and_before_it_is_read(model):
    graph = model.subgraphs[0]
    first, second = operator(model, 0), operator(model, 1)
    kept = second.outputs
    second.outputs = first.outputs
    assert soundness.problem(model) == f"operator 1 overwrites tensor {first.outputs[0]}"
    second.outputs = first.inputs[1:2]  # a constant
    assert "overwrites" in soundness.problem(model)
    second.outputs = kept
    graph.operators[0], graph.operators[1] = second, first
    assert "before it is written" in soundness.problem(model)
    graph.operators[:] = []
    assert soundness.problem(model) == f"nothing writes its output {graph.outputs[0]}"


def test_an_input_is_no_constant(model):
    model.subgraphs[0].inputs = operator(model, 0).inputs
    assert soundness.problem(model) == "an input is a constant"


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_are_numbers(model, scale):
    tensor = model.subgraphs[0].tensors[operator(model, 0).outputs[0]]
    tensor.quantization.scale = np.array([scale], np.float32)
    assert soundness.problem(model) == f"int8 tensor {tensor.name!r} has no scale"


def test_zero_points_are_of_their_type(model):
    tensor = model.subgraphs[0].tensors[operator(model, 0).outputs[0]]
    tensor.quantization.zero_point = np.array([255])
    assert "has no scale" in soundness.problem(model)
    tensor.quantization = None
    assert "has no scale" in soundness.problem(model)


def test_scales_of_an_operator_fit(model):
    weights = model.subgraphs[0].tensors[operator(model, 2).inputs[1]]
    weights.quantization.scale = weights.quantization.scale * np.float32(1e12)
    assert "the scales of operator 2 are" in soundness.problem(model)


@pytest.mark.parametrize(
    ("name", "place", "open_size"),
    [
        ("FILL", 0, True),
        ("TILE", 1, True),
        ("TILE", 0, False),
        ("STRIDED_SLICE", 2, True),
        ("WHERE", 0, True),
        ("ADD", 1, False),
    ],
)
def test_no_size_follows_from_what_flows(model, name, place, open_size):
    """The second operator becomes another one, of constants but for the input at one place: that flows."""
    second = operator(model, 1)
    code = model.operator_codes[second.opcode_index]
    code.builtin_code = code.deprecated_builtin_code = getattr(objects.BuiltinOperator, name)
    graph, flowing = model.subgraphs[0], operator(model, 0).outputs[0]
    constant = next(i for i, tensor in enumerate(graph.tensors) if len(model.buffers[tensor.buffer].data))
    graph.operators[:] = graph.operators[:2]
    graph.outputs = second.outputs
    second.inputs = np.full(max(place + 1, 2), constant, np.int32)
    assert name == "WHERE" or soundness._of_open_size(model) is None
    second.inputs[place] = flowing
    said = f"the size of what operator 1, {name}, gives is known only as it runs"
    assert soundness._of_open_size(model) == (said if open_size else None)


def test_too_large_a_net(model, monkeypatch):
    total = sum(flatbuffer.count(tensor.shape) for tensor in model.subgraphs[0].tensors)
    monkeypatch.setattr(soundness, "MOST_VALUES", total)
    assert soundness.problem(model) is None
    monkeypatch.setattr(soundness, "MOST_VALUES", total - 1)
    assert soundness.problem(model).startswith(f"its tensors have {total:,} values")


DAMAGE = """
import random, sys
from pathlib import Path
import numpy as np
from dynnas_jax.export import engines
ran = refused = 0
for seed in range(40):
    for file in sys.argv[2:]:
        content, draw = bytearray(Path(file).read_bytes()), random.Random(seed)
        for _ in range(draw.choice([1, 2, 4])):
            content[draw.randrange(len(content))] = draw.choice([0, 255, draw.randrange(256)])
        Path(sys.argv[1]).write_bytes(content)
        try:
            for net in engines.load(sys.argv[1]).values():
                net.run({name: np.zeros(tensor.shape, np.float32) for name, tensor in net.inputs.items()})
            ran += 1
        except ValueError as error:
            assert "\\n" not in str(error), error
            refused += 1
print(ran, refused)
"""


def test_damaged_bytes_never_end_the_process(tmp_path):
    root = Path(soundness.__file__).parents[2]
    files = [DATA / "one_file" / "model_int8.tflite", DATA / "own_files" / "first_int8.tflite"]
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, str(tmp_path / "damaged.tflite"), *map(str, files)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    ran, refused = map(int, done.stdout.split())
    assert ran + refused == 80
    assert min(ran, refused) > 10
