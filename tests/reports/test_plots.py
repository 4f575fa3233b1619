import json

import numpy as np
import pytest

from dynnas_jax.dynamic import thresholds
from dynnas_jax.reports import plots


def lines(axes) -> dict:
    return {line.get_label(): line for line in axes.lines}


def test_accuracy_against_macs(drawn):
    macs, accuracy = np.array([3e6, 1e6, 2e6, 2.5e6]), np.array([0.95, 0.90, 0.94, 0.92])
    front = np.array([True, True, True, False])
    marks = {"little": (1e6, 0.91), "big": (3e6, None)}
    figure = plots.accuracy_against_macs(macs, accuracy, front, found=[(1.5e6, 0.93)], marks=marks)
    parts = lines(figure.axes[0])
    np.testing.assert_allclose(parts["Pareto front of the records"].get_xydata(), [[1, 90], [2, 94], [3, 95]])
    np.testing.assert_allclose(parts["found by the search"].get_xydata(), [[1.5, 93]])
    np.testing.assert_allclose(parts["little"].get_xydata(), [[1, 91]])
    np.testing.assert_allclose(parts["big"].get_xdata(), [3, 3])
    drawn(figure)


def test_predicted_against_actual_has_equal_axes(drawn):
    rng = np.random.default_rng(0)
    actual = rng.uniform(0.8, 0.9, 20)
    figure = plots.predicted_against_actual(actual + 0.01, actual)
    axes = figure.axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    np.testing.assert_allclose(np.diff(lines(axes)["subnets"].get_xydata(), axis=1), 1.0, rtol=1e-6)
    drawn(figure)


@pytest.mark.parametrize("nines", [1.0, 6.0])
def test_threshold_curve(nines, drawn):
    rng = np.random.default_rng(1)
    score = (1 - 10 ** -rng.uniform(0.1, nines, (200, 2))).astype(np.float32)
    correct = rng.random((200, 2)) < np.array([[0.8, 0.9]])
    curve = thresholds.curve(score, correct, np.array([1e6, 5e6]))
    chosen = {"threshold": 0.9, "accuracy": 0.85, "macs": 3e6}
    marks = {"little": (1e6, correct[:, 0].mean()), "big": (4.5e6, correct[:, 1].mean())}
    points = (curve.thresholds, curve.accuracy, curve.average_cost, curve.exit_rate[:, 0])
    figure = plots.threshold_curve(*points, chosen=chosen, marks=marks)
    left, _, right, rate = figure.axes
    assert left.lines[1].get_xdata()[0] == pytest.approx(1.0)  # a threshold of 0.9 stands one nine to the right
    assert left.get_xlim()[1] < 6.5  # the point at threshold 1, where none exits, does not squeeze the others
    assert rate.lines[0].get_ydata()[0] == 100
    np.testing.assert_allclose(lines(right)["every threshold"].get_xdata(), curve.average_cost / 1e6)
    drawn(figure)


@pytest.mark.parametrize("count", [1, 500])
def test_training_smooths_long_curves_only(count, drawn):
    steps = np.arange(count) * 10
    values = np.exp(-steps / 900) + np.random.default_rng(0).uniform(0, 0.2, count)
    figure = plots.training({"largest": (steps, values)}, {"largest": (steps[:3], np.full(min(count, 3), 0.9))})
    smooth = lines(figure.axes[0])["largest"].get_xydata()
    window = max(1, count // 50)
    np.testing.assert_allclose(smooth[-1], [steps[-1], values[-window:].mean()])
    assert len(figure.axes[0].lines) == (1 if count == 1 else 2)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    drawn(figure)


def test_a_single_accuracy_is_drawn_below_all_there_are(drawn):
    figure = plots.training({}, {"net": (np.array([500]), np.array([0.99]))})
    assert figure.axes[1].get_ylim()[1] == 100.5
    drawn(figure)


def test_archs_draw_one_box_a_block_and_dots_for_skipped_ones(drawn):
    little = {"resolution": 24, "width": 0.5, "kernel": [[3], [5, 3]], "expand": [[3], [4, 6]]}
    big = {"resolution": 32, "width": [1.0, 1.2], "kernel": [[7, 3], [5, 3, 3]], "expand": [[6, 6], [6, 6, 4]]}
    figure = plots.archs({"little": little, "big": json.loads(json.dumps(big))})
    for axes, blocks, skipped in zip(figure.axes, (3, 5), (2, 0), strict=True):
        boxes = [box for box in axes.patches if box.get_linestyle() in ("-", "solid")]
        assert len(boxes) == blocks + 2  # and the stem and the head
        assert len(axes.patches) - len(boxes) == skipped
    heights = [box.get_height() for box in figure.axes[0].patches if box.get_width() not in (0.75, 0.6)]
    assert heights == [3, 4, 6]
    drawn(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_samples(channels, drawn):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, channels)).astype(np.uint8)
    groups = {
        "early": [(image, "label 1\nlittle 1\nbig 1\nscore 0.9", True)] * 3,
        "late": [(image, "x\ny\nz\nw", False)],
    }
    figure = plots.samples(groups)
    shown = [axes.images[0].get_array() for part in figure.subfigs for axes in part.axes if axes.images]
    assert len(shown) == 4
    np.testing.assert_array_equal(shown[0], image[..., 0] if channels == 1 else image)
    drawn(figure)


def test_no_setting_of_matplotlib_changes():
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.predicted_against_actual(np.array([0.5, 0.6]), np.array([0.5, 0.7]))
    assert dict(matplotlib.rcParams) == before
