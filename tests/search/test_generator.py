"""The generator's gates, chances and answers, against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax import relaxed
from dynnas_jax.costs import macs
from dynnas_jax.search import evolution, generator
from dynnas_jax.search_space import Gene, SearchSpace

SUPERCLASSES = 3


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_programs):
    with quick_programs():
        yield


@pytest.fixture(scope="module", params=generator.PATHS)
def shape(request, tiny):
    return generator.shape_of(tiny.supernet.space, SUPERCLASSES, paths=request.param, embedding=4, units=8)


@pytest.fixture(scope="module")
def params(shape):
    return generator.init(shape, jax.random.key(0))


def logits_of(shape, params, members, budgets):
    return generator.Generator(shape).apply(
        {"params": params}, jnp.asarray(members, jnp.float32), jnp.asarray(budgets, jnp.float32)
    )


def test_gates_contain_each_other():
    """Choice k stands exactly where the first k gates are open and the next is closed."""
    for gates in itertools.product((0.0, 1.0), repeat=3):
        expected = [0.0] * 4
        expected[next((i for i, gate in enumerate(gates) if not gate), 3)] = 1.0
        assert generator.nested(jnp.asarray([gates]))[0].tolist() == expected
    chances = np.asarray([[0.2, 0.7, 0.4]])
    expected = [0.8, 0.2 * 0.3, 0.2 * 0.7 * 0.6, 0.2 * 0.7 * 0.4]
    np.testing.assert_allclose(generator.nested(jnp.asarray(chances))[0], expected, rtol=1e-6)


def test_log_chances_are_those_that_draws_have(shape, params, tiny):
    logits = logits_of(shape, params, np.eye(3)[:1], [0.4])[0]
    chances = np.exp(np.asarray(generator.log_chances(shape, logits), np.float64))
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jax.jit(jax.vmap(lambda key: generator.relaxed_genome(shape, logits, key, 1.0)))(keys)
    np.testing.assert_allclose(np.asarray(drawn).mean(axis=0), chances, atol=0.04)
    exists = np.arange(shape.most) < np.asarray(tiny.supernet.space.sizes)[:, None]
    assert (chances[~exists] == 0).all()


def test_what_is_drawn_is_one_hot_and_has_its_relaxations_gradient(shape, params):
    logits, key = logits_of(shape, params, np.eye(3)[:1], [0.4])[0], jax.random.key(2)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(len(shape.genes), shape.most)), jnp.float32)
    drawn = generator.relaxed_genome(shape, logits, key, 0.7)
    assert set(np.unique(np.asarray(drawn).round(6)).tolist()) <= {0.0, 1.0}
    found = jax.grad(lambda x: (weights * generator.relaxed_genome(shape, x, key, 0.7)).sum())(logits)
    live = np.asarray(shape.outputs)
    assert (np.asarray(found)[~live] == 0).all()
    if shape.paths == "multi":
        noise = jax.random.gumbel(key, logits.shape, logits.dtype)
        expected = jax.grad(lambda x: (weights * jax.nn.softmax((x + noise) / 0.7, axis=-1)).sum())(logits)
    else:  # the hard gates at which the products are, the slope of the soft ones
        noise = jax.random.logistic(key, logits.shape, logits.dtype)
        soft = jax.nn.sigmoid((logits + noise) / 0.7)
        through = jax.grad(lambda gates: (weights * generator.nested(gates)).sum())((soft > 0.5).astype(jnp.float32))
        expected = through * soft * (1 - soft) / 0.7
    np.testing.assert_allclose(np.asarray(found)[live], np.asarray(expected)[live], atol=1e-5)


def test_the_cost_of_what_is_drawn_is_its_genomes(shape, params, tiny):
    """Equations 5 and 6, depth and all: by the relaxed cost, and by the table of genomes."""
    table = macs.table(tiny.supernet)
    logits = logits_of(shape, params, np.eye(3)[:1], [0.4])[0]
    for number in range(5):
        drawn = generator.relaxed_genome(shape, logits, jax.random.key(number), 1.0)
        genome = np.asarray(drawn).argmax(axis=1)
        assert float(relaxed.expected_cost(table, drawn)) == pytest.approx(table.exact(genome), rel=1e-5)


def test_a_set_is_told_by_the_mean_and_a_budget_between_two(shape, params):
    """The scenario is linear in what is told: a budget half-way is the mean of its two neighbours' embeddings."""
    between = 2.5 / (shape.budgets - 1)
    own = jax.grad(lambda p: logits_of(shape, p, [[1, 0, 1]], [between])[0].sum())(params)
    touched = [
        np.flatnonzero(np.abs(np.asarray(own[name])).sum(axis=1)).tolist() for name in ("superclasses", "budgets")
    ]
    assert touched == [[0, 2], [2, 3]]
    np.testing.assert_allclose(own["budgets"][2], own["budgets"][3], rtol=1e-4)
    np.testing.assert_allclose(own["superclasses"][0], own["superclasses"][2], rtol=1e-4)
    middle = {**params, "budgets": params["budgets"].at[7].set(params["budgets"][2:4].mean(axis=0))}
    same = [logits_of(shape, middle, [[0, 1, 0]], [place])[0] for place in (between, 7 / (shape.budgets - 1))]
    np.testing.assert_allclose(*same, atol=1e-5)


def raised(space, table, genome, chances, budget):
    """One choice at a time, the likeliest beside the one that a gene has, while the budget is kept."""
    genome = np.asarray(genome)
    while True:
        options = []
        for gene, size in enumerate(space.sizes):
            if genome[gene] + 1 < size:
                above = genome.copy()
                above[gene] += 1
                above = np.asarray(space.canonical(above))
                if table.exact(genome) < table.exact(above) <= budget:
                    gain = chances[gene, genome[gene] + 1] - chances[gene, genome[gene]]
                    options.append((gain, above.tolist()))
        if not options:
            return genome.tolist()
        genome = np.asarray(max(options)[1])


@pytest.fixture(scope="module")
def answered(shape, params, tiny):
    """(budgets, answers) of scenarios from the smallest subnet's cost to beyond the largest's."""
    space, table = tiny.supernet.space, macs.table(tiny.supernet)
    ends = tuple(float(table.exact(genome)) for genome in (space.smallest, space.largest))
    answer = generator.answerer(shape, space, table, ends, samples=12)
    budgets = np.linspace(ends[0] * 1.001, ends[1], 9, dtype=np.float32)
    members = np.eye(3, dtype=bool)[np.arange(9) % 3]
    return budgets, jax.device_get(answer(params, members, budgets, jax.random.key(5)))


def test_the_likeliest_sample_that_spends_the_budget_is_taken(answered, shape, params, tiny):
    budgets, found = answered
    space, table = tiny.supernet.space, macs.table(tiny.supernet)
    least, most = (float(table.exact(genome)) for genome in (space.smallest, space.largest))
    logits = logits_of(shape, params, np.eye(3)[np.arange(9) % 3], (budgets - least) / (most - least))
    for row, budget in enumerate(budgets):
        chances = np.asarray(generator.log_chances(shape, logits[row]), np.float64)
        counts = [np.asarray(space.encode(genome)) for genome in found.genome[row]]
        likelihood = []
        for genome, code in zip(found.genome[row], counts, strict=True):
            ends = np.cumsum(space.sizes)
            live = [code[end - size : end].any() for size, end in zip(space.sizes, ends, strict=True)]
            likelihood.append(sum(chances[g, c] for g, (c, on) in enumerate(zip(genome, live, strict=True)) if on))
        np.testing.assert_allclose(found.log_likelihood[row], likelihood, rtol=1e-3, atol=1e-4)
        cost = np.asarray([table.exact(genome) for genome in found.genome[row]])
        np.testing.assert_array_equal(found.feasible[row], cost <= budget * evolution.BELOW)
        if found.feasible[row].any():
            near = found.feasible[row] & (cost >= 0.97 * budget)
            best = np.where(near, likelihood, -np.inf) if near.any() else np.where(found.feasible[row], cost, 0)
            expected = raised(space, table, found.genome[row, best.argmax()], chances, budget * evolution.BELOW)
            assert found.chosen[row].tolist() == expected
        assert found.repaired[row] == (not found.feasible[row].any())


def test_no_answer_is_above_its_budget(answered, tiny):
    budgets, found = answered
    assert found.repaired.any(), "a scenario whose samples are all above the budget is among them"
    for genome, budget in zip(found.chosen, budgets, strict=True):
        assert macs.table(tiny.supernet).exact(genome) <= budget
        unlikely, below = np.zeros((len(genome), 9)), budget * evolution.BELOW
        assert raised(tiny.supernet.space, macs.table(tiny.supernet), genome, unlikely, below) == genome.tolist()


def test_budgets_outside_the_space():
    generator.check_budget(10.0, 10, 20, "MACs")
    generator.check_budget(20.0, 10, 20, "MACs")
    with pytest.raises(ValueError, match="no subnet of this space is that cheap: 9 MACs asked, the smallest takes 10"):
        generator.check_budget(9, 10, 20, "MACs")
    with pytest.raises(ValueError, match="21 MACs is outside the space: its largest subnet takes 20"):
        generator.check_budget(21, 10, 20, "MACs")


def test_a_shape_comes_back_from_its_file(shape):
    assert generator.from_json(generator.as_json(shape)) == shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": "many"}, "generator.paths is 'many'"),
        ({"budget_embeddings": 1}, "budget_embeddings is 1, must be at least 2"),
        ({"units": 0}, "units is 0"),
    ],
)
def test_what_is_refused(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        generator.shape_of(tiny.supernet.space, 2, **options)


def test_resolutions_cannot_be_generated():
    space = SearchSpace((Gene("resolution", (8, 16)), Gene("stage1.depth", (1, 2))))
    with pytest.raises(ValueError, match="several resolutions"):
        generator.shape_of(space, 2)
