"""A space of 81 pairs small enough to evaluate every one."""

import itertools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from dynnas_jax import devices
from dynnas_jax.costs import macs
from dynnas_jax.data.splits import Split
from dynnas_jax.dynamic import thresholds
from dynnas_jax.elastic import Supernet
from dynnas_jax.networks import big_little, coupled
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import collect, pair_fitness

IMAGES = 50


class PairProblem(NamedTuple):
    """Pairs of a supernet, evaluated one by one on the host."""

    supernet: Supernet
    variables: dict
    evaluate: collect.Evaluator
    table: pair_fitness.PairTable
    every: np.ndarray  # int32[81, 2 genes]
    score: np.ndarray  # float32[81, m, 2]
    correct: np.ndarray  # bool[81, m, 2]
    cost: np.ndarray  # [81, 2]

    def points(self, max_cost):
        """`thresholds.choose` of every pair."""
        rows = zip(self.score, self.correct, self.cost, strict=True)
        return [thresholds.choose(*row, max_cost=max_cost) for row in rows]

    def fitness(self, max_cost):
        """The traceable one."""
        return pair_fitness.of(self.evaluate, self.variables, self.table, max_cost)


@pytest.fixture(scope="session", params=["ordinary", "coupled"])
def pair_problem(request, small_space, noisy_variables, quick_programs):
    """On 50 images of noise, of which no two nets get the same right."""
    sizes = {"stem": 8, "stage_widths": (8, 8), "stage_strides": (1, 2), "head": 16, "widths": (1.0,), "divisor": 4}
    supernet = small_space(**sizes, depths=(1,), kernels=(3, 5), expands=(1, 2))
    variables = noisy_variables(supernet.largest_net(), (8, 8, 1))
    if request.param == "coupled":
        supernet = coupled.coupled(supernet)
        others = noisy_variables(supernet.largest_net(), (8, 8, 1), seed=5)
        variables = supernet.coupling.add(variables, others, jax.random.key(2))
    generator, space = np.random.default_rng(3), PairSpace(supernet.space)
    images = generator.integers(0, 256, (IMAGES + 8, 8, 8, 1), dtype=np.uint8)
    split = Split(images[8:], generator.integers(0, 3, IMAGES).astype(np.int32), np.arange(IMAGES))
    with quick_programs():
        evaluate = collect.Evaluator(supernet, images[:8], split, calibration_batch=4, mesh=devices.data_mesh(2))
        nets = np.asarray(list(itertools.product(*map(range, supernet.space.sizes))), np.int32)
        roles = collect.roles(supernet, variables)
        answers = [evaluate(role, nets) for role in (roles[0], roles[-1])]
    both = [(i, j) for i in range(len(nets)) for j in range(len(nets)) if (nets[i] <= nets[j]).all()]
    score, correct = (
        np.stack([np.stack([little[i], big[j]], axis=-1) for i, j in both])
        for little, big in zip(*answers, strict=True)
    )
    costs = np.asarray([big_little.cost(big_little.build(supernet, nets[i], nets[j])).cumulative for i, j in both])
    table = macs.table(supernet)
    stem = table.only(big_little.build(supernet, nets[0], nets[0]).stem)
    every = np.asarray([np.concatenate([nets[i], nets[j]]) for i, j in both])
    pair_table = pair_fitness.PairTable(space, table, stem)
    return PairProblem(supernet, variables, evaluate, pair_table, every, score, correct, costs)
