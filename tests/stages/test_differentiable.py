"""The strategy by gradients in a run: what it reports against what it was given, and against the images themselves."""

import types

import jax
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.costs import macs
from dynnas_jax.data.splits import Split
from dynnas_jax.elastic import init_supernet
from dynnas_jax.networks import coupled
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import collect, pair_fitness
from dynnas_jax.stages import differentiable, strategies

EACH = 2 * (24 + 24)  # images of a pair evaluated: both nets' statistics and answers


@pytest.fixture(scope="module")
def split():
    """24 images whose class is how bright they are."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 24).astype(np.int32)
    images = generator.integers(0, 86, (24, 8, 8, 1)) + 85 * labels[:, None, None, None]
    return Split(images.astype(np.uint8), labels, np.arange(24))


@pytest.fixture(scope="module")
def asked(small_space, split, quick_programs):
    """asked(effort_images): of a coupled supernet of two resolutions."""
    supernet = coupled.coupled(
        small_space(
            stem=4, stage_widths=(8,), stage_strides=(2,), head=8, widths=(0.5, 1.0), depths=(1,), kernels=(3,),
            expands=(1, 2), divisor=4, resolutions=(6, 8),
        ),
        router_units=2,
    )  # fmt: skip
    variables = jax.tree.map(np.asarray, init_supernet(supernet, jax.random.key(1), (8, 8, 1)))
    images = types.SimpleNamespace(train=split, holdout=split)
    job = types.SimpleNamespace(images=images, supernet=supernet, seed=0, score="max_softmax", augment=None)
    evaluate = collect.Evaluator(supernet, split.images, split, mesh=devices.data_mesh(1))
    nets = macs.table(supernet)
    table = pair_fitness.PairTable(PairSpace(supernet.space), nets, nets.only(("stem",)))
    largest = supernet.space.largest
    largest_little = supernet.space.smallest
    largest_little[supernet.space.index("resolution")] = 1
    budget = np.float32((nets.exact(largest) + nets.exact(largest_little)) / 2)
    fitness = pair_fitness.of(evaluate, variables, table, budget)
    fields = job, jax.random.key(3), variables, evaluate, table, budget, fitness
    with quick_programs():
        yield lambda effort_images: strategies.Asked(*fields, effort_images, EACH)


@pytest.mark.parametrize("learning", [True, False])
def test_the_effort_becomes_steps_and_the_pair_is_evaluated_for_real(asked, split, learning):
    each, batch = (4 if learning else 2), 8
    given = asked(EACH + 2 * 2 * batch + 5 * each * batch + 7)
    options = {} if learning else {"weight_learning_rate": 0.0}
    made = strategies.STRATEGIES["differentiable"].run(given, batch_size=batch, **options)
    assert made.images == given.effort_images - 7
    assert made.seen == [made.images]
    assert len(made.seen) == len(made.found.history)
    assert made.architectures == 1
    assert made.details["steps"] == len(made.details["relaxed_loss"]) == 5
    assert made.details["batch_size"] == batch
    space = given.table.space
    genome = space.check(made.found.genome)
    assert made.found.fitness == jax.jit(lambda fitness: fitness(genome))(given.fitness) == made.found.history[-1]
    assert made.found.cost == given.table.least(genome)
    assert made.found.feasible
    for half in space.halves(genome):
        assert space.space.values(half)["resolution"] == 8


def test_of_several_candidates_the_best_is_taken(asked, monkeypatch):
    evaluated = []
    measure = differentiable.Measure.__call__
    monkeypatch.setattr(
        differentiable.Measure, "__call__", lambda self, rows: evaluated.append(measure(self, rows)) or evaluated[-1]
    )
    given = asked(4 * EACH + 200)
    made = strategies.STRATEGIES["differentiable"].run(given, batch_size=8, candidates=4)
    (seen,) = evaluated
    assert 1 < len(seen.genome) == len(np.unique(seen.genome, axis=0)) == made.architectures <= 4
    assert made.seen[-1] == made.images == 5 * 32 + 32 + made.architectures * EACH <= given.effort_images
    assert len(made.seen) == len(made.found.history)
    assert made.found.fitness == seen.fitness[seen.cost <= given.budget].max()
    for genome, cost in zip(seen.genome, seen.cost, strict=True):
        given.table.space.check(genome)
        assert cost == given.table.least(genome) <= given.budget


def test_the_weights_that_learn_are_a_copy(asked):
    given = asked(EACH + 200)
    before = jax.tree.map(np.copy, given.variables)
    made = strategies.STRATEGIES["differentiable"].run(given, batch_size=8, weight_learning_rate=0.5)
    jax.tree.map(np.testing.assert_array_equal, given.variables, before)
    assert made.details["steps"] == 5


def test_what_is_refused(asked):
    with pytest.raises(ValueError, match=r"weight_learning_rate is -1\.0, must not be negative"):
        differentiable.search(asked(10_000), weight_learning_rate=-1.0)
    with pytest.raises(ValueError, match="candidates is 0, must be at least 1"):
        differentiable.search(asked(10_000), candidates=0)
    with pytest.raises(ValueError, match="4 images are too few; one step takes 192"):
        differentiable.search(asked(EACH + 4))


def test_some_of_a_split(split):
    assert differentiable._some(split, 24, 0) is split
    some, again, other = (differentiable._some(split, 10, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(some.image_id, again.image_id)
    assert (some.image_id != other.image_id).any()
    np.testing.assert_array_equal(some.images, split.images[some.image_id])
