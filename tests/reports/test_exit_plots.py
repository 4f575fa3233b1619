"""Figures of nets of several exits."""

import pytest

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
