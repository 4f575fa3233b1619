"""The architecture generator: subnets for a set of superclasses and a budget, in one forward pass (EAS, arXiv 2108.01224, 3.2).

Learned embeddings of superclasses and of budgets go into an LSTM, one step for each place of the space that has genes, and dense
heads, one for each kind of gene (depth, expansion, kernel), say how likely its choices are. On single paths a larger choice
contains the smaller ones: choice k stands where its first k binary gates are open, so that a gene of n choices has n - 1 gates.
Open gates form relaxed genomes (`dynnas_jax.relaxed`), which own masks and costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax.search import differentiable
from dynnas_jax.search.evolution import BELOW
from dynnas_jax.search_space import SearchSpace

SAMPLES = 20  # of a scenario
WITHIN = 0.03  # of a budget: how little of it a subnet should leave
PATHS = ("single", "multi")
_NEVER = -1e9  # log-odds of a gate, or logit of a choice, that a gene does not have


class Shape(NamedTuple):
    """What a generator is made for; hashable."""

    superclasses: int
    genes: tuple[tuple[int, str, int], ...]  # (step of the LSTM, kind, choices) of every gene
    paths: str = PATHS[0]
    budgets: int = 10
    embedding: int = 32
    units: int = 64

    @property
    def steps(self) -> int:
        """Of the LSTM."""
        return 1 + max(step for step, _, _ in self.genes)

    @property
    def most(self) -> int:
        """Choices of the gene that has most."""
        return max(size for _, _, size in self.genes)

    @property
    def outputs(self) -> np.ndarray:
        """bool[genes, most - 1 or most]: the gates, or on multiple paths the choices, that genes have."""
        fewer = 1 if self.paths == "single" else 0
        sizes = np.asarray([size for _, _, size in self.genes]) - fewer
        return np.arange(self.most - fewer) < sizes[:, None]


def shape_of(
    space: SearchSpace,
    superclasses: int,
    *,
    paths: str = PATHS[0],
    budget_embeddings: int = 10,
    embedding: int = 32,
    units: int = 64,
) -> Shape:
    """The generator of a space.

    Args:
      superclasses: how many have an embedding.
      paths: "single", gates that contain each other; or "multi", one chance for every choice of a gene.
      budget_embeddings: budgets with an embedding of their own, evenly spaced; others lie between two.
      embedding: length of every embedding; units: of the LSTM.

    Raises:
      ValueError: for a space with resolutions, whose subnets no one program runs, unknown paths, or a number out of range.
    """
    if "resolution" in space:
        raise ValueError("generator: the space has several resolutions, which masks cannot relax; give it one")
    if paths not in PATHS:
        raise ValueError(f"generator.paths is {paths!r}, choose from {list(PATHS)}")
    for name, value, least in (
        ("budget_embeddings", budget_embeddings, 2),
        ("embedding", embedding, 1),
        ("units", units, 1),
    ):
        if value < least:
            raise ValueError(f"generator.{name} is {value}, must be at least {least}")
    places = [gene.name.rpartition(".")[0] for gene in space.genes]
    order = list(dict.fromkeys(places))
    kinds = [gene.name.rpartition(".")[2] for gene in space.genes]
    genes = tuple((order.index(p), k, n) for p, k, n in zip(places, kinds, space.sizes, strict=True))
    return Shape(superclasses, genes, paths, budget_embeddings, embedding, units)


class Generator(nn.Module):
    """(members float32[M, T], budgets float32[M] in [0, 1]) -> float32[M, genes, outputs]: log-odds of gates, logits of choices.

    A budget is told as its place in the range that the generator is for; a set's embedding is the mean over its superclasses.
    """

    shape: Shape

    @nn.compact
    def __call__(self, members: jax.Array, budgets: jax.Array) -> jax.Array:
        shape = self.shape
        normal = nn.initializers.normal(1.0)
        superclasses = self.param("superclasses", normal, (shape.superclasses, shape.embedding))
        budget_table = self.param("budgets", normal, (shape.budgets, shape.embedding))
        places = self.param("places", normal, (shape.steps, shape.embedding))  # tells the LSTM's steps apart
        share = members / members.sum(axis=-1, keepdims=True)
        at = jnp.clip(budgets, 0, 1)[:, None] * (shape.budgets - 1)
        # Between two neighbours: hat functions are linear interpolation.
        near = jnp.maximum(1 - jnp.abs(at - jnp.arange(shape.budgets, dtype=at.dtype)[None]), 0)
        scenario = jnp.concatenate([share @ superclasses, near @ budget_table], axis=-1)
        size = (len(members), shape.steps)
        inputs = jnp.concatenate(
            [
                jnp.broadcast_to(scenario[:, None], (*size, scenario.shape[-1])),
                jnp.broadcast_to(places[None], (*size, shape.embedding)),
            ],
            axis=-1,
        )
        hidden = nn.RNN(nn.OptimizedLSTMCell(shape.units))(inputs)
        width = shape.outputs.shape[1]
        heads = {kind: nn.Dense(width, name=f"head_{kind}")(hidden) for kind in sorted({g[1] for g in shape.genes})}
        rows = jnp.stack([heads[kind][:, step] for step, kind, _ in shape.genes], axis=1)
        return jnp.where(jnp.asarray(shape.outputs)[None], rows, jnp.asarray(_NEVER, rows.dtype))


def relaxed_genome(shape: Shape, logits: jax.Array, key: jax.Array, temperature: float) -> jax.Array:
    """A drawn genome as float[genes, most], one-hot, with the gradient of its relaxation in logits[genes, outputs].

    Equations 7 to 10: Gumbel noise, a sigmoid (on multiple paths a softmax) of the temperature, and a straight-through gradient.
    """
    if shape.paths == "multi":
        noisy = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
        soft = jax.nn.softmax(noisy / temperature, axis=-1)
        hard = jax.nn.one_hot(noisy.argmax(axis=-1), shape.most, dtype=logits.dtype)
        return hard + soft - jax.lax.stop_gradient(soft)
    noise = jax.random.logistic(key, logits.shape, logits.dtype)
    soft = jax.nn.sigmoid((logits + noise) / temperature)
    hard = (soft > 0.5).astype(logits.dtype)
    gates = hard + soft - jax.lax.stop_gradient(soft)
    return nested(gates)


def nested(gates: jax.Array) -> jax.Array:
    """float[genes, n]: the chance of each choice, from gates [genes, n - 1]; each counts where those before it are open."""
    reached = jnp.cumprod(gates, axis=-1)
    one, zero = jnp.ones_like(gates[:, :1]), jnp.zeros_like(gates[:, :1])
    return jnp.concatenate([one, reached], axis=-1) - jnp.concatenate([reached, zero], axis=-1)


def log_chances(shape: Shape, logits: jax.Array) -> jax.Array:
    """float[genes, most]: the log-chance of every choice, -inf for one that a gene does not have."""
    exists = np.arange(shape.most) < np.asarray([size for _, _, size in shape.genes])[:, None]
    if shape.paths == "multi":
        found = jax.nn.log_softmax(logits, axis=-1)
    else:
        zero = jnp.zeros_like(logits[:, :1])
        reached = jnp.concatenate([zero, jnp.cumsum(jax.nn.log_sigmoid(logits), axis=-1)], axis=-1)
        closed = jnp.concatenate([jax.nn.log_sigmoid(-logits), zero], axis=-1)
        found = reached + closed
    return jnp.where(jnp.asarray(exists), found, -jnp.inf)


class Answered(NamedTuple):
    """Subnets for M scenarios, n samples each, as drawn; and the one taken."""

    genome: jax.Array  # int32[M, n, genes], canonical
    cost: jax.Array  # float32[M, n]
    log_likelihood: jax.Array  # float32[M, n], of the genes that count
    feasible: jax.Array  # bool[M, n], within the budget
    chosen: jax.Array  # int32[M, genes]
    chosen_cost: jax.Array  # float32[M]
    repaired: jax.Array  # bool[M]: no sample is feasible; the likeliest subnet was cut down instead


def answerer(
    shape: Shape, space: SearchSpace, cost: Callable, ends: tuple[float, float], samples: int = SAMPLES
) -> Callable:
    """answer(params, members bool[M, T], budgets float32[M], key) -> `Answered`, one compiled program for each M.

    Chosen is the likeliest of the samples that leave at most `WITHIN` of the budget; where there is none, the dearest within it.
    Where no sample of a scenario keeps its budget, the likeliest subnet is lowered choice by choice until it does
    (`differentiable.repaired`): what is chosen is above the budget only where every subnet is. What is left of the budget in
    the end is spent (`filled`).

    Args:
      cost: genome -> float32, in the unit of the budgets; ends: the range of budgets that the generator is for.
    """

    @jax.jit
    def answer(params: dict, members: jax.Array, budgets: jax.Array, key: jax.Array) -> Answered:
        budgets = jnp.asarray(budgets, jnp.float32)
        place = (budgets - ends[0]) / (ends[1] - ends[0])
        logits = Generator(shape).apply({"params": params}, jnp.asarray(members, jnp.float32), place)
        chances = jax.vmap(lambda own: log_chances(shape, own))(logits)
        noise = jax.random.gumbel(key, (len(budgets), samples, *chances.shape[1:]))
        drawn = (chances[:, None] + noise).argmax(axis=-1).astype(jnp.int32)
        genomes = jax.vmap(jax.vmap(space.canonical))(drawn)
        price, limit = cost(genomes), budgets * BELOW
        likelihood = jax.vmap(jax.vmap(lambda g, c: _log_likelihood(space, g, c), (0, None)))(genomes, chances)
        feasible = price <= limit[:, None]
        best = _rank(price, likelihood, feasible, budgets).argmax(axis=1)
        taken = jnp.take_along_axis(genomes, best[:, None, None], axis=1)[:, 0]
        failed = ~feasible.any(axis=1)

        def cut(taken):
            likeliest = chances.argmax(axis=-1).astype(jnp.int32)
            one = lambda g, c, b: differentiable.repaired(space, g, c, cost, b)  # noqa: E731
            lowered = jax.vmap(space.canonical)(jax.vmap(one)(likeliest, chances, limit))
            return jnp.where(failed[:, None], lowered, taken)

        taken = jax.lax.cond(failed.any(), cut, lambda taken: taken, taken)
        taken = jax.vmap(lambda g, c, b: filled(space, g, c, cost, b))(taken, chances, limit)
        return Answered(genomes, price, likelihood, feasible, taken, cost(taken), failed)

    return answer


def _rank(price: jax.Array, likelihood: jax.Array, feasible: jax.Array, budgets: jax.Array) -> jax.Array:
    """float32[M, n]: of samples that leave at most `WITHIN` of their budget the likelihood, else the cost; -inf for others."""
    near = feasible & (price >= (1 - WITHIN) * budgets[:, None])
    return jnp.where(
        near.any(axis=1, keepdims=True),
        jnp.where(near, likelihood, -jnp.inf),
        jnp.where(feasible, price, -jnp.inf),
    )


def filled(
    space: SearchSpace, genome: jax.Array, log_chances: jax.Array, cost: Callable, budget: jax.Array
) -> jax.Array:
    """int32[genes]: a canonical genome raised, one choice at a time, until no raise that costs anything keeps the budget.

    Raised is the gene whose next choice is the likeliest beside the one that it has.

    Args:
      log_chances: float[genes, most]; cost: genomes int32[n, genes] -> float32[n]; budget: float32[].
    """
    genes, last = jnp.arange(len(space.sizes)), jnp.asarray(space.sizes, jnp.int32) - 1

    def further(state):
        genome, price, _ = state
        above = jnp.minimum(genome + 1, last)
        raised = jax.vmap(lambda gene: space.canonical(genome.at[gene].set(above[gene])))(genes)
        prices = cost(raised)
        fits = (prices > price) & (prices <= budget)
        gain = log_chances[genes, above] - log_chances[genes, genome]
        best = jnp.where(fits, gain, -jnp.inf).argmax()
        kept = fits.any()
        return jnp.where(kept, raised[best], genome), jnp.where(kept, prices[best], price), kept

    return jax.lax.while_loop(lambda state: state[2], further, (genome, cost(genome), jnp.asarray(True)))[0]


def _log_likelihood(space: SearchSpace, genome: jax.Array, chances: jax.Array) -> jax.Array:
    """float32[]: how likely a canonical genome is, by log-chances [genes, most]; genes of skipped blocks do not count."""
    rows = np.repeat(np.arange(len(space.sizes)), space.sizes)
    places = np.concatenate([np.arange(size) for size in space.sizes])
    counted = space.encode(genome)
    return jnp.where(counted > 0, chances[rows, places], 0.0).sum()


def check_budget(budget: float, smallest: float, largest: float, unit: str) -> None:
    """Raises ValueError for a budget that no subnet keeps, or that is beyond all of them."""
    if not budget >= smallest:
        raise ValueError(
            f"no subnet of this space is that cheap: {budget:g} {unit} asked, the smallest takes {smallest:g}"
        )
    if not budget <= largest:
        raise ValueError(f"a budget of {budget:g} {unit} is outside the space: its largest subnet takes {largest:g}")


def init(shape: Shape, key: jax.Array) -> dict:
    """Fresh params of a generator."""
    members = jnp.ones((1, shape.superclasses), jnp.float32)
    return Generator(shape).init(key, members, jnp.zeros((1,), jnp.float32))["params"]


def as_json(shape: Shape) -> dict[str, Any]:
    """What `generator.json` says of a shape."""
    return {**shape._asdict(), "genes": [list(gene) for gene in shape.genes]}


def from_json(told: dict) -> Shape:
    """The shape of what `as_json` wrote."""
    return Shape(**{**told, "genes": tuple(tuple(gene) for gene in told["genes"])})
