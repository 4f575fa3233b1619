"""Rewards of recorded nets of several exits against brute force over all thresholds."""

import itertools

import numpy as np
import pytest

from dynnas_jax import records
from dynnas_jax.search import exit_rewards

TARGETS, OMEGA = (1.5, 2.5), 0.3


def recorded(folder, exits, *, nets=3, images=24):
    """A store of drawn answers; scores of few values, so that images exit together."""
    generator = np.random.default_rng(exits)
    score = generator.choice([0.2, 0.5, 0.7, 0.9, 0.99], (nets, images, exits))
    correct = generator.random((nets, images, exits)) < score
    cost = np.cumsum(generator.uniform(0.5, 1.5, (nets, exits)), axis=1)
    store = records.create(folder / "records.zarr", "f", genes=2, image_id=np.arange(images), choices=exits)
    return store.write(0, genome=np.zeros((nets, 2), np.int32), score=score, correct=correct, cost=cost)


def brute_force(score, correct, cost, target):
    best = 0.0
    levels = [np.concatenate([[0.0], np.unique(score[:, exit])]) for exit in range(len(cost) - 1)]
    for limits in itertools.product(*levels):
        leaves = np.concatenate([score[:, :-1] > np.asarray(limits), np.ones((len(score), 1), bool)], axis=1)
        choice = leaves.argmax(axis=1)
        accuracy, spent = correct[np.arange(len(score)), choice].mean(), np.asarray(cost)[choice].mean()
        best = max(best, accuracy * min(target / spent, 1) ** OMEGA)
    return best


@pytest.mark.parametrize("exits", [1, 2, 3, 4])
def test_rewards_of_records_are_those_of_the_best_thresholds(tmp_path, exits):
    store = recorded(tmp_path, exits)
    rows = np.asarray([2, 0])
    cost = store.read("cost", rows)
    found = exit_rewards.of_records(store, rows, cost, TARGETS, OMEGA)
    assert found.shape == (2, 2)
    for column, row in enumerate(rows):
        score, correct = (store.read(name, [row])[0] for name in ("score", "correct"))
        for line, target in enumerate(TARGETS):
            best = brute_force(score.astype(np.float32), correct, cost[column], target)
            # The quantiles of so few images are all their scores; coordinate descent may stop short for four.
            assert found[line, column] == pytest.approx(best, rel=1e-5 if exits < 4 else 0.02)


def test_the_gap_of_the_quantiles_is_told(tmp_path):
    store = recorded(tmp_path, 3, images=400)
    rows = np.arange(3)
    gap = exit_rewards.gap(store, rows, store.read("cost", rows), TARGETS, OMEGA)
    assert gap.subnets == 3
    assert -1e-5 <= gap.mean <= gap.most < 0.05


def test_more_records_than_are_read_at_a_time(tmp_path, monkeypatch):
    store = recorded(tmp_path, 2, nets=5)
    rows = np.arange(5)
    whole = exit_rewards.of_records(store, rows, store.read("cost"), TARGETS, OMEGA)
    monkeypatch.setattr(exit_rewards, "ROWS", 2)
    np.testing.assert_allclose(
        exit_rewards.of_records(store, rows, store.read("cost"), TARGETS, OMEGA), whole, rtol=1e-6
    )
