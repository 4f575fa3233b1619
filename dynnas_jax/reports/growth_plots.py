"""The report's figures of growing stage by stage, in the manner of `plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynnas_jax.reports import plots

SHADES = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


@plots.styled
def modules(depths: Mapping[str, Sequence[int]]):
    """Modules of each stage, a group of bars for each stage: of every net, or of every criterion, by name."""
    figure, (axes,) = plots.panels(1, height=3.2)
    count = len(depths)
    width = 0.8 / count
    for number, (name, own) in enumerate(depths.items()):
        places = [stage + (number - (count - 1) / 2) * width for stage in range(len(own))]
        bars = axes.bar(places, own, width * 0.92, color=SHADES[number % len(SHADES)], label=name)
        axes.bar_label(bars, fontsize=8)
    stages = max(map(len, depths.values()))
    axes.set(xticks=range(stages), xticklabels=[f"stage {i + 1}" for i in range(stages)], ylabel="modules")
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=min(count, 5))
    return figure


@plots.styled
def accuracy_against_macs(grown: Sequence[tuple[str, float, float]], others: Sequence[tuple[str, float, float]] = ()):
    """(name, MACs, accuracy in [0, 1]) of the nets that grew one out of the other, joined by a line, and of others."""
    figure, (axes,) = plots.panels(1, height=3.8)
    for points, look, label in (
        (grown, {"marker": "o", "linestyle": "-", "color": plots.COLOURS["dynamic"]}, "grown stage by stage"),
        (others, {"marker": "s", "linestyle": "", "color": plots.COLOURS["big"]}, "for comparison"),
    ):
        if not points:
            continue
        names, macs, accuracy = zip(*points, strict=True)
        axes.plot([value / 1e6 for value in macs], [100 * value for value in accuracy], label=label, **look)
        for name, x, y in zip(names, macs, accuracy, strict=True):
            axes.annotate(name, (x / 1e6, 100 * y), xytext=(4, 6), textcoords="offset points", fontsize=8)
    axes.margins(0.12)
    axes.set(xlabel="MACs of one image (millions)", ylabel="accuracy on test images (%)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
