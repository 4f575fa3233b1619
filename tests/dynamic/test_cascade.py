"""The cascade, image by image, against every choice run on the whole batch and the policy on their scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.dynamic import cascade, protocol, routers, thresholds


class Made:
    """Three choices on rows of six numbers, each reading what the ones before left; a row's first two are its scores."""

    def __init__(self):
        self.traced = 0
        generator = np.random.default_rng(0)
        shapes = ((4, 3), (4, 5), (5, 3), (8, 3))
        self.variables = [generator.normal(size=shape).astype(np.float32) for shape in shapes]
        rows = generator.normal(size=(37, 6))
        rows[:, :2] = generator.integers(0, 5, (37, 2)) / 4  # many scores are equal, and equal to a threshold
        self.rows = rows.astype(np.float32)
        self.dynamic = protocol.Dynamic((self.first, self.second, self.third), (1, 3, 9), routers.policy)

    def first(self, variables, rows):
        self.traced += 1
        features = rows[:, 2:]
        return features @ variables[0], rows[:, 0], {"features": features, "rows": rows}

    def second(self, variables, carry):
        features = jnp.tanh(carry["features"] @ variables[1])
        both = (features, carry["rows"][:, 3:])
        return features @ variables[2], carry["rows"][:, 1], both

    def third(self, variables, carry):
        return jnp.concatenate(carry, axis=1) @ variables[3], jnp.zeros(len(carry[0])), None

    def expected(self, given):
        """(logits float64[37, 3], choice[37]), row by row."""
        logits, choices = [], []
        first, widen, second, third = (leaf.astype(np.float64) for leaf in self.variables)
        for row in self.rows:
            features = np.tanh(row[2:].astype(np.float64) @ widen)
            answers = [row[2:] @ first, features @ second, np.concatenate([features, row[3:]]) @ third]
            choice = 0 if row[0] > given[0] else 1 if row[1] > given[1] else 2
            logits.append(answers[choice])
            choices.append(choice)
        return np.array(logits), np.array(choices)


@pytest.fixture(scope="module")
def made():
    return Made()


@pytest.mark.parametrize("capacity", [1, 8, (100, 37, 5)])
def test_three_choices_row_by_row(made, capacity):
    """37 rows fill no chunks of 8, and a capacity of 100 is above the batch."""
    answer = cascade.build(made.dynamic, capacity=capacity)
    seen = set()
    for given in ((0, 0), (0.5, 0.25), (0.25, 0.75), (1, 0.5), (0.5, 1), (1, 1)):  # from nearly all exit to all pass
        found, (logits, choice) = answer(made.variables, made.rows, given), made.expected(given)
        np.testing.assert_allclose(found.logits, logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found.choice, choice)
        np.testing.assert_array_equal(found.prediction, logits.argmax(-1))
        assert found.answered.tolist() == np.bincount(choice, minlength=3).tolist()
        seen.add(tuple(found.answered.tolist()))
    assert (0, 0, 37) in seen
    assert len(seen) == 6


def test_everything_exits_at_once_or_late(made):
    rows = made.rows.copy()
    answer = cascade.build(made.dynamic, capacity=8)
    for score, answered in (((0.1, 0.1), (37, 0, 0)), ((0.0, 0.1), (0, 37, 0)), ((0.0, 0.0), (0, 0, 37))):
        rows[:, :2] = score
        assert tuple(answer(made.variables, rows, (0.0, 0.0)).answered.tolist()) == answered


def test_a_score_that_is_no_number_never_exits(made):
    rows = made.rows.copy()
    rows[:, 0] = 1
    rows[5:9, 0] = np.nan
    found = cascade.build(made.dynamic, capacity=4)(made.variables, rows, (0, 1))
    assert found.choice.tolist() == [2 if 5 <= place < 9 else 0 for place in range(37)]


def test_one_program_for_all_thresholds(made):
    answer = cascade.build(made.dynamic, capacity=8)
    answer(made.variables, made.rows, (0.5, 0.5))
    before = made.traced
    for given in (
        (0.0, 0.0),
        [1.0, 1.0],
        np.float32([0.2, 0.7]),
        np.array([0.1, 0.9]),
        jnp.float32([0.3, 0.3]),
        (0, 1),
    ):
        answer(made.variables, made.rows, given)
    assert made.traced == before
    answer(made.variables, made.rows[:20], (0.5, 0.5))  # that a program more would be seen
    assert made.traced > before


def test_thresholds_may_be_traced_further_out(made):
    answer = cascade.build(made.dynamic, capacity=8)
    sweep = jnp.float32([[0, 0], [0.5, 0.25], [1, 1]])
    many = jax.jit(lambda v, x, t: jax.lax.map(lambda one: answer(v, x, one).choice, t))(
        made.variables, made.rows, sweep
    )
    for choice, given in zip(many, sweep, strict=True):
        np.testing.assert_array_equal(choice, made.expected(given)[1])


@pytest.mark.parametrize("capacity", [3, None])
def test_a_pair_answers_as_its_outputs_and_policy(tiny_pair, tiny, capacity):
    pair, variables = tiny_pair
    dynamic = protocol.confident_pair(pair)
    logits, score = (np.asarray(x) for x in jax.jit(dynamic.outputs)(variables, tiny.images))
    answer, seen = cascade.build(dynamic, capacity=capacity), []
    # Midway between scores: rounding differs between a chunk and the batch.
    steps = thresholds.curve(score.T, np.zeros((16, 2), bool), dynamic.cost).thresholds
    for threshold in steps[[0, 1, 5, 8, -2, -1]]:
        choice = dynamic.policy(score, [threshold])
        expected = logits[choice, np.arange(16)]
        found = answer(variables, tiny.images, [threshold])
        np.testing.assert_array_equal(found.choice, choice)
        np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.prediction, expected.argmax(-1))
        seen.append(int(found.answered[0]))
        assert found.answered.tolist() == np.bincount(choice, minlength=2).tolist()
    assert (seen[0], seen[-1]) == (16, 0)
    assert len(set(seen)) == 6


def test_a_network_of_one_choice(made):
    dynamic = protocol.Dynamic((made.first,), (1,), routers.policy)
    found = cascade.build(dynamic, capacity=8)(made.variables, made.rows, ())
    np.testing.assert_allclose(found.logits, made.rows[:, 2:] @ made.variables[0], rtol=1e-5, atol=1e-5)
    assert found.answered.tolist() == [37]


@pytest.mark.parametrize("capacity", [0, -1, 2.0, True, "8", (8,), (8, 8, 0), (8, 8, 8, 8)])
def test_a_capacity_that_is_none(made, capacity):
    with pytest.raises(ValueError, match="give a whole number of images from 1, or 3, one a choice"):
        cascade.build(made.dynamic, capacity=capacity)


def test_arguments_that_do_not_fit(made):
    answer = cascade.build(made.dynamic)
    with pytest.raises(ValueError, match=r"thresholds \[0.5, 80.0\]: each must lie in \[0, 1\]"):
        answer(made.variables, made.rows, (0.5, 80.0))
    with pytest.raises(ValueError, match=r"thresholds of shape \(1,\) for 3 choices"):
        answer(made.variables, made.rows, (0.5,))
    other = made.dynamic._replace(policy=lambda score, thresholds: score.argmax(0))
    with pytest.raises(ValueError, match="this network's policy is another"):
        cascade.build(other)
