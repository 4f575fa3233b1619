"""What the figures of a study show, computed from artifacts that are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from dynnas_jax.dynamic import thresholds
from dynnas_jax.reports import plots, study_figures
from dynnas_jax.reports.spreads import Spread
from dynnas_jax.reports.study_rows import Asked, Row


def row(runs, outputs=None, name="a", kind="supernet", **settings):
    asked = Asked(name, {"main": name}, dict.fromkeys(runs), {f"{kind}.network": "x", **settings}, (), "")
    return Row(asked, {seed: SimpleNamespace(**content) for seed, content in runs.items()}, outputs or {})


def spread(mean):
    return Spread(mean, 0.01 * mean, 3, 3)


def test_a_front_joins_the_networks_of_a_row_from_the_cheapest_to_the_costliest():
    pair, rival = row({0: {}}), row({0: {}}, name="b")
    cheap = {"macs": spread(1e5), "top1": spread(0.9), "energy_mj": None}
    dear = {"macs": spread(1e6), "top1": spread(0.95), "energy_mj": ""}
    none = {"macs": None, "top1": None, "energy_mj": None}
    names = ("big", "little", "dynamic", "at 0.5", "at 0.7", "at 0.9")
    measures = {("a", name): of for name, of in zip(names, (dear, cheap, *[none] * 4), strict=True)}
    measures |= {("b", name): none for name in names}
    figure = study_figures.front([pair, rival], measures, "macs")
    (axes,) = figure.axes
    (line,) = [container for container in axes.containers]
    np.testing.assert_allclose(line[0].get_xdata(), [0.1, 1.0])
    np.testing.assert_allclose(line[0].get_ydata(), [90, 95])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a"]
    assert plots.png(figure).startswith(b"\x89PNG")
    assert study_figures.front([pair, rival], measures, "energy_mj") is None


@pytest.fixture
def outputs():
    """Of two seeds: scores and hits of a pair on 50 images."""
    rng = np.random.default_rng(3)
    score = [np.float32(1 - 10 ** -rng.uniform(0, 5, (50, 2))) for _ in range(2)]
    return {seed: {"score": score[seed], "correct": rng.random((50, 2)) < (0.7, 0.9)} for seed in range(2)}


def test_no_two_lines_look_alike():
    point = (Spread(1.0, None, 1, 1), Spread(0.5, None, 1, 1))
    (axes,) = study_figures.lines({str(number): [point] for number in range(12)}, "MACs", 1.0).axes
    drawn = [container.lines[0] for container in axes.containers]
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == 12


def test_threshold_curves_are_the_operating_points_of_every_seed(outputs):
    runs = {seed: {"found": {"pair": {"cost": [1, 4]}}} for seed in outputs}
    at, curves = study_figures.threshold_curves(row(runs, outputs))
    assert at[0] == 0
    assert {of.shape for of in curves.values()} == {(2, len(at))}
    for seed, place in ((0, 10), (1, 77)):
        answers = outputs[seed]["score"], outputs[seed]["correct"]
        point = thresholds.evaluate(*answers, [1, 4], [at[place]])
        found = [curves[key][seed, place] for key in ("accuracy", "average_macs", "exit_rate")]
        assert found == [point.accuracy, point.average_cost, point.exit_rate[0]]
    assert (np.diff(curves["exit_rate"], axis=1) <= 0).all()
    assert plots.png(study_figures.threshold_figure(at, curves)).startswith(b"\x89PNG")
    at, none = study_figures.threshold_curves(row({}, {}))
    assert not len(none["accuracy"])


def test_bins_of_several_seeds_are_those_of_all_answers_together():
    bins = [
        {"images": [0, 2, 8], "probability": [None, 0.5, 0.9], "accuracy": [None, 1.0, 0.75]},
        {"images": [0, 6, 2], "probability": [None, 0.6, 0.8], "accuracy": [None, 0.5, 1.0]},
    ]
    runs = {seed: {"evaluation": {"calibration": {"net": of}}} for seed, of in enumerate(bins)}
    found = study_figures.pooled_bins(row({**runs, 2: {"evaluation": None}}))["net"]
    assert found["images"] == [0, 8, 10]
    assert found["probability"] == [
        None,
        pytest.approx((2 * 0.5 + 6 * 0.6) / 8),
        pytest.approx((8 * 0.9 + 2 * 0.8) / 10),
    ]
    assert found["accuracy"] == [None, pytest.approx(5 / 8), pytest.approx(8 / 10)]
    assert study_figures.pooled_bins(row({})) == {}


def groups(*exit_rate):
    nets = {name: [0.5] * len(exit_rate) for name in ("little", "big", "dynamic")}
    return {**nets, "exit_rate": list(exit_rate), "images": [1] * len(exit_rate)}


def test_exits_are_means_over_the_seeds_that_have_such_images():
    assert study_figures.mean_of([[1.0, None, 3.0], [2.0, None, None]]) == [1.5, None, 3.0]
    names = {"names": ["easy", "medium", "hard"]}
    runs = {
        seed: {
            "evaluation": {"by_difficulty": {**names, **groups(rate, 0.5, 0.2)}, "by_class": groups(rate, None)},
            "classes": ("cat", "dog"),
        }
        for seed, rate in ((0, 1.0), (1, 0.8))
    }
    figure = study_figures.exits(row(runs))
    first, second = figure.axes
    assert [patch.get_height() for patch in first.patches] == pytest.approx([90, 50, 20])
    assert second.patches[0].get_height() == pytest.approx(90)
    assert [label.get_text() for label in second.get_xticklabels()] == ["cat", "dog"]
    assert study_figures.exits(row({0: {"evaluation": {}, "classes": ()}})) is None


def test_the_archs_of_every_seed():
    arch = {"resolution": 8, "width": 1.0, "kernel": [[3]], "expand": [[2]]}
    runs = {seed: {"found": {"pair": {"little": {"arch": arch}, "big": {"arch": arch}}}} for seed in (0, 4)}
    titles = [axes.get_title(loc="left").partition(":")[0] for axes in study_figures.archs(row(runs)).axes]
    assert titles == ["seed 0, little", "seed 0, big", "seed 4, little", "seed 4, big"]
    assert study_figures.archs(row({0: {"found": None}})) is None


def test_a_training_that_rows_share_is_shown_once():
    first, fewer = {"train.steps": 9, "data.name": "x"}, {"train.steps": 8, "data.name": "x"}
    rows = [
        row({}, name="pair", **first),
        row({}, name="searched otherwise", **first, **{"search.strategy": "random"}),
        row({}, name="shorter", **fewer),
        row({}, name="cascade", **{"data.name": "x"}),
    ]
    for criterion in ("pls", "inf_fs"):
        rows.append(row({}, name=criterion, kind="growth", **first, **{"grow.criterion": criterion}))
    for width in (0.35, 0.5):
        rows.append(row({}, name=f"exits {width}", kind="exit_network", **first, **{"exit_network.width": width}))
    shown = ["pair", "shorter", "pls", "inf_fs", "exits 0.35", "exits 0.5"]
    assert [one.asked.name for one in study_figures.trainings(rows)] == shown


def test_learning_curves_are_what_the_trainings_logged_at_the_steps_that_all_seeds_have():
    log = lambda *points: {"metrics": [{"step": step, "loss": 1.0, key: value} for key, step, value in points]}  # noqa: E731
    key = "holdout_accuracy"
    runs = {
        0: log((f"{key}_largest", 10, 0.5), (f"{key}_largest", 20, 0.7), (f"{key}_largest", 20, 0.8)),
        1: log((f"{key}_largest", 10, 0.6), (f"{key}_largest", 20, 0.9), (f"{key}_largest", 30, 1.0)),
    }
    curves = study_figures.learning_curves(row(runs))
    steps, values = curves["largest"]
    assert (list(curves), steps.tolist(), values.tolist()) == (["largest"], [10, 20], [[0.5, 0.8], [0.6, 0.9]])
    single = study_figures.learning_curves(row({0: log((key, 10, 0.5)), 1: {"metrics": None}}))
    assert single["net"][1].tolist() == [[0.5]]
    assert study_figures.learning_curves(row({0: log()})) == {}
    figure = study_figures.learning({"a pair": curves, "a net": single})
    pair, net = figure.axes[:2]
    np.testing.assert_allclose(pair.containers[0][0].get_ydata(), [55, 85])
    np.testing.assert_allclose(net.containers[0][0].get_ydata(), [50])
    assert [axes.get_title() for axes in (pair, net)] == ["a pair", "a net"]
    assert pair.get_ylim()[0] == pytest.approx(49)  # a point below the worst of the later half
    assert plots.png(figure).startswith(b"\x89PNG")
