"""The report's figures of a run of superclasses, in the manner of `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dynnas_jax.reports import plots

_MARKS = "DosX^vP*"


@plots.styled
def lines(series: Mapping[str, Sequence[tuple[float, float]]]):
    """Mean accuracy (in [0, 1]) against mean MACs of one image, a line for each of several methods or runs."""
    figure, (axes,) = plots.panels(1, height=4.3)
    colours = (plots.COLOURS["dynamic"], plots.COLOURS["little"], plots.COLOURS["big"], *plots.EXTRA, plots.GREY)
    for number, (name, points) in enumerate(series.items()):
        x, y = np.asarray(sorted(points), np.float64).T
        look = {"color": colours[number % len(colours)], "marker": _MARKS[number % len(_MARKS)]}
        axes.plot(x / 1e6, 100 * y, label=name, markersize=6, markeredgecolor="white", zorder=4 - 0.1 * number, **look)
    axes.margins(0.06)
    axes.set(xlabel="mean MACs of one image (millions)", ylabel="mean accuracy on the superclasses (%)")
    figure.legend(loc="outside lower center", ncols=min(3, len(series)))
    return figure


@plots.styled
def dropout(rates: Mapping[float, Sequence[tuple[float, float, float | None]]]):
    """Accuracy against MACs, a line for each rate of superclass dropout: mean and standard deviation over runs.

    Args:
      rates: by rate (mean MACs, mean accuracy in [0, 1], its standard deviation, None for a single run) of every budget.
    """
    figure, (axes,) = plots.panels(1, height=4.3)
    colours = (plots.GREY, plots.COLOURS["dynamic"], plots.COLOURS["big"], plots.COLOURS["little"], *plots.EXTRA)
    for number, (rate, points) in enumerate(rates.items()):
        x, y, spread = np.asarray([(a, b, c or 0.0) for a, b, c in points], np.float64).T
        look = {"color": colours[number % len(colours)], "marker": _MARKS[number % len(_MARKS)], "capsize": 3}
        name = {0: "none", 1: "target superclass only (1)"}.get(rate, f"{rate:g}")
        axes.errorbar(x / 1e6, 100 * y, 100 * spread, label=f"superclass dropout: {name}", markersize=5, **look)
    axes.margins(0.06)
    axes.set(xlabel="mean MACs of one image (millions)", ylabel="mean accuracy on the superclasses (%)")
    figure.legend(loc="outside lower center", ncols=min(3, len(rates)))
    return figure


@plots.styled
def similarity(budgets: Sequence[float], values: Sequence[float], label: str):
    """The mean cosine similarity of the subnets of different superclasses, against the budget."""
    figure, (axes,) = plots.panels(1, height=3.2)
    axes.plot(budgets, values, "o-", color=plots.COLOURS["dynamic"], markeredgecolor="white")
    axes.set(xlabel=label, ylabel="mean cosine similarity")
    return figure


@plots.styled
def learning(generators: Mapping[str, Mapping[str, Sequence[float]]]):
    """Two panels: the cross-entropy of what a generator draws, and how far its costs are from the budgets, step by step.

    Args:
      generators: by name `loss` [steps] and `distance` [steps], shown as means over neighbouring steps.
    """
    figure, (left, right) = plots.panels(2, height=3.2)
    for number, (name, told) in enumerate(generators.items()):
        colour = list(plots.COLOURS.values())[number % len(plots.COLOURS)]
        for axes, key, scale in ((left, "loss", 1), (right, "distance", 100)):
            values = np.asarray(told[key], np.float64) * scale
            width = max(1, len(values) // 50)
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axes.plot(np.arange(len(smooth)) + width, smooth, color=colour, label=name)
    left.set(xlabel="step", ylabel="cross-entropy of drawn subnets")
    right.set(xlabel="step", ylabel="distance from the budget (%)", yscale="log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
