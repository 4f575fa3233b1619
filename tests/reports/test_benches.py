"""Which results may stand beside a run: those of its files as they are now, none in the place of another measurement."""

import json
import shutil
from pathlib import Path

import pytest

from dynnas_jax.__main__ import main
from dynnas_jax.export import flatbuffer
from dynnas_jax.reports import benches

EXPORTED = Path(__file__).parents[1] / "export" / "data" / "one_file"  # three steps, and a net beside them
THRESHOLDS = [0.985, 0.97]  # the files' own


@pytest.fixture
def run(tmp_path):
    """A working directory that holds an export and nothing else."""
    shutil.copytree(EXPORTED, tmp_path / "W" / "export" / "x86")
    return tmp_path / "W"


@pytest.fixture
def results(run, tmp_path):
    """results(path, **changes of its parts): a bench of the export, as if taken on another machine."""
    made = tmp_path / "made.json"
    folder = str(run / "export" / "x86")
    main(["bench", folder, "--precision=fp32", "--runs=2", "--warm_up=0", "--energy_s=0", f"--output={made}"])
    content = json.loads(made.read_text())

    def write(name, **parts):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        changed = {part: {**content[part], **changes} for part, changes in parts.items()}
        path.write_text(json.dumps({**content, **changed}))
        return path

    return write


def test_results_know_their_export_and_whether_the_thresholds_are_its_own(run, results):
    benches.take_in(run, results("own.json"), results("other.json", model={"thresholds": [0.985, 0.5]}))
    found, stale = benches.read(run)
    assert stale == ()
    assert {name: content[benches.OF] for name, content in found.items()} == {
        "other": {"export": "x86", "own_thresholds": False},
        "own": {"export": "x86", "own_thresholds": True},
    }
    assert found["own"]["model"]["thresholds"] == pytest.approx(THRESHOLDS)


def test_files_that_were_exported_anew_make_results_stale(run, results, tmp_path):
    old = results("old.json")
    benches.take_in(run, old)
    path = run / "export" / "x86" / "model_fp32.tflite"
    told = flatbuffer.read_metadata(path)
    path.write_bytes(flatbuffer.pack_metadata(path, {**told, "thresholds": [0.9, 0.9]}))
    assert benches.read(run) == ({}, ("old",))
    with pytest.raises(ValueError, match="was measured on other files than those in"):
        benches.take_in(run, old)
    # What is stale gives way.
    main(["bench", str(path), "--runs=2", "--warm_up=0", "--energy_s=0", f"--output={old}"])
    content = json.loads(old.read_text())
    old.write_text(json.dumps({**content, "machine": {**content["machine"], "board": "Raspberry Pi 5"}}))
    benches.take_in(run, old)
    assert list(benches.read(run).found) == ["old"]


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": {"board": "Raspberry Pi 5"}},
        {"settings": {"threads": 4}},
        {"settings": {"delegate": "libedgetpu.so.1"}},
        {"model": {"thresholds": [0.5, 0.5]}},
    ],
)
def test_another_measurement_does_not_take_the_place_of_one_of_its_name(run, results, changes):
    """As where every board's results are called bench.json."""
    benches.take_in(run, results("pi4/bench.json", machine={"board": "Raspberry Pi 4"}))
    kept = (run / "bench" / "bench.json").read_bytes()
    other = results("pi5/bench.json", **{"machine": {"board": "Raspberry Pi 4"}, **changes})
    with pytest.raises(
        ValueError, match=r"^--bench: .*pi5/bench.json: .* is another measurement \(model_fp32.tflite for "
    ):
        benches.take_in(run, other)
    assert (run / "bench" / "bench.json").read_bytes() == kept
    benches.take_in(run, other.rename(other.with_name("pi5.json")))
    assert sorted(benches.read(run).found) == ["bench", "pi5"]


def test_the_same_measurement_done_again_takes_its_place(run, results):
    benches.take_in(run, results("bench.json"))
    later = results("bench.json", machine={"temperature_c": [40.0, 50.0]})
    benches.take_in(run, later)
    assert benches.read(run).found["bench"]["machine"]["temperature_c"] == [40.0, 50.0]


@pytest.mark.parametrize("precision", [None, "int4"])
def test_results_of_no_known_precision_are_refused(run, results, precision):
    with pytest.raises(ValueError, match=rf"^\S*bench\.json is of precision {precision!r}, which no exported file has"):
        benches.take_in(run, results("bench.json", model={"precision": precision}))
    assert not (run / benches.FOLDER).exists()


def test_results_of_a_damaged_energy_are_refused(run, results):
    content = json.loads(results("bench.json").read_text())["sections"]["decision"]
    with pytest.raises(ValueError, match=r"bench\.json is damaged \(its 'sections.decision.energy' is absent or"):
        benches.take_in(run, results("bench.json", sections={"decision": {**content, "energy": "x"}}))
    assert not (run / benches.FOLDER).exists()


def test_all_are_checked_before_one_is_written(run, results):
    first, second = results("pi4/bench.json"), results("pi5/bench.json")
    with pytest.raises(
        ValueError, match=r"^--bench: .*pi5/bench.json is the second that is called 'bench'; rename one"
    ):
        benches.take_in(run, first, second)
    bad = results("bad.json", model={"files": {"model_fp32.tflite": {"sha256": "0" * 64, "size_bytes": 1, "nets": []}}})
    with pytest.raises(ValueError, match="was measured on other files"):
        benches.take_in(run, first, bad)
    assert not (run / benches.FOLDER).exists()
