import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from dynnas_jax import kinds
from dynnas_jax.costs import energy
from dynnas_jax.reports import artifacts, chapters, page, sections
from dynnas_jax.reports.source import Source

FIGURES = {"accuracy_against_macs", "archs", "predictor", "samples", "threshold_curve", "training"}
FIGURES |= {"cases", "exits", "reliability"}


@pytest.fixture
def coarse(monkeypatch):
    """Figures of few pixels: the page is the same, and quickly made."""
    draw = sections.plots.png
    monkeypatch.setattr(sections.plots, "png", lambda figure: draw(figure, dpi=40))


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_page_of_a_finished_run(workdir, records_store, coarse):
    path = page.write(workdir, title="A <run> & its end")
    text = path.read_text(encoding="utf-8")
    assert path == workdir / "report.html"
    assert "A &lt;run&gt; &amp; its end" in text
    assert "<run>" not in text
    assert "not run" not in text
    _stands_alone(text)
    _tables_hold_what_was_measured(workdir, records_store)
    _figures_are_drawn(workdir, text)
    assert "it was chosen on images held out" in text
    assert "at 12.3 subnets a second on 8 devices" in text
    assert "&lt;digits&gt; &amp; more" in text  # of the configuration


def _stands_alone(text):
    assert not re.search(r"https?://|<script[^>]*src|<link|<iframe|@import|url\(", text)
    sources = re.findall(r'\bsrc="([^"]{0,40})', text)
    assert len(sources) == len(FIGURES)
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def _tables_hold_what_was_measured(workdir, records_store):
    folder = workdir / "report" / "tables"
    assert rows(folder / "times.csv") == [{"stage": "train", "seconds": "12.5"}]
    macs, accuracy = records_store
    recorded = rows(folder / "records.csv")
    np.testing.assert_allclose([float(row["macs"]) for row in recorded], macs)
    np.testing.assert_allclose([float(row["accuracy"]) for row in recorded], accuracy, atol=1e-6)
    for row, m, a in zip(recorded, macs, accuracy, strict=True):
        beaten = np.any((macs <= m) & (accuracy >= a) & ((macs < m) | (accuracy > a)))
        assert row["front"] == str(not beaten)
    arrays = np.load(workdir / "evaluate" / "outputs.npz")
    cost = json.loads((workdir / "search" / "found.json").read_text())["pair"]["cost"]
    for row in rows(folder / "threshold_curve.csv")[::97]:
        leaves = arrays["score"][:, 0] > np.float32(float(row["threshold"]))
        assert float(row["accuracy"]) == pytest.approx(np.where(leaves, *arrays["correct"].T).mean())
        assert float(row["average_macs"]) == pytest.approx(np.where(leaves, *cost).mean())
        assert float(row["exit_rate"]) == pytest.approx(leaves.mean())
    names = {
        "cascade_x86",
        "config",
        "times",
        "devices",
        "export_x86",
        "front",
        "machine",
        "predictor",
        "records",
        "summary",
    }
    names |= {"routers", "operating_points", "cases", "by_difficulty", "by_class", "calibration", "reliability"}
    assert {file.stem for file in folder.iterdir()} == names | {"threshold_curve"}
    assert all(rows(file) for file in folder.iterdir())


def _figures_are_drawn(workdir, text):
    files = {file.stem: file.read_bytes() for file in (workdir / "report" / "figures").iterdir()}
    assert set(files) == FIGURES
    for content in files.values():
        assert base64.b64encode(content).decode() in text
        assert np.asarray(Image.open(io.BytesIO(content)).convert("L")).std() > 5


def test_headline_says_what_the_evaluation_says(workdir, coarse):
    evaluation = json.loads((workdir / "evaluate" / "evaluation.json").read_text())
    evaluation["dynamic"] |= {"accuracy": 0.991, "macs": 0.31 * evaluation["big"]["macs"]}
    (workdir / "evaluate" / "evaluation.json").write_text(json.dumps(evaluation))
    found = json.loads((workdir / "search" / "found.json").read_text())
    found["pair"]["feasible"] = False
    (workdir / "search" / "found.json").write_text(json.dumps(found))
    (workdir / "train" / "metrics.jsonl").unlink()
    text = page.write(workdir).read_text()
    assert "answers <b>99.1 %</b> of 800 test images rightly at <b>31 %</b> of big's MACs" in text
    assert "No pair and threshold met the target" in text


def test_a_workdir_without_artifacts(tmp_path):
    (tmp_path / "report" / "tables").mkdir(parents=True)
    (tmp_path / "report" / "tables" / "front.csv").write_text("of an earlier report")
    text = page.write(tmp_path).read_text()
    assert "has not been evaluated yet" in text
    assert (
        text.count('<p class="absent">not run</p>') == len(chapters.of(kinds.SUPERNET).chapters) - 1
    )  # the first is a table saying so
    assert {file.name for file in (tmp_path / "report" / "tables").iterdir()} == {"summary.csv"}


def test_samples_that_are_not_those_of_the_outputs_leave_the_earlier_report(workdir, coarse):
    page.write(workdir)
    before = {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file()}
    saved = np.load(workdir / "evaluate" / "samples.npz")
    np.savez(workdir / "evaluate" / "samples.npz", row=saved["row"] + len(saved["row"]), image=saved["image"])
    with pytest.raises(ValueError, match=r"samples.npz lacks the image of row \d+; pass --redo=evaluate"):
        page.write(workdir)
    after = {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file()}
    assert {**after, workdir / "evaluate" / "samples.npz": None} == {
        **before,
        workdir / "evaluate" / "samples.npz": None,
    }


def test_what_a_training_took_stands_beside_the_times_of_the_stages(workdir, tmp_path):
    """Where the run metered it: energy, the carbon of the world's grid, and how both are known."""
    assert list(rows_of_times(workdir, tmp_path)[0]) == ["stage", "seconds"]
    told = {"seconds": 9.0, "energy_j": 3.6e6, "source": "a <meter>", "devices": "2 x GPU"}
    (workdir / "train" / "energy.json").write_text(json.dumps(told))
    (row,) = rows_of_times(workdir, tmp_path)
    assert (float(row["energy_j"]), float(row["carbon_g"])) == (3.6e6, pytest.approx(energy.GRID_G_PER_KWH["world"]))
    page = sections.BUILDERS["times"](Source(workdir, tmp_path / "R", artifacts.read(workdir)))
    assert "Energy of training alone: a &lt;meter&gt;, 2 x GPU. Carbon at 475 g a kWh" in page
    (workdir / "train" / "energy.json").write_text(json.dumps({**told, "energy_j": None}))
    assert rows_of_times(workdir, tmp_path)[0]["energy_j"] == "", "nothing told its energy"


def rows_of_times(workdir, tmp_path):
    sections.BUILDERS["times"](Source(workdir, tmp_path / "R", artifacts.read(workdir)))
    return rows(tmp_path / "R" / "tables" / "times.csv")


def test_the_device_of_the_milliseconds_is_named(workdir, records_store, coarse, tmp_path):
    path = workdir / "search" / "found.json"
    found, device = json.loads(path.read_text()), {"board": "an <old> computer", "runtime": "JAX on gpu"}
    for told, named in ((found, False), (found | {"latency_device": device}, True)):
        path.write_text(json.dumps(told))
        body = sections.BUILDERS["records"](sections.Source(workdir, tmp_path / "made", artifacts.read(workdir)))
        assert ("Budgets in milliseconds are of an &lt;old&gt; computer, JAX on gpu." in body) == named
