import numpy as np
import pytest

from dynnas_jax.reports import routing_plots

BINS = {
    "images": [0, 1, 3, 96],
    "probability": [None, 0.4, 0.7, 0.95],
    "accuracy": [None, 1.0, 2 / 3, 0.875],
}


@pytest.mark.parametrize("names", [("net",), ("little", "big", "dynamic")])
def test_reliability(names, drawn):
    figure = routing_plots.reliability(dict.fromkeys(names, BINS))
    assert len(figure.axes) == 2 * len(names)
    upper, p, z = figure.axes[: len(names)], 0.875, 1.959963984540054
    half = z * np.sqrt(p * (1 - p) / 96 + z**2 / (4 * 96**2))
    for axes, name in zip(upper, names, strict=True):
        assert axes.get_title() == name
        np.testing.assert_allclose(axes.lines[1].get_xydata(), [[40, 100], [70, 200 / 3], [95, 87.5]])
        (intervals,) = axes.collections
        ends = [(p + z**2 / 192 + side) / (1 + z**2 / 96) for side in (-half, half)]  # Wilson's
        np.testing.assert_allclose(intervals.get_segments()[2][:, 1], 100 * np.asarray(ends))
    heights = [bar.get_height() for bar in figure.axes[len(names)].patches]
    assert heights == [0, 1, 3, 96]
    drawn(figure)


@pytest.mark.parametrize(("classes", "named"), [(3, True), (12, True), (100, False)])
def test_exits(classes, named, drawn):
    generator = np.random.default_rng(0)
    groups = [
        {"title": title, "names": [f"a long name {i}" for i in range(count)], "exit_rate": generator.random(count)}
        | {"right": {name: generator.random(count) for name in ("little", "big", "dynamic")}}
        for title, count in (("by difficulty", 3), ("by class", classes))
    ]
    groups[0]["exit_rate"] = [0.5, 0.25, None]
    figure = routing_plots.exits(groups)
    left, right = figure.axes
    heights = [bar.get_height() for bar in left.patches]
    np.testing.assert_allclose(heights, [50, 25, np.nan])
    assert len(right.patches) == classes
    np.testing.assert_allclose(right.lines[1].get_ydata(), 100 * groups[1]["right"]["big"])
    assert [label.get_text() for label in right.get_xticklabels()] == (groups[1]["names"] if named else [])
    drawn(figure)
