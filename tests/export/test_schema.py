"""The reader of TFLite files: against the classes LiteRT generates from the schema; against damaged and hostile files."""

import re
import struct
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as generated

from dynnas_jax.export import flatbuffer, lint, schema

SOURCE = Path(generated.__file__).read_text()
NAMES = {"Quantization": "QuantizationParameters", "Sparsity": "SparsityParameters", "Dimension": "DimensionMetadata"}
NAMES |= {"Variant": "VariantSubType", "Named": "ExternalBufferGroup"}
KINDS = {
    "Int8": "i8",
    "Uint8": "u8",
    "Bool": "u8",
    "Int32": "i32",
    "Uint32": "u32",
    "Int64": "i64",
    "Uint64": "u64",
    "Float32": "f32",
}


SLOTS = re.findall(r"^def (\w+?)Add(\w+)\(builder, \w+\):\n +builder\.Prepend(\w+?)Slot\((\d+), ", SOURCE, re.M)
VECTORS = re.findall(r"^def (\w+?)Start(\w+)Vector\(.*\n +return builder\.StartVector\((\d+)", SOURCE, re.M)


def members(name):
    """{number: (name in Python, kind of number, or bytes of a vector's item, or None for a text or a table)} of a class."""
    vectors = {field: size for table, field, size in VECTORS if table == name}
    slots = [(field, kind, int(number)) for table, field, kind, number in SLOTS if table == name]
    offset = "UOffsetTRelative"
    return {number: (field, vectors.get(field) if kind == offset else KINDS[kind]) for field, kind, number in slots}


def snake(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("table", list(schema._TABLES)[: list(schema._TABLES).index("Conv2D")])
def test_tables_have_the_fields_of_the_schema(table):
    known = members(NAMES.get(table, {"BlockShape": "BlockwiseQuantization"}.get(table, re.sub(r"(\d+)$", r"", table))))
    if table.startswith("Indices"):
        known = members({"32": "Int32Vector", "16": "Uint16Vector", "8": "Uint8Vector"}[table.removeprefix("Indices")])
    for number, field, kind, _ in schema._fields(table):
        if field == "unused":
            assert number not in known
            continue
        theirs, form = known.pop(number)
        assert snake(theirs).replace("options2", "options_2") == field
        if kind in schema._NUMBERS:
            assert form == kind
        elif kind[1:-1] in schema._NUMBERS:
            assert int(form) == schema._NUMBERS[kind[1:-1]].size
        else:
            assert form == ("4" if kind.startswith("[") else None)
    assert not known


def union(name):
    members_of = vars(getattr(generated, name)).items()
    return {number: table for table, number in members_of if isinstance(number, int) and number}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("Options", "BuiltinOptions"),
        ("Options2", "BuiltinOptions2"),
        ("Details", "QuantizationDetails"),
        ("Indices", "SparseIndexVector"),
    ],
)
def test_every_vector_and_text_inside_options_is_known(ours, theirs):
    for number, name in union(theirs).items():
        table = schema._UNIONS[ours].get(number, "scalars")
        known = {n: kind for n, _, kind, _ in schema._fields(table)}
        for slot, (_, form) in members(name).items():
            if form in schema._NUMBERS:
                assert known.get(slot, form) == form
            elif form is None:
                assert known[slot] == "str"
            else:
                assert schema._NUMBERS[known[slot][1:-1]].size == int(form)


def agree(ours, theirs, where="model"):
    """Compares a tree with that of the generated classes, field by field."""
    if isinstance(ours, SimpleNamespace):
        for name, value in vars(ours).items():
            camel = re.sub(r"_(\w)", lambda found: found[1].upper(), name)
            if where.endswith("options"):
                continue  # not all their fields have names here
            if hasattr(theirs, camel):
                agree(value, getattr(theirs, camel), f"{where}.{name}")
            else:
                assert name == "unused" or not value, f"{where}.{name}"
    elif isinstance(ours, list):
        assert len(ours) == len(theirs or ()), where
        for n, (mine, its) in enumerate(zip(ours, theirs or (), strict=True)):
            agree(mine, its, f"{where}[{n}]")
    elif isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours, [] if theirs is None else theirs, err_msg=where)
    elif isinstance(ours, str):
        assert ours == (theirs or b"").decode(), where
    else:
        assert ours == theirs, where


def test_a_file_is_read_as_the_generated_classes_read_it(int8_file):
    content = int8_file.read_bytes()
    theirs = generated.ModelT.InitFromObj(generated.Model.GetRootAs(content, 0))
    agree(flatbuffer.load(int8_file), theirs)
    mine = [op.builtin_options for _, op, _ in flatbuffer.operators(flatbuffer.load(int8_file))]
    for ours, operator in zip(mine, theirs.subgraphs[0].operators, strict=True):
        for short, long in (("activation", "fusedActivationFunction"), ("dilation_h", "dilationHFactor")):
            if hasattr(ours, short):
                assert getattr(ours, short) == getattr(operator.builtinOptions, long)


def is_read(path):
    """Whether all that reads a file does so; where it does not, it must be by a ValueError of one line."""
    try:
        model = flatbuffer.load(path)
        flatbuffer.signatures(model)
        lint.lint(path, "edgetpu").text()
    except ValueError as error:
        if "\n" in str(error):
            raise
        return False
    return True


def test_no_damage_ends_in_anything_but_a_value_error(int8_file, tmp_path):
    path, content = tmp_path / "damaged.tflite", int8_file.read_bytes()
    generator = np.random.default_rng(0)
    for length in [*range(0, 64, 3), *generator.integers(64, len(content), 40), len(content) - 1]:
        path.write_bytes(content[:length])
        assert not is_read(path)
    outcomes = []
    for place in [*range(0, 100, 2), *generator.integers(100, len(content), 350)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << generator.integers(8) if place % 2 else 0xFF
        path.write_bytes(damaged)
        outcomes.append(is_read(path))
    assert 0.2 < np.mean(outcomes) < 0.95  # weights may be anything, offsets not


def test_foreign_files_of_every_kind(tmp_path):
    generator, path = np.random.default_rng(0), tmp_path / "foreign.tflite"
    path.write_bytes(b"")
    assert not is_read(path)
    for kind in range(60):
        random = bytearray(generator.integers(0, 256, 600, np.uint8).tobytes())
        random[4:8] = b"TFL3" if kind % 3 else b"PK\x03\x04"
        random[:4] = struct.pack("<I", int(generator.integers(8, 700)))
        path.write_bytes(random)
        assert not is_read(path)
    assert not is_read(tmp_path)  # a folder


def huge(*, subgraphs, tensors):
    """A file of two tables, each in a vector that names it again and again: 4 bytes would become a table every time."""
    # vtable of Model (subgraphs is field 2), Model; vector of subgraphs; vtable and table of SubGraph; vector of tensors; Tensor
    content = bytearray(struct.pack("<I4s", 20, b"TFL3"))
    content += struct.pack("<HHHHH2x", 10, 8, 0, 0, 4)  # at 8
    content += struct.pack("<iI", 20 - 8, 4)  # Model at 20, subgraphs at 24 + 4
    content += struct.pack("<I", subgraphs)
    first = len(content)
    table = first + 4 * subgraphs + 8
    content += b"".join(struct.pack("<I", table - (first + 4 * n)) for n in range(subgraphs))
    content += struct.pack("<HHH2x", 6, 8, 4)
    content += struct.pack("<iI", 8, 4)  # SubGraph, its tensors behind it
    content += struct.pack("<I", tensors)
    first = len(content)
    tensor = first + 4 * tensors + 4
    content += b"".join(struct.pack("<I", tensor - (first + 4 * n)) for n in range(tensors))
    content += struct.pack("<HH", 4, 4) + struct.pack("<i", 4)
    return bytes(content)


def test_what_names_itself_a_million_times_is_found_before_memory_is_taken(tmp_path):
    path = tmp_path / "hostile.tflite"
    path.write_bytes(huge(subgraphs=1, tensors=2))
    with pytest.raises(ValueError, match="there is no buffer 0"):  # so far it is whole
        flatbuffer.load(path)
    path.write_bytes(huge(subgraphs=2000, tensors=2000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="its parts overlap"):
            flatbuffer.load(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model.subgraphs[0].tensors[3], "buffer", 99), "there is no buffer 99"),
        (lambda model: setattr(model.subgraphs[0].operators[2], "inputs", [0, 77]), "there is no tensor 77"),
        (lambda model: setattr(model.subgraphs[0].operators[2], "opcodeIndex", 40), "there is no operator code 40"),
        (lambda model: setattr(model.signatureDefs[0], "subgraphIndex", 3), "there is no subgraph 3"),
        (lambda model: setattr(model.signatureDefs[0].inputs[0], "tensorIndex", 500), "there is no tensor 500"),
        (lambda model: setattr(model.subgraphs[0].tensors[-1], "shape", [1, 60000, 60000, 3]), "has 10800000000 bytes"),
        (lambda model: setattr(model.subgraphs[0].tensors[1], "shape", [3, 7]), "has (21|84) bytes"),
        (lambda model: setattr(model.subgraphs[0], "tensors", []), "there is no tensor"),
        (lambda model: setattr(model, "subgraphs", []), "no subgraph"),
    ],
)
def test_what_points_nowhere_is_named(int8_file, edited, change, message):
    with pytest.raises(ValueError, match=f"truncated or damaged.*{message}"):
        flatbuffer.load(edited(int8_file, change))


def test_damaged_metadata_is_one_plain_line(int8_file, edited):
    def add(model):
        model.buffers.append(generated.BufferT(data=np.frombuffer(b'{"version": ', np.uint8)))
        model.metadata = [generated.MetadataT(name="dynnas", buffer=len(model.buffers) - 1)]

    with pytest.raises(ValueError, match="its `dynnas` metadata is damaged"):
        flatbuffer.read_metadata(edited(int8_file, add))


def test_signatures_and_what_runs_in_each(int8_file, edited):
    def second(model):
        model.subgraphs.append(model.subgraphs[0])
        other = generated.SignatureDefT(signatureKey="again", subgraphIndex=1)
        other.inputs, other.outputs = model.signatureDefs[0].inputs, model.signatureDefs[0].outputs
        model.signatureDefs.append(other)

    path = edited(int8_file, second)
    found = flatbuffer.signatures(flatbuffer.load(path))
    assert list(found) == ["net", "again"]
    assert (found["net"].subgraph, found["again"].subgraph) == (0, 1)
    assert (set(found["net"].inputs), set(found["again"].outputs)) == ({"image"}, {"logits"})
    by_hand = 8 * 8 * 9 * 3 * 8 + 4 * 4 * 9 * 8 + 4 * 4 * 8 * 16 + 16 * 5
    work = flatbuffer.work(path)
    assert work["again"] == work["net"] == flatbuffer.work(int8_file)["net"]
    assert work["net"].macs == by_hand
