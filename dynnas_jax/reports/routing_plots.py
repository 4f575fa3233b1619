"""The report's figures of routing and of calibration, in the manner of `plots`."""

from collections.abc import Mapping, Sequence

import numpy as np

from dynnas_jax.reports import plots, tables

MOST_NAMES = 40  # classes that are named on an axis


@plots.styled
def reliability(bins: Mapping[str, Mapping[str, Sequence]]):
    """How often answers of a given probability are right, a panel for each net, and below how many answers have it.

    Args:
      bins: by net `images`, `probability` and `accuracy` [b], of bins of equal width; None where a bin is empty. Lines through
        the dots are 95 % intervals (Wilson) of the bin's accuracy; on the dashed line it equals the probability.
    """
    figure, _ = plots.panels(0, width=plots.WIDTH if len(bins) > 1 else 4.0, height=4.2)
    grid = figure.subplots(2, len(bins), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1.2))
    most = max(max(found["images"]) for found in bins.values())
    for (upper, lower), (name, found) in zip(grid.T, bins.items(), strict=True):
        images, colour = np.asarray(found["images"]), plots.COLOURS.get(name, plots.COLOURS["little"])
        filled = np.flatnonzero(images)
        probability, accuracy = (_percent(found[key])[filled] for key in ("probability", "accuracy"))
        ends = [tables.interval(found["accuracy"][place], found["images"][place]) for place in filled]
        upper.plot([0, 100], [0, 100], color=plots.GREY, linewidth=1, linestyle="--")
        upper.vlines(probability, *(100 * np.asarray(ends).T), color=colour, alpha=0.45, linewidth=1.5)
        upper.plot(probability, accuracy, "o", color=colour, markersize=5)
        upper.set(xlim=(-3, 103), ylim=(-3, 103), title=name)
        centres = 100 * (np.arange(len(images)) + 0.5) / len(images)
        lower.bar(centres, images, 86 / len(images), color=colour)
        lower.set(xlabel="probability of the answer (%)", yscale="log", ylim=(0.6, 2 * most))
    grid[0, 0].set(ylabel="right (%)")
    grid[1, 0].set(ylabel="answers")
    grid[1, 0].yaxis.set_major_formatter("{x:g}")
    return figure


@plots.styled
def exits(groups: Sequence[Mapping]):
    """Which share of the images of a group little answers, as bars, and how often each net is right on them, as dots.

    Args:
      groups: a panel each, the second as wide as three of the first: `title`, `names` [g], `exit_rate` [g] in [0, 1] and
        accuracies [g] of three nets under `right`; None where a group has no image. Of more than `MOST_NAMES` groups no name is
        written.
    """
    figure, _ = plots.panels(0, height=3.6)
    grid = figure.subplots(1, len(groups), squeeze=False, sharey=True, width_ratios=(1, 3)[: len(groups)])[0]
    for axes, group in zip(grid, groups, strict=True):
        place, many = np.arange(len(group["names"])), len(group["names"]) > MOST_NAMES
        rate = _percent(group["exit_rate"])
        axes.bar(place, rate, 1.0 if many else 0.8, color="#BFDDF0", label="answered by little")
        for shift, (name, right) in zip((-0.22, 0.0, 0.22), group["right"].items(), strict=True):
            beside = place if many else place + shift
            style = {
                "markersize": 2.5 if many else 6,
                "markeredgecolor": "white",
                "markeredgewidth": 0 if many else 0.6,
            }
            axes.plot(beside, _percent(right), "o", color=plots.COLOURS[name], label=f"{name} is right", **style)
        axes.set(title=group["title"], xlim=(-0.7, len(place) - 0.3), ylim=(0, 104))
        axes.grid(axis="x", visible=False)
        slanted = max(map(len, group["names"])) * len(place) > 70
        names = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xlabel(f"{len(place)} classes" if many else "")
        axes.set_xticks([] if many else place, [] if many else group["names"], **names)
    grid[0].set(ylabel="images of the group (%)")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _percent(values: Sequence) -> np.ndarray:
    return 100 * np.asarray([np.nan if value is None else value for value in values], np.float64)
