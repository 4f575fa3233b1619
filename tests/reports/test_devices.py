"""What was measured elsewhere is taken into the report of the run whose files it was measured on, and of no other."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dynnas_jax.__main__ import main
from dynnas_jax.export import targets
from dynnas_jax.reports import artifacts, benches, devices


@pytest.fixture
def copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run.workdir, tmp_path / "W")


@pytest.fixture
def results(copy, tmp_path):
    """Of a bench on this machine over some pictures, as if of a board."""
    file, photos = tmp_path / "kitchen.json", tmp_path / "photos"
    photos.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(photos / f"{number}.png")
    options = ["--runs=3", "--warm_up=1", "--energy_s=0", f"--images={photos}", f"--output={file}"]
    main(["bench", str(copy / "export" / "x86"), *options])
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "machine": {**content["machine"], "board": "a board"}}))
    return file


def rows(workdir):
    with (workdir / "report" / "tables" / "devices.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_of_a_board(copy, results):
    before = rows(copy)
    assert {row["where"] for row in before} == {"this machine"}
    main(["report", f"--workdir={copy}", "--bench", str(results)])
    after, content = rows(copy), json.loads(results.read_text())
    assert [row for row in after if row["where"] == "this machine"] == before
    export = json.loads((copy / "export" / "x86" / "export.json").read_text())
    measured = {row["network"]: row for row in after if row["where"] == "a board"}
    precision = content["model"]["precision"]
    assert set(measured) == {"little", "big", "dynamic"}
    for network, row in measured.items():
        section = content["sections"]["decision" if network == "dynamic" else network]
        assert row["precision"] == precision
        assert float(row["latency_ms"]) == section["latency_ms"]["median_ms"]
        assert float(row["throughput_per_s"]) == section["throughput_per_s"]
        assert row["energy_mj"] == ""
    assert float(measured["dynamic"]["accuracy"]) == export["cascade"][precision]["accuracy"]
    assert float(measured["big"]["accuracy"]) == export["files"][f"big_{precision}"]["accuracy"]
    assert float(measured["dynamic"]["peak_memory_bytes"]) == content["peak_memory_bytes"]
    page = (copy / "report.html").read_text()
    assert "a board" in page
    assert "not measured" in page


def test_results_of_other_files_are_refused(copy, results, tmp_path, capsys):
    content = json.loads(results.read_text())
    (file,) = content["model"]["files"].values()
    file["sha256"] = "0" * 64
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    page = (copy / "report.html").read_bytes()
    for given, said in ((other, "was measured on other files than those in"), (copy / "config.json", "no results of")):
        with pytest.raises(SystemExit) as ended:
            main(["report", f"--workdir={copy}", "--bench", str(given)])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert (copy / "report.html").read_bytes() == page
    assert artifacts.read(copy).benches == {}


def test_all_that_is_taken_in_is_checked_before_any_of_it_is(copy, results, tmp_path, capsys):
    """Of several results, and of results and baselines: a bad one leaves the earlier ones as they were."""
    main(["report", f"--workdir={copy}", "--bench", str(results)])
    kept, page = (copy / "bench" / "kitchen.json").read_bytes(), (copy / "report.html").read_bytes()
    content = json.loads(results.read_text())
    results.write_text(json.dumps({**content, "peak_memory_bytes": 1}))
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({**content, "kind": "no bench"}))
    for given in ([str(results), str(bad)], [str(results), f"--baselines={tmp_path}"]):
        with pytest.raises(SystemExit) as ended:
            main(["report", f"--workdir={copy}", "--bench", *given])
        assert ended.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert (copy / "bench" / "kitchen.json").read_bytes() == kept
    assert (copy / "report.html").read_bytes() == page
    assert not (copy / artifacts.BASELINES).exists()


def bench_of(board=None, *, steps=("little", "big_after_stem"), images="photos", threads=1, own=True, target="x86"):
    """Results of a pair as `bench` writes them, and what is added as they are read."""

    def section(median_ms):
        latency = {key: median_ms for key in ("median_ms", "p10_ms", "p90_ms", "p95_ms", "mean_ms")}
        return {"latency_ms": latency, "throughput_per_s": 1e3 / median_ms, "window": None, "energy": None}

    sections = {"decision": section(2.0), "little": section(1.0), "big": section(4.0)}
    model = {"target": target, "precision": "int8", "steps": list(steps), "files": {"model_int8.tflite": {}}}
    return {
        "model": {**model, "thresholds": [0.8 if own else 0.25]},
        "machine": {"board": board, "cpu": "a cpu"},
        "settings": {"images": images, "threads": threads, "delegate": None},
        "sections": sections if len(steps) > 1 else {"decision": section(3.0)},
        "peak_memory_bytes": 2**20,
        benches.OF: {"export": target, "own_thresholds": own},
    }


def measured(workdir, **taken):
    """(artifacts, rows of what was measured elsewhere by where and network) with these results."""
    found = artifacts.read(workdir)._replace(benches=taken)
    elsewhere = [row for row in devices.rows(found) if row["where"] not in (devices.HERE, None)]
    return found, {(row["where"], row["network"]): row for row in elsewhere}


def test_noise_does_not_tell_the_time_of_the_whole_decision(workdir):
    found, table = measured(workdir, desk=bench_of(images="noise"), shelf=bench_of())
    assert [table["desk", name]["latency_ms"] for name in ("little", "big", "dynamic")] == [1.0, 4.0, None]
    assert table["shelf", "dynamic"]["latency_ms"] == 2.0
    for key in ("latency_p95_ms", "throughput_per_s", "energy_mj"):
        assert table["desk", "dynamic"][key] is None
    assert table["desk", "dynamic"]["peak_memory_bytes"] == 2**20
    assert table["desk", "dynamic"]["accuracy"] == table["shelf", "dynamic"]["accuracy"] is not None
    assert any(note.startswith("desk was measured with noise") for note in devices.notes(found))
    assert not any("shelf" in note for note in devices.notes(found))


def test_another_threshold_has_another_accuracy(workdir):
    found, table = measured(workdir, desk=bench_of(own=False), shelf=bench_of())
    assert table["desk", "dynamic"]["accuracy"] is None
    assert table["desk", "dynamic"]["latency_ms"] == 2.0
    export = found.exports["x86"]
    assert table["shelf", "dynamic"]["accuracy"] == export["cascade"]["int8"]["accuracy"]
    for name in ("desk", "shelf"):  # a net alone knows no threshold
        assert table[name, "big"]["accuracy"] == export["files"]["big_int8"]["accuracy"]
    assert any(note.startswith("desk was measured with the threshold 0.25 instead") for note in devices.notes(found))


def test_noise_tells_the_time_of_a_net_that_always_answers(workdir):
    found, table = measured(workdir, desk=bench_of(steps=("net",), images="noise"))
    assert table["desk", "net"]["latency_ms"] == 3.0
    assert not any("noise" in note for note in devices.notes(found))


def test_results_of_one_board_are_told_apart(workdir):
    _, table = measured(workdir, one=bench_of("Pi 5"), four=bench_of("Pi 5", threads=4), phone=bench_of("a phone"))
    assert {where for where, _ in table} == {"Pi 5 (one)", "Pi 5 (four)", "a phone"}
    assert table["Pi 5 (four)", "big"]["threads"] == 4
    here = [row for row in devices.rows(artifacts.read(workdir)) if row["where"] == devices.HERE]
    assert {row["threads"] for row in here} == {1}


def test_what_was_exported_nowhere_is_not_measured(workdir):
    """The targets are those of the run and of what stands beside it; x86 is where files are exported."""
    own = artifacts.read(workdir)
    assert all(row["where"] == devices.HERE for row in devices.rows(own))
    only_net = {"files": {"net_int8": {**own.exports["x86"]["files"]["big_int8"], "function": "net"}}}
    rival = {"exports": {"pi4": only_net}, "benches": {}}
    found = own._replace(baselines={"rival": rival})
    rows = [row for row in devices.rows(found) if row["where"] is None]
    told = {(row["run"], row["target"], row["network"], row["precision"]): row for row in rows}
    assert set(told) == {
        *((devices.OWN, "pi4", name, "int8") for name in ("little", "big", "dynamic")),
        ("rival", "pi4", "net", "int8"),  # exported, but measured on no Pi
        ("rival", "x86", "net", "int8"),
    }
    assert told["rival", "pi4", "net", "int8"]["accuracy"] == only_net["files"]["net_int8"]["accuracy"]
    for row in rows:
        assert row["latency_ms"] is row["throughput_per_s"] is None
        assert (row["run"] == "rival" and row["target"] == "pi4") or row["accuracy"] is row["size_bytes"] is None
    assert any("row without a place" in note for note in devices.notes(found))
    # A board's results take their place.
    rival = rival | {"benches": {"kitchen": bench_of("a Pi", steps=("net",), target="pi4")}}
    rows = devices.rows(own._replace(baselines={"rival": rival}))
    assert ("rival", "pi4") not in {(row["run"], row["target"]) for row in rows if row["where"] is None}


def test_what_nothing_was_exported_for_is_not_measured(workdir):
    """A line for all these targets in place of rows without a figure."""
    own = artifacts.read(workdir)
    (note,) = [note for note in devices.notes(own) if note.startswith("Not measured: ")]
    never = ", ".join(name for name in targets.TARGETS if name != "x86")
    assert note.startswith(f"Not measured: {never}, for which nothing was exported. To measure there: dynnas export ")
    every = own._replace(exports=dict.fromkeys(targets.TARGETS, own.exports["x86"]))
    assert not any("nothing was exported" in note for note in devices.notes(every))


def test_memory_and_energy_of_this_machine_are_a_bench_s(workdir):
    own = artifacts.read(workdir)
    exports = {"x86": {**own.exports["x86"], "machine": {"board": None, "cpu": "a cpu"}}}
    for taken, said in (({}, True), ({"kitchen": bench_of("a Pi")}, True), ({"desk": bench_of()}, False)):
        notes = devices.notes(own._replace(exports=exports, benches=taken))
        assert any("measures neither memory nor energy" in note for note in notes) == said


def test_exports_of_several_parts_are_of_their_target(workdir):
    own = artifacts.read(workdir)
    files = {"files": {"net_int8": {**own.exports["x86"]["files"]["big_int8"], "function": "net"}}}
    found = own._replace(exports={"x86_open": files, "jetson_nano_open": files, "jetson_nano_round": files})
    rows = [row for row in devices.rows(found) if row["where"] is None]
    assert [(row["target"], row["engine"]) for row in rows] == [
        ("jetson_nano_open", "onnxruntime"),
        ("jetson_nano_round", "onnxruntime"),
    ]
    assert {devices.target_of(name) for name in targets.TARGETS} == set(targets.TARGETS)
    assert devices.target_of("toaster") is None


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("little", "big"), 2),
        (("little", "big_after_stem", "big"), 2),  # big alone stands beside them
        (("router", "little_after_stem", "big_after_stem", "little", "big"), 3),
        (("to_gate", "path1", "path2", "path4"), 4),
        (("exit1", "exit2", "exit3"), 3),
    ],
)
def test_the_size_of_a_whole_decision_is_that_of_all_files_that_it_runs(names, parts):
    files = {
        f"{name}_int8": {"path": f"{name}.tflite", "size_bytes": 1000 + (name in ("little", "big"))} for name in names
    }
    export = {"files": files | {"net_fp32": {"path": "net.tflite", "size_bytes": 7}}, "cascade": {"int8": {}}}
    row = devices._row("run", "edgetpu", devices.HERE, "dynamic", "int8", export, {})
    assert row["size_bytes"] // 1000 == parts
    one = {name: {**file, "path": "model.tflite", "size_bytes": 5000} for name, file in files.items()}
    assert devices._row("run", "pi4", None, "dynamic", "int8", {"files": one}, {})["size_bytes"] == 5000


def test_the_memory_of_a_net_in_a_process_of_several_is_not_measured(workdir):
    _, table = measured(workdir, desk=bench_of())
    assert [table["desk", name]["peak_memory_bytes"] for name in ("little", "big", "dynamic")] == [None, None, 2**20]


def test_static_baselines_that_are_not_there_are_named(workdir):
    found = artifacts.read(workdir)
    named = [note for note in devices.notes(found) if "MobileNetV3-Small" in note]
    assert len(named) == 1
    assert "--baselines=" in named[0]
    beside = {"small": {"exports": {}, "benches": {}}}
    fixed = found._replace(config={"network": {}})
    for other in (found._replace(baselines=beside), fixed):
        assert not any("MobileNetV3-Small" in note for note in devices.notes(other))


def test_stale_results_are_named(workdir):
    found = artifacts.read(workdir)._replace(stale_benches=("attic", "kitchen"))
    assert any(
        "attic, kitchen, measured on files that have been exported anew" in note for note in devices.notes(found)
    )


def test_every_exit_has_a_row_in_the_order_of_their_numbers():
    """Of the exits of a net, each a file of its own; the dynamic network takes all of them, and the part before them."""
    file = {"size_bytes": 100, "latency_ms": 1.0}
    files = {f"exit{n}_int8": {**file, "path": f"exit{n}.tflite"} for n in (7, 2, 3, 10, 1, 4, 5, 6)}
    files |= {"exit1_fp32": {**file, "path": "other.tflite"}, "stem_int8": {**file, "path": "stem.tflite"}}
    exports = {"edgetpu": {"files": files, "cascade": {"int8": {"exit_rate": [0.1] * 8, "latency_ms": 2.0}}}}
    told = SimpleNamespace(exports=exports, benches={}, baselines={})
    found = [row for row in devices.rows(told) if row["precision"] == "int8"]
    measured = [row for row in found if row["where"] == devices.HERE]
    assert [row["network"] for row in measured] == [*(f"exit{n}" for n in (1, 2, 3, 4, 5, 6, 7, 10)), "dynamic"]
    assert [row["size_bytes"] for row in measured] == [*[100] * 8, 900]
    assert [row["network"] for row in found if row["where"] is None] == [row["network"] for row in measured]
