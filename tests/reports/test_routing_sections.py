"""The sections on routing and calibration: what their tables and pictures say, against the outputs they come from."""

import csv
import json

import numpy as np
import pytest

from dynnas_jax.reports import artifacts, page, plots, routing_sections
from dynnas_jax.reports.source import Source

CASE_NAMES = (
    "little answered, as it should",
    "little answered, and should not have",
    "passed on to big, as it should be",
    "passed on to big, though little should have answered",
)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures of few pixels: the page is the same, and quickly made."""
    draw = plots.png
    monkeypatch.setattr(plots, "png", lambda figure: draw(figure, dpi=40))


@pytest.fixture
def build(workdir, tmp_path_factory):
    """build(section) -> (HTML, {table: rows}) of a section of the made-up run."""

    def make(section):
        folder = tmp_path_factory.mktemp("made")
        body = routing_sections.BUILDERS[section](Source(workdir, folder, artifacts.read(workdir)))
        found = {}
        for file in folder.glob("tables/*.csv"):
            with file.open(newline="", encoding="utf-8") as lines:
                found[file.stem] = list(csv.DictReader(lines))
        return body, found

    return make


@pytest.fixture
def outputs(workdir):
    return dict(np.load(workdir / "evaluate" / "outputs.npz"))


def numbers(rows, key):
    return [float(row[key]) for row in rows]


def changed(workdir, change):
    path = workdir / "evaluate" / "evaluation.json"
    evaluation = json.loads(path.read_text())
    change(evaluation)
    path.write_text(json.dumps(evaluation))


def test_fixed_thresholds_stand_beside_the_one_in_use(workdir, build, outputs):
    body, found = build("operating_points")
    rows = found["operating_points"]
    names = [f"threshold {limit:g}" for limit in (0.5, 0.7, 0.9)] + ["threshold 0.8, in use"]
    assert [row["routing"] for row in rows][:4] == names
    cost = json.loads((workdir / "search" / "found.json").read_text())["pair"]["cost"]
    for row, limit in zip(rows, (0.5, 0.7, 0.9, 0.8), strict=False):
        little = outputs["score"][:, 0] > np.float32(limit)
        answer = np.where(little, *outputs["prediction"].T)
        assert float(row["accuracy"]) == np.mean(answer == outputs["label"])
        assert float(row["top5_accuracy"]) == np.where(little, *outputs["among_likeliest"].T).mean()
        assert float(row["macs"]) == pytest.approx(np.where(little, *cost).mean())
        assert float(row["exit_rate"]) == little.mean()
    right = outputs["correct"]
    for row in rows[4:]:
        assert row["routing"].startswith("oracle: ")
        assert float(row["accuracy"]) == right.any(axis=1).mean()
        assert row["top5_accuracy"] == row["expected_calibration_error"] == row["threshold"] == ""
    assert float(rows[5]["exit_rate"]) == np.mean(right[:, 0] | ~right[:, 1])
    assert body.count("<tr>") == 7


def test_latencies_are_expected_from_those_of_the_parts(workdir, build, outputs):
    path, export = workdir / "search" / "found.json", json.loads((workdir / "export/x86/export.json").read_text())
    found = json.loads(path.read_text())
    found["pair"]["latency_ms"] = [1.0, 5.0]
    path.write_text(json.dumps(found))
    body, made = build("operating_points")
    assert "ms, by table" in body
    parts = [export["files"][f"{part}_int8"]["latency_mean_ms"] for part in ("little", "big_after_stem")]
    for row, limit in zip(made["operating_points"], (0.5, 0.7, 0.9, 0.8), strict=False):
        little = outputs["score"][:, 0] > np.float32(limit)
        assert float(row["latency_ms by table"]) == pytest.approx(np.where(little, 1, 5).mean())
        assert float(row["latency_ms x86 int8"]) == pytest.approx(np.where(little, parts[0], sum(parts)).mean())
    path.unlink()
    assert "ms, " not in build("operating_points")[0]


def test_the_four_cases_are_counted_and_shown(build, outputs, images, monkeypatch):
    shown, draw = {}, plots.samples
    monkeypatch.setattr(plots, "samples", lambda groups: shown.update(groups) or draw(groups))
    _, found = build("cases")
    kept, (little, big) = outputs["choice"] == 0, outputs["correct"].T
    cases = dict(zip(CASE_NAMES, (kept & little, kept & ~little, ~kept & ~little, ~kept & little), strict=True))
    for row, (name, mine) in zip(found["cases"], cases.items(), strict=True):
        assert row["case"] == name
        assert int(row["images"]) == mine.sum() > 0
        assert float(row["little"]) == little[mine].mean()
        assert float(row["big"]) == big[mine].mean()
    score = outputs["score"][:, 0]
    surest = max(np.flatnonzero(kept & ~little), key=lambda row: score[row])
    least = min(np.flatnonzero(~kept & little), key=lambda row: score[row])
    groups = list(shown.values())
    np.testing.assert_array_equal(groups[1][0][0], images[surest])
    np.testing.assert_array_equal(groups[3][0][0], images[least])
    assert not any(right for _, _, right in groups[1])  # what little gets wrong and keeps is wrong in the end
    assert [len(group) for group in groups] == [min(8, mine.sum()) for mine in cases.values()]
    drawn = [int(np.flatnonzero((images == image).all((1, 2, 3)))[0]) for image, _, _ in groups[2]]
    assert all((~kept & ~little)[drawn])
    assert sorted(drawn) != np.flatnonzero(~kept & ~little)[:8].tolist()


def test_samples_show_the_surest_and_the_least_sure(build, outputs, images, monkeypatch):
    shown, draw = {}, plots.samples
    monkeypatch.setattr(plots, "samples", lambda groups: shown.update(groups) or draw(groups))
    build("samples")
    surest, random, unsure = shown.values()
    np.testing.assert_array_equal(surest[0][0], images[np.argmax(outputs["score"][:, 0])])
    row = int(np.argmin(outputs["score"][:, 0]))
    np.testing.assert_array_equal(unsure[0][0], images[row])
    label, (little, big), score = outputs["label"][row], outputs["prediction"][row], outputs["score"][row, 0]
    assert unsure[0][1] == f"label class_{label}\nlittle class_{little}\nbig class_{big}\nscore {score:.4f}"
    assert unsure[0][2] == outputs["correct"][row, 1]
    assert all(float(caption.split()[-1]) > 0.8 for _, caption, _ in random)


@pytest.mark.parametrize("optimal", ["little_right", "little_right_or_both_wrong"])
def test_all_that_is_shown_is_kept(outputs, optimal):
    given = outputs["score"], outputs["correct"], outputs["choice"]
    kept = set(routing_sections.shown_rows(*given, optimal).tolist())
    shown = [*routing_sections.sample_rows(given[0], given[2]).values()]
    shown += routing_sections.case_rows(*given, optimal).values()
    assert kept == {row for rows in shown for row in rows.tolist()}


def test_exits_by_difficulty_and_class(build, outputs, monkeypatch):
    drawn, draw = [], routing_sections.routing_plots.exits
    monkeypatch.setattr(routing_sections.routing_plots, "exits", lambda groups: drawn.extend(groups) or draw(groups))
    _, found = build("exits")
    order = np.argsort(-outputs["label_log_odds"][:, 1], kind="stable")
    kept = outputs["choice"] == 0
    for row, part in zip(found["by_difficulty"], np.array_split(order, 3), strict=True):
        assert int(row["images"]) == len(part)
        assert float(row["exit_rate"]) == pytest.approx(kept[part].mean())
        assert float(row["big"]) == pytest.approx(outputs["correct"][part, 1].mean())
    assert [row["names"] for row in found["by_difficulty"]] == ["easy", "medium", "hard"]
    by_class = drawn[1]
    assert by_class["exit_rate"] == sorted(by_class["exit_rate"], reverse=True)
    first = outputs["label"] == int(by_class["names"][0].removeprefix("class_"))
    assert by_class["exit_rate"][0] == pytest.approx(kept[first].mean())
    assert by_class["right"]["little"][0] == pytest.approx(outputs["correct"][first, 0].mean())


def test_classes_have_their_names_and_figures(build, outputs, monkeypatch):
    body, found = build("classes")
    for place, row in enumerate(found["by_class"]):
        mine = outputs["label"] == place
        assert (row["class"], int(row["images"])) == (f"class_{place}", mine.sum())
        assert float(row["little"]) == pytest.approx(outputs["correct"][mine, 0].mean())
        assert float(row["exit_rate"]) == pytest.approx((outputs["choice"][mine] == 0).mean())
    assert "<details>" not in body
    monkeypatch.setattr(routing_sections, "MOST_ROWS", 9)
    assert "<summary>Show the 10 classes</summary>" in build("classes")[0]


def test_a_class_without_test_images_has_a_dash(workdir, build):
    def empty(told):
        for name, values in told["by_class"].items():
            values[3] = 0 if name == "images" else None

    changed(workdir, empty)
    body, found = build("classes")
    assert found["by_class"][3]["little"] == ""
    assert body.count("–") == 4
    build("exits")


def test_calibration_of_each_net_and_of_dynamic(build, outputs):
    body, found = build("calibration")
    kept = outputs["choice"] == 0
    columns = {
        name: (outputs["probability"][:, s], outputs["correct"][:, s]) for s, name in enumerate(("little", "big"))
    }
    columns["dynamic"] = [np.where(kept, *outputs[key].T) for key in ("probability", "correct")]
    for row, (name, (probability, correct)) in zip(found["calibration"], columns.items(), strict=True):
        assert row["network"] == name
        assert float(row["probability"]) == pytest.approx(probability.mean(dtype=np.float64))
        assert float(row["accuracy"]) == pytest.approx(correct.mean())
        bins = [one for one in found["reliability"] if one["network"] == name]
        assert len(bins) == 15
        for one in bins:
            mine = (probability > float(one["above"])) & (probability <= float(one["up_to"]))
            assert int(one["images"]) == mine.sum()
            assert (
                one["accuracy"] == ""
                if not mine.any()
                else float(one["accuracy"]) == pytest.approx(correct[mine].mean())
            )
    assert "in 15 bins" in body


@pytest.mark.parametrize("section", ["operating_points", "cases", "exits", "classes", "calibration"])
def test_a_run_from_before_these_figures_says_not_run(workdir, build, section):
    changed(workdir, _as_before)
    assert build(section)[0] is None


def _as_before(told):
    for name in ("operating_points", "oracle", "calibration", "by_class", "by_difficulty", "by_case"):
        del told[name]
    for network in ("little", "big", "dynamic"):
        del told[network]["top5_accuracy"], told[network]["expected_calibration_error"]


def test_a_run_from_before_these_figures_has_a_page(workdir, outputs):
    changed(workdir, _as_before)
    rows = routing_sections.sample_rows(outputs["score"], outputs["choice"])
    shown = np.unique(np.concatenate(list(rows.values())))
    saved = np.load(workdir / "evaluate" / "samples.npz")
    np.savez(workdir / "evaluate" / "samples.npz", row=shown, image=saved["image"][shown])
    old = {name: outputs[name] for name in artifacts.OUTPUTS}
    np.savez(workdir / "evaluate" / "outputs.npz", **old)
    text = page.write(workdir).read_text()
    sections = text.split("<section>")
    absent = [section for section in sections if '<p class="absent">not run</p>' in section]
    assert len(absent) == 5 + 1  # these, and the records, which this workdir lacks
    assert "samples" in {file.stem for file in (workdir / "report" / "figures").iterdir()}
