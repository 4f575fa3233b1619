"""The chosen pair against every pair and every threshold tried in turn."""

import numpy as np
import pytest

from dynnas_jax.search import pairs
from dynnas_jax.search.pairs import best_pair, choose_pair, unit

IMAGES = 16  # a power of two, and costs are integers: every mean is exact


def draw(seed):
    """Score, correct and cost of a few candidates; scores with ties, 0 and 1 among them."""
    generator = np.random.default_rng(seed)
    candidates = generator.integers(2, 6)
    score = (generator.integers(0, 9, (candidates, IMAGES)) / 8).astype(np.float32)
    correct = generator.random((candidates, IMAGES)) < generator.uniform(0.2, 0.9, (candidates, 1))
    cost = generator.choice(np.arange(100, 1000, 50), candidates, replace=False)
    return score, correct, cost, 50


def every_point(score, correct, cost, stem, big):
    """(accuracy, average cost) of each cheaper candidate as little at each threshold."""
    points = []
    for little in range(len(cost)):
        if cost[little] < cost[big]:
            for threshold in (0, *score[little], 1):
                exits = score[little] > threshold
                right = np.where(exits, correct[little], correct[big]).sum() / IMAGES
                spent = np.where(exits, cost[little], cost[little] + cost[big] - stem).sum() / IMAGES
                points.append((right, spent))
    return points


def brute_force(points, max_cost, min_accuracy):
    """(accuracy, average cost, feasible) of the best point."""
    if max_cost is not None:
        feasible = [point for point in points if point[1] <= max_cost]
        best = max(feasible or points, key=lambda p: (p[0], p[1]) if feasible else (-p[1], p[0]))
    else:
        feasible = [point for point in points if point[0] >= min_accuracy]
        best = max(feasible or points, key=lambda p: (-p[1], p[0]) if feasible else (p[0], -p[1]))
    return (*best, bool(feasible))


def drawn_with_a_pair(seed, big_net):
    score, correct, cost, stem = draw(seed)
    accuracy = correct.mean(axis=1)
    first = cost if big_net == "largest" else accuracy
    big = max(range(len(cost)), key=lambda i: (first[i], cost[i]))
    return score, correct, cost, stem, big, accuracy


@pytest.mark.parametrize(
    "target",
    [
        *({"max_macs_fraction": share} for share in (0.125, 0.25, 0.5, 0.75, 1.0, 1.25)),
        *({"max_accuracy_loss": loss} for loss in (0.0, 0.0625, 0.25, 1.0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("big_net", ["most_accurate", "largest"])
def test_the_chosen_pair_is_the_best_of_all(target, big_net):
    outcomes = []
    for seed in range(60):
        score, correct, cost, stem, big, accuracy = drawn_with_a_pair(seed, big_net)
        if (cost >= cost[big]).all():
            with pytest.raises(ValueError, match=f"resolution is cheaper than its {cost[big]} MACs"):
                choose_pair(score, correct, cost, stem, big_net=big_net, **target)
            continue
        chosen = choose_pair(score, correct, cost, stem, big_net=big_net, **target)
        share, loss = target.get("max_macs_fraction"), target.get("max_accuracy_loss")
        max_cost = None if share is None else share * cost[big]
        min_accuracy = None if loss is None else max(0.0, accuracy[big] - loss)
        expected = brute_force(every_point(score, correct, cost, stem, big), max_cost, min_accuracy)
        assert (chosen.point.accuracy, chosen.point.average_cost, chosen.point.feasible) == expected, seed
        assert (chosen.big, chosen.max_cost, chosen.min_accuracy) == (big, max_cost, min_accuracy)
        exits = score[chosen.little] > np.float32(chosen.point.thresholds[0])
        assert np.where(exits, correct[chosen.little], correct[big]).mean() == chosen.point.accuracy
        outcomes.append(chosen.point.feasible)
    assert len(outcomes) >= 20
    assert {0.125: {False}, 0.25: {True, False}, 0.5: {True, False}}.get(share, {True}) <= set(outcomes)


def test_an_accuracy_no_pair_reaches():
    """Little is wrong wherever it is sure, and big right: with a score of 1 it always exits."""
    score = np.ones((2, IMAGES), np.float32)
    correct = np.stack([np.zeros(IMAGES, bool), np.ones(IMAGES, bool)])
    chosen = choose_pair(score, correct, np.asarray([100, 900]), 50, max_accuracy_loss=0.5)
    assert chosen.point.feasible  # a threshold of 1 lets nothing exit, so big's accuracy is always within reach
    assert chosen.point.average_cost == 100 + 900 - 50


def test_a_cost_no_pair_reaches_gives_the_cheapest():
    score, correct = np.full((3, IMAGES), 0.5, np.float32), np.zeros((3, IMAGES), bool)
    correct[2] = True
    chosen = choose_pair(score, correct, np.asarray([200, 100, 900]), 50, max_macs_fraction=0.1)
    assert (chosen.little, chosen.big) == (1, 2)
    assert not chosen.point.feasible
    assert chosen.point.average_cost == 100


def test_of_equally_accurate_candidates_the_costliest_is_big():
    score, correct = np.full((3, IMAGES), 0.5, np.float32), np.ones((3, IMAGES), bool)
    assert choose_pair(score, correct, np.asarray([300, 100, 200]), 50, max_macs_fraction=0.9).big == 0


def test_an_unknown_way_to_choose_big():
    with pytest.raises(ValueError, match=r"big_net is 'smallest', choose from \['most_accurate', 'largest'\]"):
        choose_pair(
            np.ones((2, 4)), np.ones((2, 4), bool), np.asarray([1, 2]), 0, max_macs_fraction=1.0, big_net="smallest"
        )


@pytest.mark.parametrize("targets", [{}, {"max_macs_fraction": 0.5, "max_accuracy_loss": 0.1}])
def test_exactly_one_target(targets):
    with pytest.raises(ValueError, match="give exactly one of max_macs_fraction and max_accuracy_loss"):
        choose_pair(np.ones((2, 4), np.float32), np.ones((2, 4), bool), np.asarray([1, 2]), 0, **targets)


def test_little_has_the_resolution_of_big():
    """The best partner stands at another resolution; the stem counted is that of big's."""
    score = np.asarray([[0.9] * 4, [0.8] * 4, [0.7] * 4], np.float32)
    correct = np.asarray([[True] * 4, [True, True, True, False], [True] * 4])
    cost, stem, resolution = np.asarray([100, 200, 900]), np.asarray([10, 40, 40]), np.asarray([6, 8, 8])
    chosen = choose_pair(score, correct, cost, stem, resolution, max_macs_fraction=2.0, big_net="largest")
    assert (chosen.little, chosen.big) == (1, 2)
    assert chosen.point.accuracy == 1.0
    assert chosen.point.average_cost == 200 + 900 - 40  # all are passed on
    with pytest.raises(ValueError, match="of big's resolution is cheaper"):
        choose_pair(score, correct, cost, stem, np.asarray([6, 6, 8]), max_macs_fraction=2.0, big_net="largest")


# A target in milliseconds.


def points_of(own_score, own_correct, own_cost, fits, little, score, correct, cost, stem, big):
    """(accuracy, average cost) of one candidate for little beside one for big, if it fits and is cheaper."""
    if own_cost[little] >= cost[big] or not fits[little, big]:
        return []
    both = np.stack([own_score[little], score[big]]), np.stack([own_correct[little], correct[big]])
    return every_point(*both, np.asarray([own_cost[little], cost[big]]), stem, 1)


def test_little_ones_with_a_head_of_their_own():
    """Of all little ones that fit, at every threshold, by what they answer as little ones."""
    seen = set()
    for seed in range(40):
        score, correct, cost, stem = draw(seed)
        own_score, own_correct = (array[:, ::-1] for array in (score, correct))
        fits = np.random.default_rng(seed).random((len(cost), len(cost))) < 0.7
        extra = 100 + seed  # a candidate for little alone
        own_score, own_correct, fits = (np.concatenate([a, a[:1]]) for a in (own_score, own_correct, fits))
        own_cost = np.append(cost, extra)
        big = max(range(len(cost)), key=lambda i: (correct[i].mean(), cost[i]))
        points = []
        for little in range(len(own_cost)):
            points += points_of(own_score, own_correct, own_cost, fits, little, score, correct, cost, stem, big)
        seen.add(bool(points))
        own = pairs.AsLittle(own_score, own_correct, fits, own_cost)
        if not points:
            with pytest.raises(ValueError, match="there is no pair"):
                choose_pair(score, correct, cost, stem, None, own, max_macs_fraction=0.6)
            continue
        chosen = choose_pair(score, correct, cost, stem, None, own, max_macs_fraction=0.6)
        assert fits[chosen.little, chosen.big]
        found = chosen.point.accuracy, chosen.point.average_cost, chosen.point.feasible
        assert found == brute_force(points, 0.6 * cost[big], None)
    assert seen == {True, False}


def test_a_share_of_the_latency():
    """The same choice as of MACs, by costs that are floats; where both shares are given it is the latency's."""
    score, correct, cost, stem = draw(4)
    by_macs = choose_pair(score, correct, cost, stem, max_macs_fraction=0.5)
    by_latency = choose_pair(score, correct, cost / 8, stem / 8, max_latency_fraction=0.5, max_macs_fraction=0.1)
    assert by_latency[:2] == by_macs[:2]
    assert by_latency.max_cost == by_macs.max_cost / 8
    assert by_latency.point == by_macs.point._replace(average_cost=by_macs.point.average_cost / 8)
    with pytest.raises(ValueError, match="cheaper than its 0.125 ms"):
        choose_pair(score[:1], correct[:1], np.asarray([0.125]), 0, max_latency_fraction=0.5)


@pytest.mark.parametrize(
    ("dynamic", "latency_known", "expected"),
    [
        ({"max_macs_fraction": 0.5}, True, "macs"),
        ({"max_macs_fraction": 0.5, "max_latency_fraction": 0.5}, True, "latency_ms"),
        ({"max_accuracy_loss": 0.01}, True, "latency_ms"),
        ({"max_accuracy_loss": 0.01}, False, "macs"),
    ],
)
def test_what_a_target_is_about(dynamic, latency_known, expected):
    assert unit(dynamic, latency_known) == expected


def test_a_share_of_a_latency_that_no_table_tells():
    with pytest.raises(ValueError, match="max_latency_fraction needs search.latency_table"):
        unit({"max_latency_fraction": 0.5}, False)


# The best of all pairs.


def drawn_of_two_resolutions(seed):
    score, correct, cost, stem = draw(seed)
    resolution = np.random.default_rng(seed).choice([6, 8], len(cost))
    return score, correct, cost, np.where(resolution == 6, stem, 2 * stem), resolution


@pytest.mark.parametrize("budget", [150, 300, 600, 1200])
def test_the_best_pair_is_the_best_of_all(budget, monkeypatch):
    """Among few candidates all are tried: every little, big and threshold in turn."""
    outcomes = []
    for seed in range(60):
        score, correct, cost, stem, resolution = drawn_of_two_resolutions(seed)
        points = []
        for big in range(len(cost)):
            same = resolution == resolution[big]
            rows = np.flatnonzero(same)
            mine = (score[rows], correct[rows], cost[rows], int(stem[big]), int(np.flatnonzero(rows == big)[0]))
            points += every_point(*mine)
        if not points:
            with pytest.raises(ValueError, match="there is no pair"):
                best_pair(score, correct, cost, stem, resolution, max_cost=budget)
            continue
        chosen = best_pair(score, correct, cost, stem, resolution, max_cost=budget)
        found = (chosen.point.accuracy, chosen.point.average_cost, chosen.point.feasible)
        assert found == brute_force(points, budget, None), seed
        assert resolution[chosen.little] == resolution[chosen.big]
        assert cost[chosen.little] < cost[chosen.big]
        outcomes.append(chosen.point.feasible)
    assert {150: {True, False}, 300: {True, False}}.get(budget, {True}) <= set(outcomes)


def test_the_best_pair_of_little_ones_with_a_head_of_their_own():
    """Every little, big and threshold in turn; with few partners allowed, the nearest the front of those that fit."""
    feasible = []
    for seed in range(40):
        score, correct, cost, stem = draw(seed)
        own = score[:, ::-1], correct[:, ::-1]
        fits = np.random.default_rng(seed).random((len(cost), len(cost))) < 0.7
        indices = [(little, big) for little in range(len(cost)) for big in range(len(cost))]
        points = [
            p for little, big in indices for p in points_of(*own, cost, fits, little, score, correct, cost, stem, big)
        ]
        as_little = pairs.AsLittle(*own, fits, cost)
        if not points:
            with pytest.raises(ValueError, match="there is no pair"):
                best_pair(score, correct, cost, stem, None, as_little, max_cost=300)
            continue
        chosen = best_pair(score, correct, cost, stem, None, as_little, max_cost=300)
        found = chosen.point.accuracy, chosen.point.average_cost, chosen.point.feasible
        assert found == brute_force(points, 300, None), seed
        assert fits[chosen.little, chosen.big]
        feasible.append(chosen.point.feasible)
    assert set(feasible) == {True, False}


def test_of_many_candidates_those_nearest_the_front_are_tried(monkeypatch):
    """Two at each resolution: the front of it first, then what would be the front without it."""
    monkeypatch.setattr(pairs, "ENOUGH", 2)
    accuracy, cost = np.asarray([0.1, 0.5, 0.4, 0.2, 0.3]), np.asarray([1, 2, 3, 4, 1])
    resolution = np.asarray([8, 8, 8, 8, 6])
    assert pairs._nearest_the_front(cost, accuracy, resolution).tolist() == [0, 1, 4]
    assert pairs._nearest_the_front(cost[1:4], accuracy[1:4], None).tolist() == [0, 1]
    fits = np.asarray([[True, False], [True, False], [True, True], [False, True], [False, True]])
    correct = np.arange(10) < 10 * accuracy[:, None]
    few = pairs._few_partners(pairs.AsLittle(correct, correct, fits, cost), np.asarray([0, 1]))
    assert few.T.tolist() == [[True, True, False, False, False], [False, False, True, False, True]]
