"""The figures of the report.

Each function takes plain arrays and returns a matplotlib Figure of its own: pyplot and its global state are never
touched, and the style holds only while a figure is drawn.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# The colours of Okabe and Ito, told apart by every common kind of colour vision.
COLOURS = {"little": "#0072B2", "big": "#D55E00", "dynamic": "#009E73"}
EXTRA = ("#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
KERNELS = {1: "#D9D9D9", 3: "#8CC5E8", 5: "#F0B84B", 7: "#D98CB3"}
INK, GREY, PALE = "#22262B", "#8A9099", "#E6E8EB"
STYLE = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9.5,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.06,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}
WIDTH = 9.2  # inches


def styled(draw: Callable) -> Callable:
    """Runs `draw` under the style of the report and leaves matplotlib's settings as they were."""

    @functools.wraps(draw)
    def inside(*arguments, **options):
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return inside


def png(figure, *, dpi: int = 150) -> bytes:
    """The figure as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


@styled
def accuracy_against_macs(
    macs: np.ndarray,
    accuracy: np.ndarray,
    front: np.ndarray,
    *,
    found: Sequence[tuple[float, float]] = (),
    marks: Mapping[str, tuple[float, float | None]] | None = None,
):
    """Every recorded subnet (`macs[n]`, `accuracy[n]` in [0, 1]) and the Pareto front among them (`front` bool[n]).

    Over them the subnets that a search `found`, as (MACs, accuracy), and the named `marks`; a mark whose accuracy is
    None is drawn as an upright line."""
    figure, (axes,) = panels(1, height=4.3)
    axes.plot(macs / 1e6, 100 * accuracy, "o", color="#B6BBC2", markersize=4, alpha=0.8, label="recorded subnets")
    order = np.argsort(macs[front])
    steps = {"color": INK, "linewidth": 1.2, "drawstyle": "steps-post", "label": "Pareto front of the records"}
    axes.plot(macs[front][order] / 1e6, 100 * accuracy[front][order], **steps)
    if len(found):
        points = np.asarray(found, np.float64)
        style = {"color": "white", "markeredgecolor": INK, "markersize": 7, "label": "found by the search"}
        axes.plot(points[:, 0] / 1e6, 100 * points[:, 1], "D", **style)
    for name, (cost, value) in (marks or {}).items():
        if value is None:
            axes.axvline(cost / 1e6, color=COLOURS[name], linestyle="--", linewidth=1.5, label=name)
        else:
            style = {"markersize": 16, "markeredgecolor": "white", "zorder": 5, "label": name}
            axes.plot(cost / 1e6, 100 * value, "*", color=COLOURS[name], **style)
    axes.set(xlabel="MACs of one image (millions)", ylabel="accuracy on held-out images (%)")
    axes.legend(loc="lower right")
    return figure


@styled
def predicted_against_actual(predicted: np.ndarray, actual: np.ndarray):
    """Accuracy as the predictor guesses it against accuracy as measured, both [n] in [0, 1]."""
    figure, (axes,) = panels(1, width=5.2, height=4.4)
    both = 100 * np.concatenate([predicted, actual])
    margin = max(0.05 * np.ptp(both), 0.1)
    limits = (both.min() - margin, both.max() + margin)
    axes.plot(limits, limits, color=GREY, linewidth=1, linestyle="--", label="exact")
    style = {"alpha": 0.75, "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5, "label": "subnets"}
    axes.plot(100 * actual, 100 * predicted, "o", color=COLOURS["little"], **style)
    axes.set(xlabel="measured accuracy (%)", ylabel="predicted accuracy (%)", xlim=limits, ylim=limits, aspect="equal")
    axes.legend(loc="upper left")
    return figure


@styled
def threshold_curve(
    thresholds: np.ndarray,
    accuracy: np.ndarray,
    average_macs: np.ndarray,
    exit_rate: np.ndarray,
    *,
    chosen: Mapping[str, float],
    marks: Mapping[str, tuple[float, float]],
):
    """Every operating point of a pair: accuracy, average MACs and exit rate by threshold, and accuracy by average MACs.

    Args:
      thresholds, accuracy, average_macs, exit_rate: [t], in order of ascending threshold; rates in [0, 1].
      chosen: the point in use: `threshold`, `accuracy`, `macs`.
      marks: (MACs, accuracy) of each net when it answers alone, by its name.
    """
    figure, (left, middle, right) = panels(3, height=3.1)
    position, dot = _stretch(thresholds), {"color": COLOURS["dynamic"], "markersize": 15, "markeredgecolor": "white"}
    here = _stretch(np.array([chosen["threshold"]]))
    left.plot(position, 100 * accuracy, color=INK, drawstyle="steps-mid")
    left.plot(here, [100 * chosen["accuracy"]], "*", zorder=5, **dot)
    left.set(ylabel="accuracy (%)")
    middle.plot(position, average_macs / 1e6, color=INK, drawstyle="steps-mid")
    middle.plot(here, [chosen["macs"] / 1e6], "*", zorder=5, **dot)
    middle.set(ylabel="average MACs (millions)")
    rate = middle.twinx()
    rate.spines["right"].set_visible(True)
    rate.grid(False)
    rate.plot(position, 100 * exit_rate, color=EXTRA[1], linestyle="--", drawstyle="steps-mid")
    rate.set(ylim=(-3, 103))
    rate.set_ylabel("exit rate (%), dashed", color="#9A6500")
    for axes in (left, middle):
        _score_axis(axes, position)
    right.plot(average_macs / 1e6, 100 * accuracy, color=INK, label="every threshold")
    for name, (macs, value) in marks.items():
        right.plot(macs / 1e6, 100 * value, "o", color=COLOURS[name], markersize=8, label=f"{name} alone", zorder=4)
    right.plot(chosen["macs"] / 1e6, 100 * chosen["accuracy"], "*", label="chosen", zorder=5, **dot)
    right.set(xlabel="average MACs (millions)", ylabel="accuracy (%)")
    right.legend(loc="lower right")
    return figure


@styled
def training(losses: Mapping[str, tuple], accuracies: Mapping[str, tuple]):
    """Losses and held-out accuracies, each a mapping from the name of a subnet's role to `(steps[k], values[k])`;
    accuracies in [0, 1]. A long loss is drawn as its running mean, with the single steps pale behind it."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (left, right) = panels(2, height=3.1)
    colours = {"largest": COLOURS["big"], "smallest": COLOURS["little"], "random": COLOURS["dynamic"]}
    for axes, curves, scale in ((left, losses, 1.0), (right, accuracies, 100.0)):
        for index, (name, (steps, values)) in enumerate(curves.items()):
            colour = colours.get(name, EXTRA[index % len(EXTRA)])
            window = max(1, len(values) // 50) if axes is left else 1
            if window > 1:
                axes.plot(steps, scale * values, color=colour, alpha=0.22, linewidth=0.8)
            smooth = np.convolve(scale * values, np.full(window, 1 / window), mode="valid")
            marker = "o" if axes is right or len(smooth) == 1 else None
            axes.plot(steps[window - 1 :], smooth, color=colour, marker=marker, markersize=4, label=name)
        if curves:
            axes.legend()
    left.set(xlabel="training step", ylabel="loss", yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    right.set(xlabel="training step", ylabel="accuracy on held-out images (%)")
    right.set_ylim(
        top=min(right.get_ylim()[1], 100.5)
    )  # nothing is above 100 %, though a single point has room around it
    if losses:
        right.set_xlim(left.get_xlim())
    return figure


@styled
def archs(drawn: Mapping[str, Mapping]):
    """Each arch as a row of boxes, one a block: colour and width by the depthwise kernel, height by the expansion.

    Args:
      drawn: arch dicts (`resolution`, `width`, `kernel`, `expand`) by name; the same stage stands at the same place in
        every row, and a place that another arch fills and this one skips is dotted.
    """
    from matplotlib.patches import Patch

    depths = [max(map(len, stages)) for stages in _stages(drawn)]
    figure, rows = panels(len(drawn), height=0.5 + 1.45 * len(drawn), across=False)
    for axes, (name, arch) in zip(rows, drawn.items(), strict=True):
        _arch_row(axes, arch, depths)
        width = arch["width"] if isinstance(arch["width"], (int, float)) else " ".join(map(str, arch["width"]))
        axes.set_title(f"{name}:  {arch['resolution']} px, width {width}", loc="left", fontsize=9.5)
    sizes = sorted({kernel for arch in drawn.values() for stage in arch["kernel"] for kernel in stage})
    handles = [Patch(color=KERNELS.get(size, GREY), label=f"{size}×{size} kernel") for size in sizes]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(sizes))
    return figure


@styled
def samples(groups: Mapping[str, Sequence[tuple[np.ndarray, str, bool]]]):
    """Rows of small images, one row a group: each (uint8[h, w, c], caption, whether the answer given was right)."""
    columns = max(map(len, groups.values()))
    figure, _ = panels(0, height=1.9 * len(groups))
    for part, (name, pictures) in zip(
        figure.subfigures(len(groups), 1, squeeze=False)[:, 0], groups.items(), strict=True
    ):
        part.suptitle(name, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        for axes, picture in zip(
            part.subplots(1, columns, squeeze=False)[0], [*pictures, *[None] * columns], strict=False
        ):
            axes.set(xticks=[], yticks=[], frame_on=False)
            if picture is None:
                continue
            image, caption, right = picture
            axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
            axes.set_xlabel(caption, fontsize=7.5, color=INK if right else COLOURS["big"])
    return figure


def panels(count: int, *, width: float = WIDTH, height: float, across: bool = True, in_row: int = 0):
    """(a figure, its axes: so many, side by side or one above the other); width and height in inches.

    Args:
      in_row: side by side at most so many, the others in rows below; 0: all.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if not count:
        return figure, []
    columns = min(count, in_row or count) if across else 1
    grid = figure.subplots(-(-count // columns), columns, squeeze=False).ravel()
    for empty in grid[count:]:
        empty.remove()
    return figure, list(grid[:count])


def _stretch(thresholds: np.ndarray) -> np.ndarray:
    """-log10(1 - threshold): scores crowd near 1, and this scale gives each further nine the same room."""
    return -np.log10(1 - np.clip(np.asarray(thresholds, np.float64), 0.0, 1 - 1e-7))


def _score_axis(axes, position: np.ndarray) -> None:
    """From 0 to the last threshold below 1 (the point at 1 itself would squeeze all others), marked by its nines."""
    last = max(float(position[position < _stretch(np.ones(()))].max(initial=0.0)), 1.0)
    nines = range(0, int(last) + 1, 1 if last < 4 else 2)
    axes.set_xticks(list(nines), [f"{1 - 10.0**-n:.{n}f}" if n < 4 else f"$1-10^{{-{n}}}$" for n in nines])
    axes.set(xlabel="threshold on little's score", xlim=(-0.04 * last, 1.06 * last))


def _stages(drawn: Mapping[str, Mapping]) -> list[tuple]:
    return list(zip(*(arch["kernel"] for arch in drawn.values()), strict=True))


def _arch_row(axes, arch: Mapping, depths: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle

    highest, letters = max(max(stage) for stage in arch["expand"]), 7 if sum(depths) <= 14 else 6
    left = 1.0
    _fixed_box(axes, 0.0, "stem")
    for number, (kernels, expands, depth) in enumerate(zip(arch["kernel"], arch["expand"], depths, strict=True), 1):
        for place in range(depth):
            centre = left + place + 0.5
            if place >= len(kernels):
                box = Rectangle((centre - 0.3, 0), 0.6, 1.5, fill=False, linestyle=":", edgecolor=GREY)
                axes.add_patch(box)
                continue
            kernel, expand = kernels[place], expands[place]
            width = 0.42 + 0.065 * kernel
            colour = KERNELS.get(kernel, GREY)
            axes.add_patch(
                Rectangle((centre - width / 2, 0), width, expand, facecolor=colour, edgecolor=INK, linewidth=0.6)
            )
            # A low box has no room for two lines.
            place_of_text = {"y": expand + 0.1, "va": "bottom"} if expand < 2 else {"y": expand / 2, "va": "center"}
            axes.text(centre, s=f"{kernel}×{kernel}\n×{expand}", ha="center", fontsize=letters, **place_of_text)
        axes.text(left + depth / 2, -0.35, f"stage {number}", ha="center", va="top", fontsize=8, color=GREY)
        left += depth + 0.35
    _fixed_box(axes, left - 0.1, "head")
    axes.set(xlim=(-0.15, left + 0.9), ylim=(-1.4, max(highest, 6) + 0.3))
    axes.axis("off")


def _fixed_box(axes, left: float, name: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, 0), 0.75, 3, facecolor=PALE, edgecolor=INK, linewidth=0.6))
    axes.text(left + 0.375, 1.5, name, ha="center", va="center", fontsize=7)
