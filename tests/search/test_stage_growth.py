"""Algorithm 1 against itself written out, on nets that are made-up functions of their depths."""

import numpy as np
import pytest

from dynnas_jax.search import stage_growth


def made_up(role, number, depths):
    """Scores and a worth that depend on the net in no simple way."""
    seed = [len(role), number, *depths]
    return {"scores": np.random.default_rng(seed).uniform(size=(3, len(depths))), "depths": depths, "role": role}


def grow(trained, iterations=4, growth=2, options=(0,), initial=(6, 6, 6)):
    def train(role, number, depths):
        trained.append((role, number, depths))
        return made_up(role, number, depths)

    return stage_growth.run(
        initial,
        iterations=iterations,
        growth=growth,
        train=train,
        score=lambda net, option: net["scores"][option],
        worth=lambda net: float(net["scores"].sum()),
        options=options,
    )


@pytest.mark.parametrize(("iterations", "growth"), [(1, 2), (5, 2), (3, 1)])
def test_algorithm_1_written_out(iterations, growth):
    m, trained, candidates = [6, 6, 6], [], []
    a = made_up("initial", 0, tuple(m))
    for k in range(1, iterations + 1):
        t = made_up("temporary", k, tuple(x + growth for x in m))
        for i in range(3):
            if t["scores"][0][i] > a["scores"][0][i]:
                m[i] += growth
        a = made_up("candidate", k, tuple(m))
        candidates.append(tuple(m))
    found = grow(trained, iterations, growth)
    assert [net["depths"] for net in found.candidates] == candidates
    assert [one.candidate for one in found.iterations] == candidates
    assert len(trained) == stage_growth.networks(iterations) == 2 * iterations + 1
    assert len(set(candidates)) > 1 or iterations == 1, "or nothing was decided"
    assert found.first["depths"] == (6, 6, 6)
    assert found.tried == ()


def test_equal_scores_do_not_grow():
    assert stage_growth.decided((1.0, 2.0, 3.0), (1.0, 2.1, 2.9)) == (False, True, False)
    assert stage_growth.where((1, 2, 3), 2, (False, True, False)) == (1, 4, 3)


def test_the_parameters_are_chosen_once_and_candidates_alike_are_trained_once():
    trained = []
    found = grow(trained, 3, 2, options=(0, 1, 2))
    first = {}
    a, t = made_up("initial", 0, (6, 6, 6)), made_up("temporary", 1, (8, 8, 8))
    for option in range(3):
        depths = tuple(6 + 2 * int(y > x) for x, y in zip(a["scores"][option], t["scores"][option], strict=True))
        first[option] = (depths, made_up("candidate", 1, depths)["scores"].sum())
    best = max(first, key=lambda option: first[option][1])
    assert found.option == best
    assert [(one.candidate, one.worth) for one in found.tried] == list(first.values())
    assert found.iterations == grow([], 3, 2, options=(best,)).iterations
    choosing = [one for one in trained if one[:2] == ("candidate", 1)]
    assert len(set(choosing)) == len({depths for depths, _ in first.values()})


def test_uniform_depth_at_equal_macs():
    def cost(m):
        return 100 + 70 * m

    for macs in (50, 170, 300, 345, 346, 1000):
        near = min(range(1, 40), key=lambda m: (abs(cost(m) - macs), m))
        assert stage_growth.uniform(cost, macs) == near


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"growth": 0}, "grow.growth is 0, must be at least 1 and whole"),
        ({"initial": (0, 0, 0)}, "grow.initial_modules is 0, must be at least 1"),
        ({"iterations": 0}, "grow.iterations is 0"),
        ({"growth": 1.5}, "grow.growth is 1.5"),
    ],
)
def test_nothing_to_grow(options, message):
    trained = []
    with pytest.raises(ValueError, match=message):
        grow(trained, **options)
    assert not trained
