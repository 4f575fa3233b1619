"""What was measured elsewhere is taken into the report of the run whose files it was measured on, and of no other."""

import csv
import json
import shutil

import pytest

from dynnas_jax.__main__ import main
from dynnas_jax.reports import artifacts


@pytest.fixture
def copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run.workdir, tmp_path / "W")


@pytest.fixture
def results(copy, tmp_path):
    """Of a bench on this machine, as if of a board."""
    file = tmp_path / "kitchen.json"
    main(["bench", str(copy / "export" / "x86"), "--runs=3", "--warm_up=1", "--energy_s=0", f"--output={file}"])
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
