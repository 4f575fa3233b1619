"""Figures of nets of several exits."""

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.backends import backend_agg

from dynnas_jax.reports import exit_plots


@pytest.mark.parametrize("count", [1, 3, 5, 6, 7, 12])
def test_every_exit_has_a_colour_of_its_own(count):
    assert len(set(exit_plots.shades(count))) == count


def test_the_bars_and_the_legend_of_seven_exits_tell_them_apart():
    net = {"macs": range(1, 8), "exit_rate": [1 / 7] * 7, "exit_accuracy": [0.5] * 6 + [None]}
    figure = exit_plots.exits({"A": net})
    for axes, shown in zip(figure.axes, (7, 7, 6), strict=True):
        colours = {bar.get_facecolor() for bars in axes.containers for bar in bars}
        assert len(colours) == shown
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"exit {n}" for n in range(1, 8)]


def test_published_points_can_be_seen():
    figure = exit_plots.front({"A": (1e6, 0.5)}, [exit_plots.published("B", [(2e6, 0.6), (3e6, 0.7)])])
    figure.legends[0].remove()
    canvas = backend_agg.FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    colour = np.round(255 * np.asarray(colors.to_rgb(figure.axes[0].lines[1].get_color())))
    assert np.all(pixels == colour, axis=-1).sum() > 20


@pytest.mark.parametrize(("cost", "scale"), [(9e6, "linear"), (5.5e9, "log")])
def test_rivals_of_far_larger_cost_do_not_push_the_nets_together(cost, scale):
    figure = exit_plots.front({"A": (1e6, 0.5), "B": (2e6, 0.6)}, [exit_plots.published("C", [(cost, 0.7)])])
    assert figure.axes[0].get_xscale() == scale
