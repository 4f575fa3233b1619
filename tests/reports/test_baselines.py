"""Other runs' measurements in the table of devices, and which runs may not stand there."""

import json
import shutil

import numpy as np
import pytest

from dynnas_jax.reports import artifacts, baselines, devices
from dynnas_jax.workdir import read_json


@pytest.fixture
def finished(workdir):
    """A made-up run, as complete as a real one; and a rival of its own."""
    config = read_json(workdir / "config.json")
    (workdir / "config.json").write_text(json.dumps({**config, "supernet": {}}))
    for stage in ("train", "collect", "predict", "search", "evaluate", "export"):
        (workdir / stage).mkdir(exist_ok=True)
        (workdir / stage / "manifest.json").write_text(json.dumps({"sources": {"data.name": "ab"}}))
    rival = shutil.copytree(workdir, workdir.parent / f"{workdir.name}_rival")
    export = read_json(rival / "export" / "x86" / "export.json")
    for file in export["files"].values():
        file["latency_ms"] *= 2
    (rival / "export" / "pi4").mkdir()
    (rival / "export" / "pi4" / "export.json").write_text(json.dumps({"files": export["files"]}))
    return workdir, rival


def test_rows_of_rivals_follow_the_run_s_own(finished):
    workdir, rival = finished
    before = devices.rows(artifacts.read(workdir))
    alone = devices.rows(artifacts.read(rival))
    baselines.take_in(workdir, [rival])
    shutil.rmtree(rival)
    found = devices.rows(artifacts.read(workdir))
    mine = [row for row in found if row["run"] == devices.OWN]
    assert [row for row in mine if row["target"] == "x86"] == before
    # It was not exported for the rival's other target.
    assert {(row["target"], row["where"], row["accuracy"]) for row in mine if row not in before} == {
        ("pi4", None, None)
    }
    assert [{**row, "run": devices.OWN} for row in found if row["run"] == rival.name] == alone
    assert {row["target"] for row in found if row["run"] != devices.OWN} == {"pi4", "x86"}
    same = [(row["network"], row["run"]) for row in found if row["target"] == "x86" and row["precision"] == "int8"]
    assert same == [(name, run) for run in (devices.OWN, rival.name) for name in ("little", "big", "dynamic")]


def test_rows_of_onnx_files_name_their_engine(finished):
    workdir, _ = finished
    path = workdir / "export" / "x86" / "export.json"
    export = read_json(path)
    fact = {**export["files"]["big_int8"], "path": "big_int8.onnx", "accuracy": 0.5}
    export["files"] |= {"big_int8_onnx": fact, "big_after_stem_int8_onnx": fact}
    export["cascade"]["int8_onnx"] = {**export["cascade"]["int8"], "accuracy": 0.25}
    path.write_text(json.dumps(export))
    found = devices.rows(artifacts.read(workdir))
    onnx = [row for row in found if row["engine"] == "onnxruntime"]
    assert [(row["network"], row["precision"], row["accuracy"]) for row in onnx] == [
        ("big", "int8", 0.5),
        ("dynamic", "int8", 0.25),
    ]
    assert onnx[0]["size_bytes"] == fact["size_bytes"]
    assert {row["engine"] for row in found} == {"LiteRT", "onnxruntime"}


def other_images(rival):
    saved = dict(np.load(rival / "evaluate" / "outputs.npz"))
    np.savez(rival / "evaluate" / "outputs.npz", **{**saved, "image_id": saved["image_id"] + 1})


def other_classes(rival):
    (rival / "train" / "data.json").write_text(json.dumps({"classes": ["a", "b"]}))


def other_source(rival):
    (rival / "evaluate" / "manifest.json").write_text(json.dumps({"sources": {"data.name": "cd"}}))


def unfinished(rival):
    (rival / "export" / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (other_images, "was tested on other data than .*; the test images differ"),
        (other_classes, "the classes differ"),
        (other_source, "the sources differ"),
        (unfinished, "is not finished, its stage 'export' is not done"),
    ],
)
def test_rivals_that_cannot_be_compared(finished, harm, said):
    workdir, rival = finished
    harm(rival)
    with pytest.raises(ValueError, match=f"^--baselines: [^\n]*{said}[^\n]*$"):
        baselines.take_in(workdir, [rival])
    assert not (workdir / artifacts.BASELINES).exists()
