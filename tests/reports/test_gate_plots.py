import itertools

import numpy as np
import pytest

from dynnas_jax.reports import gate_plots

STEPS, RATIOS = np.arange(0, 100, 5), [0.25, 0.5, 0.75, 1.0]


def spreads(gates, classes):
    """Of each gate how its choices are spread over classes, whose averages lie between its ratios at random."""
    made = np.random.default_rng(0).dirichlet([1.0] * len(RATIOS), (gates, classes))
    return [
        {"gate": f"stage{number}.ratio", "ratios": RATIOS, "share": own.mean(axis=0), "by_class": own.tolist()}
        for number, own in enumerate(made, 1)
    ]


def assert_titles_have_room(figure):
    """Every title lies inside of the figure, and none on another."""
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("gates", [0, 1, 3, 4, 8])
def test_training_has_room_for_every_gate(gates, drawn):
    line, even = (STEPS, np.linspace(0.2, 0.9, len(STEPS))), (STEPS, np.full(len(STEPS), 0.25))
    losses = dict.fromkeys(("loss", "classification", "complexity", "sandwich"), line)
    names = [f"stage{number}.ratio" for number in range(1, gates + 1)]
    figure = gate_plots.training(losses, line, line, {name: [even] * len(RATIOS) for name in names})
    assert [axes.get_title() for axes in figure.axes[2:]] == [f"{name}, images (%)" for name in names]
    assert_titles_have_room(figure)
    drawn(figure)


@pytest.mark.parametrize("gates", [1, 4, 8])
def test_spread_of_few_classes_has_all_in_their_order(gates, drawn):
    names = [f"n{number:08d}" for number in range(20)]
    figure = gate_plots.spread(given := spreads(gates, 20), names)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["all", *names]
    for axes, gate in zip(figure.axes, given, strict=True):
        narrowest = [bar.get_width() for bar in axes.containers[0]]
        np.testing.assert_allclose(narrowest[1:], 100 * np.asarray(gate["by_class"])[:, 0])
    assert_titles_have_room(figure)
    drawn(figure)


def test_spread_of_many_classes_has_those_at_either_end(drawn):
    given, names = spreads(2, 1000), [str(number) for number in range(1000)]
    for gate in given:
        gate["by_class"][7] = [0.0] * len(RATIOS)  # no image of it
    average = np.mean([np.asarray(gate["by_class"]) @ RATIOS for gate in given], axis=0)
    figure = gate_plots.spread(given, names)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    found, others = [int(name) for name in shown[1:]], set(range(1000)) - {7, *map(int, shown[1:])}
    assert (shown[0], len(found), 7 in found) == ("all", 20, False)
    assert (np.diff(average[found]) >= 0).all()
    assert average[found[9]] <= min(average[row] for row in others)
    assert average[found[10]] >= max(average[row] for row in others)
    widths = [[bar.get_width() for bar in bars][1:] for bars in figure.axes[1].containers]
    np.testing.assert_allclose(np.transpose(widths), 100 * np.asarray(given[1]["by_class"])[found])
    assert figure.get_figheight() < 8
    drawn(figure)
