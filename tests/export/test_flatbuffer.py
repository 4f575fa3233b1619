"""The file's structure: against hand counts, against LiteRT, and damaged on purpose."""

import shutil

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hand_made import DATA

from dynnas_jax.export import flatbuffer, machine, tflite


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copyfile(exported.folder / "model_fp32.tflite", tmp_path / "copy.tflite")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("net", ["little", "big_after_stem", "big"])
def test_macs_equal_the_hand_count(exported, net, precision):
    assert flatbuffer.work(exported.folder / f"model_{precision}.tflite")[net].macs == exported.macs[net]


def test_op_list_is_what_the_net_is_made_of(copy):
    stem = ["MUL", "SUB", "CONV_2D", "HARD_SWISH"]
    excite = ["AVERAGE_POOL_2D", "CONV_2D", "CONV_2D", "MUL", "MUL"]
    body = ["CONV_2D", "DEPTHWISE_CONV_2D", *excite, "CONV_2D", "ADD"]
    little = flatbuffer.work(copy)["little"]
    assert [*little.operators] == [*stem, *body, "CONV_2D", "AVERAGE_POOL_2D", "FULLY_CONNECTED"]
    assert little.counts["CONV_2D"] == 6


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_ops_agree_with_litert(exported, precision):
    path = exported.folder / f"model_{precision}.tflite"  # LiteRT tells of the first graph only
    details = Interpreter(model_path=str(path))._get_ops_details()
    assert [*flatbuffer.work(path)["big"].operators] == [op["op_name"] for op in details if op["op_name"] != "DELEGATE"]


def test_metadata_goes_in_comes_out_and_is_replaced(exported, copy):
    assert flatbuffer.read_metadata(copy)["cost"] == list(exported.promise.cost)
    before = flatbuffer.load(copy)
    for metadata in ({"version": 2, "labels": ["Käfer", "甲虫"]}, {"thresholds": [0.25]}):
        tflite.add_metadata(copy, metadata)
        assert flatbuffer.read_metadata(copy) == metadata
    after = flatbuffer.load(copy)
    assert len(after.metadata) == len(before.metadata)
    for old, new in zip(before.buffers[:-1], after.buffers[:-1], strict=True):
        np.testing.assert_array_equal(old.data, new.data)


def test_a_file_of_another_origin_has_no_metadata(exported, tmp_path):
    path = tmp_path / "plain.tflite"
    tflite.convert(lambda x: x + 1.0, (1, 4), path)
    with pytest.raises(ValueError, match="no `dynnas` metadata"):
        flatbuffer.read_metadata(path)


def test_every_truncation_is_one_plain_line(copy):
    content = copy.read_bytes()
    for length in [*range(0, len(content), 997), 4, 8, 40, len(content) - 1]:
        copy.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"^[^\n]*(truncated|not a TFLite)[^\n]*$"):
            flatbuffer.load(copy)


def test_a_large_file_stays_on_the_disk(tmp_path):
    """It may be larger than the memory of a board, and its weights are LiteRT's to read."""
    path = shutil.copyfile(DATA / "one_file" / "model_fp32.tflite", tmp_path / "large.tflite")
    with path.open("r+b") as file:
        file.truncate(2**29)
    before_bytes = machine.resident_bytes()
    model = flatbuffer.load(path)
    assert machine.resident_bytes() - before_bytes < 2**25
    assert flatbuffer.read_metadata(path)["labels"]
    assert model.subgraphs


def test_foreign_and_absent_files_are_one_plain_line(tmp_path):
    (tmp_path / "text.tflite").write_text("these are no weights")
    with pytest.raises(ValueError, match="is not a TFLite file"):
        flatbuffer.load(tmp_path / "text.tflite")
    with pytest.raises(ValueError, match="cannot read .*No such file"):
        flatbuffer.load(tmp_path / "absent.tflite")
