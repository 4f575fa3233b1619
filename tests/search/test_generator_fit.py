"""Training the generator: the loss is that of the subnet itself, and budgets are learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import elastic, relaxed
from dynnas_jax.costs import macs
from dynnas_jax.data.splits import Split
from dynnas_jax.search import generator, generator_fit

LABELS = np.arange(16, dtype=np.int32) % 3
# Superclass {0, 1}, superclass {2}, and both together.
KEPT = np.stack([np.outer(m, m) for m in ([1, 1, 0], [0, 0, 1], [1, 1, 1])]).astype(bool)
TASKS = generator_fit.Tasks(np.asarray([[1, 0], [0, 1], [1, 1]], bool), KEPT)


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


def setting_of(supernet, size, beside):
    shape = generator.shape_of(supernet.space, 2)
    return generator_fit._Setting(supernet, shape, None, (0.0, 1.0), size, beside, 1, 0, 0.0, 1.0)


@pytest.fixture
def given(tiny):
    found = generator_fit._Given(tiny.variables, tiny.images, LABELS, TASKS.members.astype(np.float32), KEPT)
    return jax.tree.map(jnp.asarray, found)


@pytest.mark.parametrize("beside", [0, 11])
def test_the_validation_loss_is_the_subnets_own(tiny, given, monkeypatch, beside):
    """The cross-entropy of the extracted subnet on the task's images, by float64; with the statistics of all, if asked."""
    monkeypatch.setattr(generator_fit, "FAINT", 0.0)
    loss = functools.partial(generator_fit._validation_loss, setting_of(tiny.supernet, 5, beside))
    genome = np.asarray(tiny.supernet.space.sample(jax.random.key(4)))
    hard = relaxed.one_hot(tiny.supernet.space, jnp.asarray(genome))
    net, own = elastic.extract(tiny.supernet, tiny.variables, genome)
    mine = np.flatnonzero(LABELS == 2)  # five images: a batch has them all, in whatever order
    used = tiny.images if beside else tiny.images[mine]
    (logits, _), _ = net.apply(own, used, True, mutable=["batch_stats"])
    # Of one class alone nothing can be wrong; among all three classes it can.
    assert float(loss(given, hard, jnp.int32(1), jax.random.key(0))) == pytest.approx(0, abs=1e-6)
    whole = given._replace(kept=jnp.asarray(np.stack([np.outer([0, 0, 1], [1, 1, 1]).astype(bool)] * 3)))
    found = loss(whole, hard, jnp.int32(0), jax.random.key(0))
    rows = np.asarray(logits, np.float64)[mine if beside else slice(None)]
    expected = np.mean(np.log(np.exp(rows).sum(axis=1)) - rows[:, 2])
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_closed_gates_are_heard(tiny, given, monkeypatch):
    """Of the smallest subnet: what more channels would do has a slope, though they are shut."""
    loss = functools.partial(generator_fit._validation_loss, setting_of(tiny.supernet, 10, 6), given)
    space = tiny.supernet.space
    smallest = relaxed.one_hot(space, jnp.asarray(space.smallest))
    live = [row for row, gene in enumerate(space.genes) if gene.name.endswith("block0.expand")]
    found = {}
    for faint in (0.0, 1e-3):
        monkeypatch.setattr(generator_fit, "FAINT", faint)
        slope = jax.jit(jax.grad(lambda genome: loss(genome, jnp.int32(0), jax.random.key(0))))(smallest)
        found[faint] = np.asarray(slope)[live, 1]
    assert len(live) == 2
    assert (np.abs(found[1e-3]) > 1e-6).all(), found
    assert (np.abs(found[0.0]) < 0.1 * np.abs(found[1e-3])).all(), found


@pytest.fixture(scope="module")
def fitted(tiny):
    table, space = macs.table(tiny.supernet), tiny.supernet.space
    ends = tuple(float(table.exact(genome)) for genome in (space.smallest, space.largest))
    shape = generator.shape_of(space, 2, embedding=8, units=16)
    told = []
    made = generator_fit.fit(
        *(jax.random.key(0), tiny.supernet, tiny.variables),
        *(Split(tiny.images, LABELS, np.arange(16)), TASKS, table, shape, ends, told.append),
        **{"steps": 60, "batch_size": 4, "learning_rate": 0.03, "cost_scenarios": 31},
    )
    return made, shape, table, ends, told


def test_budgets_are_learned(fitted, tiny):
    made, shape, table, ends, told = fitted
    assert told == list(range(1, 61))
    assert made.loss.shape == made.distance.shape == (60,)
    assert made.distance[-10:].mean() < 0.6 * made.distance[:5].mean()
    answer = generator.answerer(shape, tiny.supernet.space, table, ends)
    budgets = np.linspace(*ends, 7)[1:-1].astype(np.float32)
    members = np.ones((5, 2), bool)
    before = generator.init(shape, jax.random.key(9))
    off = []
    for params in (before, made.params):
        found = answer(jax.tree.map(jnp.asarray, params), members, budgets, jax.random.key(1))
        off.append(np.abs(np.asarray(found.cost) / budgets[:, None] - 1).mean())
    assert off[1] < 0.7 * off[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "generator.steps is 0"),
        ({"learning_rate": 0.0}, "generator.learning_rate is 0.0"),
        ({"cost_weight": -1.0}, "generator.cost_weight is -1.0"),
        ({"temperature": 0.0}, "generator.temperature"),
        ({"cost_scenarios": -1}, "generator.cost_scenarios is -1"),
    ],
)
def test_what_is_refused(tiny, options, message):
    shape = generator.shape_of(tiny.supernet.space, 2)
    split = Split(tiny.images, LABELS, np.arange(16))
    with pytest.raises(ValueError, match=message):
        generator_fit.fit(
            *(jax.random.key(0), tiny.supernet, tiny.variables, split, TASKS, None, shape, (0.0, 1.0)),
            **{"steps": 1, **options},
        )


def test_a_task_needs_images(tiny):
    shape = generator.shape_of(tiny.supernet.space, 2)
    split = Split(tiny.images, np.zeros(16, np.int32), np.arange(16))
    with pytest.raises(ValueError, match="a task has 0 held-out images"):
        generator_fit.fit(
            jax.random.key(0), tiny.supernet, tiny.variables, split, TASKS, None, shape, (0.0, 1.0), steps=1
        )
