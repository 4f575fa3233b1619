"""The dynamic loss against its definition in float64, the weights' updates against subnets run sliced, and a whole search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, log_softmax, logit, softmax

from dynnas_jax import relaxed
from dynnas_jax.costs import macs
from dynnas_jax.elastic import extract, init_supernet
from dynnas_jax.networks import coupled
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import differentiable
from dynnas_jax.train import bilevel

KEY = jax.random.key(3)
BATCH = 16


@pytest.fixture(scope="module")
def pairs(micro):
    return coupled.coupled(micro, router_units=5)


@pytest.fixture(scope="module")
def variables(pairs):
    noise = iter(jax.random.split(jax.random.key(1), 1000))
    made = init_supernet(pairs, KEY, (8, 8, 1))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(noise), leaf.shape), made)


@pytest.fixture(scope="module")
def tables(micro):
    table = macs.table(micro)
    return {"table": table, "stem": table.only(("stem",))}


@pytest.fixture(scope="module")
def problem(variables, split, tables):
    """problem(supernet, **options): on `split`, as training and as held-out images."""

    def make(supernet, *, budget=4e4, **options):
        own = {name: {k: v for k, v in tree.items() if k != coupled.PLACE} for name, tree in variables.items()}
        own = variables if supernet.coupling else own
        options = {"batch_size": BATCH, **tables, **options}
        return bilevel.problem(supernet, own, split, split, budget=budget, **options)

    return make


def a_pair(space, seed=0):
    choices = relaxed.allowed(space)
    return relaxed.chances(space, jax.random.normal(jax.random.key(seed), choices.shape), choices, 1.0)


def routing_of(tables, **options):
    fields = {"budget": 4e4, "score": "max_softmax", "threshold": None, "softness": 0.7, **options}
    return bilevel._Routing(bilevel._Tables(**{"net": tables["table"], "stem": tables["stem"]}), **fields)


def test_dynamic_loss_in_float64(tables, micro):
    space = PairSpace(micro.space)
    generator = np.random.default_rng(0)
    little, big = 2 * generator.normal(size=(2, 30, 3))
    labels = generator.integers(0, 3, 30)
    score = softmax(little, axis=1).max(axis=1)
    wrong = [-log_softmax(logits, axis=1)[np.arange(30), labels] for logits in (little, big)]
    with jax.enable_x64(True):
        pair = jnp.asarray(a_pair(space), jnp.float64)
        found, share = bilevel.dynamic_loss(routing_of(tables, threshold=0.8), pair, little, big, labels)
        onward = expit((logit(0.8) - logit(score)) / 0.7)
        np.testing.assert_allclose(found, ((1 - onward) * wrong[0] + onward * wrong[1]).mean(), rtol=1e-9)
        np.testing.assert_allclose(share, onward.mean(), rtol=1e-9)
        # As many as the budget affords: halfway between little's cost and that of both.
        first, second = routing_of(tables).tables.of(pair)
        budget = float(first + 0.3 * second)
        found, share = bilevel.dynamic_loss(routing_of(tables, budget=budget), pair, little, big, labels)
        np.testing.assert_allclose(share, 0.3, rtol=1e-6)
        bounds = np.linspace(-10, 10, 200_001)
        sent = np.asarray([expit((bound - logit(score)) / 0.7).mean() for bound in bounds[::100]])
        bound = np.interp(0.3, sent, bounds[::100])
        onward = expit((bound - logit(score)) / 0.7)
        np.testing.assert_allclose(found, ((1 - onward) * wrong[0] + onward * wrong[1]).mean(), rtol=1e-4)
        # A score of 0 or 1 is not infinitely sure.
        certain = bilevel.dynamic_loss(routing_of(tables, score="margin"), pair, 100 * little, 0 * big, labels)
        assert np.isfinite(certain).all()


def test_the_gradient_knows_that_the_bound_follows_scores_and_costs(tables, micro):
    space, generator = PairSpace(micro.space), np.random.default_rng(1)
    choices = relaxed.allowed(space)
    with jax.enable_x64(True):
        little, big = jnp.asarray(2 * generator.normal(size=(2, 20, 3)))
        labels = jnp.asarray(generator.integers(0, 3, 20))
        logits = jnp.asarray(generator.normal(size=choices.shape))
        first, second = routing_of(tables).tables.of(relaxed.chances(space, logits, choices, 1.0))
        routing = routing_of(tables, budget=float(first + 0.4 * second))

        @jax.jit
        def loss(logits, little):
            return bilevel.dynamic_loss(routing, relaxed.chances(space, logits, choices, 1.0), little, big, labels)[0]

        gradients = jax.grad(loss, argnums=(0, 1))(logits, little)
        assert np.abs(gradients[0]).max() > 1e-3
        for which, gradient in enumerate(gradients):
            direction = generator.normal(size=gradient.shape)
            ends = []
            for step in (1e-4, -1e-4):
                moved = [logits, little]
                moved[which] = moved[which] + step * direction
                ends.append(loss(*moved))
            np.testing.assert_allclose((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-4, rtol=1e-4)


def test_average_cost(tables, micro, problem):
    space = PairSpace(micro.space)
    pair = np.asarray(space.sample(KEY))
    little, big = (tables["table"].exact(half) for half in space.halves(pair))
    onward = big - tables["stem"].exact(space.halves(pair).big)
    whole = relaxed.one_hot(space, pair)
    for budget in (little * 0.9, little + 0.5 * onward, little + 2.0 * onward):
        cost = problem(micro, budget=budget).cost(whole, jnp.float32(0.1))
        np.testing.assert_allclose(cost, min(max(budget, little), little + onward), rtol=1e-6)
        cost = problem(micro, budget=budget, threshold=0.5).cost(whole, jnp.float32(0.1))
        np.testing.assert_allclose(cost, little + 0.1 * onward, rtol=1e-6)


@pytest.mark.parametrize("kind", ["coupled", "ordinary"])
def test_weights_learn_both_nets_and_each_its_head(micro, pairs, problem, variables, split, kind):
    """A step of plain gradient descent on a discrete pair, against the same step of the two nets sliced."""
    supernet = pairs if kind == "coupled" else micro
    space = PairSpace(supernet.space)
    pair = np.concatenate([space.space.smallest, np.asarray(space.space.sample(KEY))])
    made = problem(supernet, optimizer=optax.sgd(1.0))
    start, given = made.fitness.start, made.fitness.given
    moved = jax.jit(made.fitness.learn)(given, start, relaxed.one_hot(space, pair), KEY)
    pick_key = jax.random.split(KEY)[0]
    images, labels = bilevel._batch(pick_key, given["train"], BATCH)

    def loss(params):
        own, total = {"params": params, "batch_stats": given["batch_stats"]}, 0.0
        as_little = coupled.as_little(own) if supernet.coupling else own
        for which, half in zip((as_little, own), space.halves(pair), strict=True):
            net, cut = extract(supernet, which, half)
            logits = net.apply(cut, images, True, mutable=["batch_stats"])[0][0]
            total -= jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()
        return total

    gradient = jax.jit(jax.grad(loss))(start["params"])
    found = jax.tree.map(lambda old, new: old - new, start["params"], moved["params"])
    found = dict(jax.tree_util.tree_leaves_with_path(found))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        atol = 2e-3 * max(0.01, np.abs(leaf).max())
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=atol, err_msg=str(path))
    heads = [("head",)] + ([(coupled.PLACE, "head")] if supernet.coupling else [])
    for head in heads:
        kernel = functools.reduce(dict.get, head, gradient)["classifier"]["kernel"]
        assert np.abs(kernel).max() > 1e-4


def test_a_batch_has_no_image_twice(problem, micro, split):
    given = problem(micro).fitness.given
    marked = jnp.arange(len(split))
    (picked, _), (other, _) = (bilevel._batch(jax.random.key(n), (marked, given["holdout"][1]), BATCH) for n in (0, 1))
    assert len(set(picked.tolist())) == BATCH
    assert set(picked.tolist()) != set(other.tolist())


def test_images_are_counted_as_they_are_forwarded(micro, problem):
    """By the MACs of one call, over those of the largest net for one image."""
    made = problem(micro, optimizer=optax.sgd(0.1))
    pair, (fitness, _) = a_pair(PairSpace(micro.space)), made
    one = macs.net_cost(micro.largest_net(), (8, 8, 1))[0]
    spent = macs.macs(lambda *args: fitness.value(*args)[0], fitness.given, fitness.start, pair, KEY)
    # The masks' sums of chances are products too; they are few.
    assert spent / one == pytest.approx(fitness.images[0], rel=0.02)
    assert fitness.images == (2 * BATCH, 2 * BATCH)
    assert problem(micro).fitness.images == (2 * BATCH, 0)
    assert problem(micro).fitness.learn is None


@pytest.mark.parametrize("kind", ["coupled", "ordinary"])
def test_a_search_of_pairs_learns_and_keeps_the_budget(micro, pairs, problem, tables, kind):
    supernet = pairs if kind == "coupled" else micro
    space = PairSpace(supernet.space)
    ends = [tables["table"].exact(genome) for genome in (space.space.smallest, space.space.largest)]
    budget = 0.5 * (ends[0] + ends[1])
    made = problem(supernet, budget=budget, optimizer=optax.sgd(0.05, 0.9))
    search = functools.partial(differentiable.run, steps=30, learning_rate=0.2, steps_per_call=10)
    found = search(KEY, space, *made, budget)
    assert found.feasible
    assert found.cost <= np.float32(budget)
    assert found.history[-5:].mean() > found.history[:5].mean() + 0.1
    space.check(np.asarray(found.genome))
    again = search(KEY, space, *made, budget)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_refused(problem, micro):
    for options, said in (
        ({"score": "luck"}, "score is 'luck'"),
        ({"budget": 0.0}, "budget is 0.0, must be above 0"),
        ({"softness": 0.0}, "softness is 0.0, must be above 0"),
        ({"threshold": 1.5}, "threshold is 1.5, must be a number from 0 to 1"),
        ({"batch_size": 41}, "40 held-out images do not fill one batch of 41"),
    ):
        with pytest.raises(ValueError, match=said):
            problem(micro, **options)
