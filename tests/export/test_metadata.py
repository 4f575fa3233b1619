"""What a file says of itself: nothing in it is believed unseen, and files are found by any of them."""

import copy
import json
import shutil

import pytest
from hand_made import hand_made, tell  # noqa: F401 (a fixture)
from hand_made import metadata as told_by

from dynnas_jax.export import flatbuffer, metadata, targets


@pytest.fixture
def told():
    return copy.deepcopy(told_by("one_file", "int8"))


def test_what_the_exporter_says_is_understood(told):
    assert metadata.check(told, "a file") is told
    assert metadata.check({**told, "central_share": 0.875, "more": None}, "a file")
    assert metadata.PRECISIONS[0] in targets.TARGETS["pi4"].precisions


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("version", 1, "is not of version 2"),
        ("labels", ["one"], "no two labels"),
        ("labels", [1, 2], "no two labels"),
        ("image_shape", [8, 8], "no image_shape"),
        ("image_shape", [8, 0, 3], "no image_shape"),
        ("image_shape", [8, 8.0, 3], "no image_shape"),
        ("steps", [], "names no steps"),
        ("steps", None, "names no steps"),
        ("whole", [1], "names no steps"),
        ("steps", ["first", "first", "second"], "names a step twice"),
        ("files", {}, "a file of this folder"),
        ("signatures", [], "has signatures that do not give the shapes"),
        ("signatures", {"first": []}, "has signatures that do not give the shapes"),
        ("signatures", {"first": {"inputs": {"image": [1]}}}, "has signatures that do not give the shapes"),
        ("signatures", {"first": {"inputs": {}, "outputs": ["logits"]}}, "has signatures that do not give the shapes"),
        (
            "signatures",
            {"first": {"inputs": {"image": 1}, "outputs": {}}},
            "has signatures that do not give the shapes",
        ),
        ("signatures", {"first": {"inputs": {"image": ["1"]}, "outputs": {}}}, "has signatures that do not give"),
        ("thresholds", [0.5], "2 thresholds in [0, 1] for 3 steps"),
        ("thresholds", [0.5, 1.5], "2 thresholds in [0, 1] for 3 steps"),
        ("thresholds", [0.5, True], "2 thresholds in [0, 1] for 3 steps"),
        ("thresholds", [0.5, float("nan")], "2 thresholds in [0, 1] for 3 steps"),
        ("cost", [1], "the cost of each step"),
        ("policy", {"rule": "dice", "score": "margin"}, "another policy"),
        ("policy", {"rule": "first_above", "score": "mood"}, "unknown score 'mood'"),
        ("policy", None, "another policy"),
        ("router", ["first"], "names ['first'] as the router"),
        ("router", None, "names None as the router"),
        ("router", "gate", "a file of this folder"),
        ("router", "first", "has another policy than 'routed' of two steps"),
        ("target", ["pi4"], "a target of ['pi4']"),
        ("precision", {}, "a precision of {}"),
        ("central_share", 0, "central_share of 0"),
        ("central_share", "1", "central_share of '1'"),
    ],
)
def test_whatever_is_wrong_is_one_plain_line(told, key, value, said):
    with pytest.raises(ValueError, match=r"^the metadata of a\.tflite [^\n]*$") as wrong:
        metadata.check({**told, key: value}, "a.tflite")
    assert said in str(wrong.value)


def test_a_router_has_two_steps_behind_it(told):
    routed = told | {"router": "gate", "steps": ["first", "second"], "cost": [1, 2], "thresholds": [0.5]}
    routed["files"] = {**told["files"], "gate": "gate_int8.tflite"}
    routed["policy"] = {"rule": "routed", "score": "own"}
    assert metadata.in_turn(metadata.check(routed, "a file")) == ["gate", "first", "second"]
    assert metadata.in_turn(told) == told["steps"]
    with pytest.raises(ValueError, match="has another policy than 'first_above'"):
        metadata.check({key: value for key, value in routed.items() if key != "router"}, "a file")


@pytest.mark.parametrize("name", ["../model.tflite", "/etc/passwd", "a\\b", "..", "", "C:model", "a\0b", None])
def test_no_file_leads_out_of_its_folder(told, name):
    told["files"]["first"] = name
    with pytest.raises(ValueError, match="a file of this folder"):
        metadata.check(told, "a file")


def test_anything_but_an_object_is_refused():
    for content in ([], None, "text", 3):
        with pytest.raises(ValueError, match="is not of version 2"):
            metadata.check(content, "a file")


# Finding files.


@pytest.fixture
def folder(hand_made, tmp_path):  # noqa: F811
    return shutil.copytree(hand_made.one_file, tmp_path / "one")


@pytest.fixture
def coral(hand_made, tmp_path):  # noqa: F811
    return shutil.copytree(hand_made.own_files, tmp_path / "own")


def found(*arguments):
    told, files = metadata.find(*arguments)
    return told["precision"], {name: path.name for name, path in files.items()}


def test_an_export_is_found_by_its_folder_or_any_file(folder, coral):
    assert found(folder, None, None)[0] == "int8"  # what the target runs
    assert found(folder, "fp32", None) == (
        "fp32",
        dict.fromkeys(("first", "second", "third", "large"), "model_fp32.tflite"),
    )
    assert found(folder / "model_fp32.tflite", None, None)[0] == "fp32"
    assert found(folder / "model_fp32.tflite", "int8", None)[0] == "int8"
    assert found(coral / "third_int8.tflite", None, None)[1]["first"] == "first_int8.tflite"


def test_the_precision_is_what_the_target_runs_best(folder):
    for path in folder.glob("*.tflite"):
        tell(path, target="jetson_nano")  # fp32: its GPU has no int8
    assert found(folder, None, None)[0] == targets.TARGETS["jetson_nano"].precisions[-1] == "fp32"


def test_a_renamed_file_holds_all_its_nets(folder):
    shutil.move(folder / "model_fp32.tflite", folder / "mine.tflite")
    assert set(found(folder / "mine.tflite", None, None)[1].values()) == {"mine.tflite"}


def test_files_of_the_edge_tpu(coral):
    with pytest.raises(ValueError, match="has no first_int8_edgetpu.tflite: run the Edge TPU compiler first"):
        metadata.find(coral, None, "libedgetpu.so.1")
    for net in ("first", "second", "third"):  # the compiler drops the metadata
        shutil.copyfile(coral / f"{net}_int8.tflite", coral / f"{net}_int8_edgetpu.tflite")
    assert found(coral, None, "libedgetpu.so.1")[1]["second"] == "second_int8_edgetpu.tflite"
    assert found(coral / "first_int8_edgetpu.tflite", None, None)[1]["third"] == "third_int8_edgetpu.tflite"
    assert found(coral, None, None)[1]["second"] == "second_int8.tflite"
    for read in coral.glob("*_int8.tflite"):
        read.unlink()
    with pytest.raises(ValueError, match="only what the Edge TPU compiler made: copy the files that it read"):
        metadata.find(coral, None, None)


def test_what_is_not_there_is_named(folder, coral, tmp_path):
    for arguments, said in (
        ((folder, "fp16", None), "has no fp16 files, but fp32, int8"),
        ((tmp_path, None, None), "holds no exported model"),
        ((tmp_path / "none", None, None), "cannot read .*none"),
    ):
        with pytest.raises(ValueError, match=said):
            metadata.find(*arguments)
    (coral / "second_int8.tflite").unlink()
    with pytest.raises(ValueError, match=r"has no second_int8\.tflite: copy the whole folder"):
        metadata.find(coral, None, None)


def test_a_file_without_metadata_is_named(folder):
    path = folder / "model_fp32.tflite"
    path.write_bytes(path.read_bytes().replace(b"dynnas", b"dynnax"))
    with pytest.raises(ValueError, match="no `dynnas` metadata"):
        metadata.read(path)

    damaged = flatbuffer.pack_metadata(path, {"version": 2})
    path.write_bytes(damaged.replace(json.dumps({"version": 2}).encode(), b'{"version": 2'.ljust(14)))
    with pytest.raises(ValueError, match="damaged"):
        metadata.read(path)
