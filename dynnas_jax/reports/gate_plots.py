"""The report's figures of dynamic slimmable networks, in the manner of `plots`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from dynnas_jax.reports import plots

# Tables 2 and 8 of Li et al. 2021 (arXiv 2103.13258): (million MACs, ImageNet top-1 in percent) of gated networks and their
# rivals; the whole ResNet-50 of its section 4.1, with the MACs of Table 3.
GATED = {
    "DS-ResNet": ((1200, 74.6), (2200, 76.1), (3100, 76.6)),
    "DS-MBNet": ((153, 70.1), (319, 72.8), (565, 74.5)),
    "DS-EffNet": ((270, 75.4), (400, 76.7)),
}
RIVALS = {
    "ResNet-50 of one width": ((1100, 72.1), (2300, 74.9), (4100, 76.1)),
    "S-ResNet-50": ((2300, 74.9),),
    "MobileNetV1 of one width": ((150, 63.3), (317, 68.4), (569, 70.9)),
    "US-MBNetV1": ((150, 64.2), (317, 69.5), (569, 71.8)),
    "EffNet-B0 of one width": ((267, 74.6), (399, 76.0)),
    "AutoSlim, ResNet-50": ((2000, 75.6), (3000, 76.0)),
    "AutoSlim, MobileNetV1": ((150, 67.9), (325, 71.5), (572, 73.0)),
    "MetaPruning, ResNet-50": ((1000, 73.4), (2000, 75.4), (3000, 76.2)),
    "MetaPruning, MobileNetV1": ((281, 70.6),),
    "ThiNet": ((1200, 72.1), (2100, 74.7), (2900, 75.8)),
    "SFP": ((2900, 75.1),),
    "CP": ((2000, 73.3),),
    "ConvNet-AIG-50": ((3100, 76.2),),
    "MSDNet": ((2000, 75.5),),
    "GFNet": ((1200, 73.8),),
    "NetAdapt": ((284, 69.1),),
    "EagleEye": ((284, 70.9),),
    "CG-Net-A": ((303, 70.3),),
}
MOST_CLASSES = 20  # with a bar of their own
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_IN_ROW = 3  # panels of the training: more leave no room for the name of a gate above its own
_SMALL = 7.5  # the titles of gates, of which there may be many
_TICKS = (150, 300, 600, 1200, 2400)  # million MACs


@plots.styled
def accuracy(paths: Sequence[tuple[float, float]], gated: Mapping[str, tuple[float, float]], paths_in_all: int):
    """Two panels, accuracy against MACs: the paths alone and gated nets by name, (MACs, accuracy in [0, 1]); and as published."""
    measured = "every path" if len(paths) == paths_in_all else f"{len(paths)} of {paths_in_all} paths"
    figure, (own, published) = plots.panels(2, height=4.4)
    x, y = np.asarray(paths, np.float64).T
    own.plot(x / 1e6, 100 * y, "o", color=plots.COLOURS["little"], markersize=5, label=f"{measured} alone")
    own.plot(
        x / 1e6,
        100 * np.maximum.accumulate(y),
        "-",
        color=plots.COLOURS["little"],
        linewidth=1,
        label="best up to there",
    )
    for name, (macs, value) in gated.items():
        own.plot([macs / 1e6], [100 * value], "*", color=plots.COLOURS["dynamic"], markersize=14, label=name)
    own.set(xlabel="average MACs of one image (millions)", ylabel="accuracy on test images (%)", title="this run")
    _published(published)
    published.set(xscale="log", xlabel="MACs (millions)", title="ImageNet, as published")
    published.set_xticks(_TICKS, [str(tick) for tick in _TICKS])
    published.set_xticks([], minor=True)
    own.legend(fontsize=7.5, loc="lower right")
    published.legend(fontsize=5, ncols=2, loc="lower right")
    return figure


def _published(axes) -> None:
    """Gated networks as lines, their rivals told apart by colour and marker."""
    styles = itertools.product(_MARKERS, (plots.GREY, plots.COLOURS["big"], *plots.EXTRA[:2]))
    for (name, points), (marker, colour) in zip(RIVALS.items(), styles, strict=False):
        x, y = np.asarray(points, np.float64).T
        axes.plot(x, y, f"{marker}:", color=colour, markersize=4, linewidth=0.8, label=name)
    for (name, points), marker in zip(GATED.items(), _MARKERS, strict=False):
        x, y = np.asarray(points, np.float64).T
        axes.plot(x, y, f"{marker}-", color=plots.COLOURS["dynamic"], markersize=6, label=name)


@plots.styled
def spread(gates: Sequence[Mapping], classes: Sequence[str]):
    """A panel for each gate: how its ratios are spread over all images and over those of each of the `drawn_classes`.

    Args:
      gates: `ratios`, `share` [choices] and `by_class` [classes, choices] of each.
    """
    drawn = drawn_classes(gates)
    figure, panels = plots.panels(len(gates), height=1.2 + 0.26 * (1 + len(drawn)))
    names = ["all", *(str(classes[row]) for row in drawn)]
    for axes, gate in zip(panels, gates, strict=True):
        rows = np.asarray([gate["share"], *(gate["by_class"][row] for row in drawn)], np.float64)
        shades = [str(value) for value in np.linspace(0.85, 0.2, rows.shape[1])]
        left = np.zeros(len(rows))
        for choice, ratio in enumerate(gate["ratios"]):
            axes.barh(range(len(rows)), 100 * rows[:, choice], left=left, color=shades[choice], label=f"{ratio:g}")
            left = left + 100 * rows[:, choice]
        axes.set(yticks=range(len(rows)), yticklabels=[], xlabel="images (%)", xlim=(0, 100))
        axes.set_title(gate["gate"], fontsize=_SMALL)
        axes.invert_yaxis()
    panels[0].set_yticklabels(names)  # of all panels, whose bars else have little room
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, title="ratio")
    return figure


def drawn_classes(gates: Sequence[Mapping]) -> list[int]:
    """The classes that `spread` has a bar for: all, or of many the ends of their order by the ratios that their images run at.

    Of many, those without images are none; half come from the lowest average of all gates' ratios, and half from the highest.
    """
    by_class = [np.asarray(gate["by_class"], np.float64) for gate in gates]
    if len(by_class[0]) <= MOST_CLASSES:
        return list(range(len(by_class[0])))
    average = sum(shares @ np.asarray(gate["ratios"]) for shares, gate in zip(by_class, gates, strict=True))
    order = [row for row in np.argsort(average, kind="stable").tolist() if by_class[0][row].sum() > 0]
    half = MOST_CLASSES // 2
    return order if len(order) <= MOST_CLASSES else order[:half] + order[-half:]


@plots.styled
def training(losses: Mapping[str, tuple], macs_share: tuple, wide_share: tuple, shares: Mapping[str, Sequence[tuple]]):
    """How gates learned, by the step: the losses, the share of the MACs, and how each gate's choices are spread.

    Args:
      losses: (steps[k], values[k]) by name; macs_share, wide_share: of the widest path's MACs, and of the images that the widest
        path is the target of, in [0, 1].
      shares: of each gate the (steps, values) of every choice's share, narrowest first.
    """
    count = 2 + len(shares)
    figure, (left, middle, *others) = plots.panels(count, height=0.7 + 2.7 * -(-count // _IN_ROW), in_row=_IN_ROW)
    for colour, (name, (steps, values)) in zip(_colours(len(losses)), losses.items(), strict=True):
        left.plot(steps, values, color=colour, label=name, linewidth=1.2)
    left.set(xlabel="step", title="losses", ylim=(0, None))
    left.yaxis.set_major_formatter("{x:.2f}")  # of one width, or the layout has no room for it
    for name, colour, (steps, values) in (
        ("MACs", plots.COLOURS["dynamic"], macs_share),
        ("meant for the widest", plots.GREY, wide_share),
    ):
        middle.plot(steps, 100 * values, color=colour, label=name, linewidth=1.2)
    middle.set(xlabel="step", title="share (%)", ylim=(0, 100))
    for axes in (left, middle):
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0.0, -0.2))
    for axes, (gate, choices) in zip(others, shares.items(), strict=True):
        shades = [str(value) for value in np.linspace(0.85, 0.2, len(choices))]
        axes.stackplot(choices[0][0], *(100 * values for _, values in choices), colors=shades)
        axes.set(xlabel="step", ylim=(0, 100))
        axes.set_title(f"{gate}, images (%)", fontsize=_SMALL)
    return figure


@plots.styled
def curves(rows: Mapping[str, Mapping[int, float]]):
    """Held-out accuracy in percent of the narrowest path by the step of training, a line for each way to train."""
    figure, (axes,) = plots.panels(1, width=6.4, height=3.8)
    for colour, (name, points) in zip(_colours(len(rows)), rows.items(), strict=True):
        axes.plot(list(points), list(points.values()), "o-", color=colour, markersize=4, label=name)
    axes.set(xlabel="training step", ylabel="held-out accuracy, narrowest path (%)")
    axes.legend(loc="lower right")
    return figure


@plots.styled
def rows(points: Mapping[str, tuple[tuple[float, float | None], tuple[float, float | None]]]):
    """Accuracy against average MACs of networks whose gates were trained in other ways, by their names.

    Args:
      points: (MACs, accuracy in percent), each as its mean and standard deviation, None of a single run.
    """
    figure, (axes,) = plots.panels(1, width=7.6, height=3.8)
    for colour, marker, (name, (macs, accuracy)) in zip(_colours(len(points)), _MARKERS, points.items(), strict=False):
        style = {"color": colour, "markersize": 8, "linewidth": 1, "label": name}
        spread = None if macs[1] is None else macs[1] / 1e6
        axes.errorbar(macs[0] / 1e6, accuracy[0], accuracy[1], spread, fmt=marker, **style)
    axes.set(xlabel="average MACs of one image (millions)", ylabel="accuracy on test images (%)")
    figure.legend(loc="outside right center", fontsize=7.5)
    return figure


def _colours(count: int) -> list[str]:
    """As many, the first ones told apart best."""
    known = (*plots.COLOURS.values(), *plots.EXTRA, plots.GREY, plots.INK)
    return [known[number % len(known)] for number in range(count)]
