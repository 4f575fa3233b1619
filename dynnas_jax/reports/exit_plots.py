"""The report's figures of nets of several exits, in the manner of `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dynnas_jax.reports import plots

SHADES = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")  # of exits, from the first on, where there are no more
_WIDE = 10  # times the smallest cost: from there on costs are shown by their logarithm


class Line(NamedTuple):
    """Points of (average cost, accuracy in [0, 1]) that belong together."""

    label: str
    points: Sequence[tuple[float, float]]
    marker: str = "o"
    style: str = "--"


def published(label: str, points: Sequence[tuple[float, float]]) -> Line:
    """Points of others, without a line: filled crosses, since all of an unfilled one would have the white of its edge."""
    return Line(f"{label} (published)", points, "X", "None")


@plots.styled
def front(nets: Mapping[str, tuple[float, float]], others: Sequence[Line] = (), unit: str = "macs"):
    """Accuracy against average cost on the test images: (cost, accuracy) of nets of several exits by name, and others.

    Costs are MACs, or milliseconds for `unit` "latency_ms"; they stand on a logarithmic axis where they differ widely.
    """
    scale, label = (1e6, "average MACs of one image (millions)") if unit == "macs" else (1, "average latency (ms)")
    figure, (axes,) = plots.panels(1, height=4.3)
    colours = (plots.COLOURS["little"], plots.GREY, *plots.EXTRA, plots.COLOURS["big"])
    lines = [Line("several exits, a net for each target", list(nets.values()), "D", "-"), *others]
    for number, line in enumerate(lines):
        colour = colours[(number - 1) % len(colours)] if number else plots.COLOURS["dynamic"]
        x, y = np.asarray(sorted(line.points), np.float64).T
        look = {"marker": line.marker, "linestyle": line.style, "color": colour, "zorder": 3 if number else 4}
        axes.plot(x / scale, 100 * y, label=line.label, markersize=7, markeredgecolor="white", **look)
    for cost, accuracy in dict.fromkeys(nets.values()):
        name = ", ".join(name for name, point in nets.items() if point == (cost, accuracy))
        axes.annotate(name, (cost / scale, 100 * accuracy), xytext=(0, 8), textcoords="offset points", ha="center")
    axes.margins(0.08)
    costs = [cost for line in lines for cost, _ in line.points]
    if max(costs) > _WIDE * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=label, ylabel="accuracy on test images (%)")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@plots.styled
def exits(nets: Mapping[str, Mapping[str, Sequence[float]]]):
    """Three panels, a group of bars for each net: MACs up to each exit, the part of the images it answers, its accuracy on them.

    Args:
      nets: by name `macs`, `exit_rate` and `exit_accuracy` of each exit; None where an exit answers no image.
    """
    figure, panels = plots.panels(3, height=3.4)
    shown = (
        ("macs", 1e-6, "MACs up to the exit (millions)"),
        ("exit_rate", 100, "images that leave there (%)"),
        ("exit_accuracy", 100, "accuracy on these (%)"),
    )
    count = max(len(net["macs"]) for net in nets.values())
    width, colours = 0.8 / count, shades(count)
    for axes, (key, scale, label) in zip(panels, shown, strict=True):
        for exit in range(count):
            places = [at + (exit - (count - 1) / 2) * width for at in range(len(nets))]
            known = [(place, net[key][exit]) for place, net in zip(places, nets.values(), strict=True)]
            known = [(place, value) for place, value in known if value is not None]
            heights = [scale * value for _, value in known]
            places = [place for place, _ in known]
            axes.bar(places, heights, width * 0.92, color=colours[exit], label=f"exit {exit + 1}")
        axes.set(xticks=range(len(nets)), xticklabels=list(nets), ylabel=label)
        axes.grid(axis="x", visible=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=count)
    return figure


def shades(count: int) -> tuple[str, ...]:
    """As many colours, each another one, of so many exits; from dark to light where there are more than five."""
    if count <= len(SHADES):
        return SHADES[:count]
    import matplotlib as mpl

    return tuple(mpl.colors.to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0, 0.95, count)))


@plots.styled
def predicted(panels: Mapping[str, tuple[Sequence[float], Sequence[float]]]):
    """Rewards as predicted against those measured, a panel for each target: (predicted, measured), both [n]."""
    figure, axes = plots.panels(len(panels), height=2.9)
    for own, (name, (guess, truth)) in zip(axes, panels.items(), strict=True):
        both = np.concatenate([guess, truth])
        ends = [both.min(), both.max()]
        own.plot(ends, ends, color=plots.GREY, linewidth=1, linestyle="--")
        own.plot(truth, guess, "o", color=plots.COLOURS["little"], markersize=4, alpha=0.7, markeredgecolor="white")
        own.set(title=name, xlabel="measured")
    axes[0].set(ylabel="predicted")
    return figure
