"""The thresholds of a network of S exits that are best by the reward of `metric`, from scores and hits on held-out images.

Exact for up to three exits: a coarse grid over the distinct thresholds, bounds on what each of its cells can hold, and every
point of the cells that could beat the best one seen. Of more by coordinate descent, each coordinate exact.
The paper (ENAS4D, arXiv 2009.09182) searches a grid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynnas_jax.dynamic import metric, thresholds

NODES = 200  # of the coarse grid, along each threshold
RESTARTS = 8  # of the coordinate descent


class _Images(NamedTuple):
    """What the exits do on m images; threshold i of exit s lets those images exit whose level is at least i."""

    levels: tuple[thresholds.Levels, ...]  # [S - 1]
    correct: np.ndarray  # int64[m, S]
    cost: np.ndarray  # float64[S], cumulative
    target: float
    omega: float

    def reward(self, right: np.ndarray, spent: np.ndarray) -> np.ndarray:
        """R of so many images answered rightly and what all cost together."""
        images = len(self.correct)
        return metric.reward(right / images, spent / images, self.target, self.omega)


def best(
    score: np.ndarray,
    correct: np.ndarray,
    cost: np.ndarray,
    *,
    target: float,
    omega: float = metric.OMEGA,
    restarts: int = RESTARTS,
    seed: int = 0,
) -> thresholds.OperatingPoint:
    """The operating point with the largest reward; of equals for two exits the one that lets most images exit.

    Args:
      score: [m, S] in [0, 1], the last column is not looked at; correct: bool[m, S]; cost: [S], all that is spent when exit s
        answers, ascending.
      target, omega: of `metric.reward`.
      restarts, seed: of the coordinate descent, for more than three exits.

    Returns:
      The point; its cost may exceed the target, which the reward then has in it.

    Raises:
      ValueError: as `thresholds.evaluate`; for no exit, costs that descend, or a target or omega that is not above, or at
        least, 0.
    """
    score, correct, cost = thresholds.checked(score, correct, cost)
    exits = len(cost)
    if (np.diff(cost) < 0).any() or cost[0] <= 0:
        raise ValueError(f"cost {cost.tolist()}: what is spent up to each exit must be above 0 and must not fall")
    if not target > 0 or not omega >= 0:
        raise ValueError(f"target is {target}, omega is {omega}: the one must be above 0, the other at least 0")
    levels = tuple(thresholds.levels_of(score[:, exit]) for exit in range(exits - 1))
    images = _Images(levels, correct.astype(np.int64), cost, float(target), float(omega))
    if exits <= 2:
        chosen = tuple(_swept(images, (0,) * (exits - 1), exit)[0] for exit in range(exits - 1))
    else:
        chosen = _of_three(images) if exits == 3 else _descended(images, restarts, seed)
    found = [own.thresholds[index] for own, index in zip(levels, chosen, strict=True)]
    return thresholds.evaluate(score, correct, cost, found)


def _swept(images: _Images, chosen: tuple[int, ...], exit: int) -> tuple[int, float]:
    """(the best threshold of one exit where the others have theirs, its reward), by the sums over all of its levels."""
    rows, last = np.arange(len(images.correct)), len(images.cost) - 1
    leaves = np.stack([own.level >= index for own, index in zip(images.levels, chosen, strict=True)], axis=-1)
    reaches = ~leaves[:, :exit].any(axis=1)
    before = np.where(reaches, exit, leaves.argmax(axis=1))
    later = np.concatenate([leaves[:, exit + 1 :], np.ones((len(rows), 1), bool)], axis=1).argmax(axis=1) + exit + 1
    later = np.where(reaches, np.minimum(later, last), before)
    changes = images.correct[rows, later] - images.correct[rows, before]
    own = images.levels[exit]
    right = images.correct[rows, before].sum() + own.below(changes)
    spent = images.cost[before].sum()
    for choice in range(exit + 1, last + 1):
        spent = spent + own.below(reaches & (later == choice)) * (images.cost[choice] - images.cost[exit])
    reward = images.reward(right, spent)[own.first :]
    at = int(reward.argmax())
    return at + own.first, float(reward[at])


def _descended(images: _Images, restarts: int, seed: int) -> tuple[int, ...]:
    """Thresholds that no change of a single one makes better, the best of several starts."""
    generator = np.random.default_rng([seed, len(images.levels)])
    lowest = np.asarray([own.first for own in images.levels])
    counts = np.asarray([len(own.thresholds) - 1 for own in images.levels])
    starts = [tuple(counts), *(tuple(generator.integers(lowest, counts + 1)) for _ in range(restarts))]
    found = []
    for chosen in starts:
        reward, better = -np.inf, True
        while better:
            better = False
            for exit in range(len(chosen)):
                index, value = _swept(images, chosen, exit)
                if value > reward:
                    chosen, reward, better = (*chosen[:exit], index, *chosen[exit + 1 :]), value, True
        found.append((reward, chosen))
    return max(found, key=lambda one: one[0])[1]


class _Grid(NamedTuple):
    """Sums over the images at the nodes (i, j) of a coarse grid of two thresholds; a cell lies beyond its node."""

    nodes: tuple[np.ndarray, np.ndarray]  # int64[k] each, the last is the largest threshold
    right: np.ndarray  # int64[k, l]
    spent: np.ndarray  # float64[k, l]
    most_right: np.ndarray  # int64[k, l], no point of the cell has more
    last: np.ndarray  # int64[k, l], images that the last exit answers


def _grid(images: _Images, count: int) -> _Grid:
    """With i or j, an image goes from one exit to a later one: costs rise, and hits rise by those it misses now at most."""
    one, two = images.levels
    nodes = tuple(np.unique(np.linspace(own.first, len(own.thresholds) - 1, count).astype(int)) for own in (one, two))
    first, second, third = images.correct.T
    gained = third - second
    place = [np.searchsorted(at, own.level, side="right") for at, own in zip(nodes, (one, two), strict=True)]
    shape = tuple(len(at) for at in nodes)
    flat = np.ravel_multi_index(place, tuple(size + 1 for size in shape))

    def below(weights: np.ndarray) -> np.ndarray:
        sums = np.bincount(flat, weights, minlength=(shape[0] + 1) * (shape[1] + 1))
        return sums.reshape(shape[0] + 1, -1).cumsum(axis=0).cumsum(axis=1)[:-1, :-1].round().astype(np.int64)

    stays, ones = one.below(np.ones(len(first), np.int64))[nodes[0]], np.ones(len(first))
    last, may_gain = below(ones), below(gained > 0)
    moved = one.below(second - first)[nodes[0]]
    right = first.sum() + moved[:, None] + below(gained)
    spent = len(first) * images.cost[0] + stays[:, None] * (images.cost[1] - images.cost[0])
    spent = spent + last * (images.cost[2] - images.cost[1])
    rows = np.diff(one.below((first == 0) & ((second | third) == 1))[nodes[0]], append=0)
    rows[-1] = 0  # the cell of the last node is that node
    columns = np.diff(may_gain, axis=1, append=may_gain[:, -1:])
    return _Grid(nodes, right, spent, right + rows[:, None] + columns, last)


def _of_three(images: _Images, count: int = NODES) -> tuple[int, int]:
    grid = _grid(images, count)
    at_nodes = images.reward(grid.right, grid.spent)
    node = np.unravel_index(at_nodes.argmax(), at_nodes.shape)
    best, chosen = at_nodes[node], tuple(int(at[index]) for at, index in zip(grid.nodes, node, strict=True))
    bound = images.reward(grid.most_right, grid.spent)
    for row in np.argsort(-bound.max(axis=1), kind="stable"):
        columns = np.flatnonzero(bound[row] > best)
        if len(columns):
            best, chosen = _strip(images, grid.nodes, int(row), columns[[0, -1]], (best, chosen))
    return chosen


def _strip(
    images: _Images, nodes: tuple, row: int, columns: np.ndarray, before: tuple
) -> tuple[float, tuple[int, int]]:
    """The better of what was found before, (reward, thresholds), and every point of a row of cells, between two columns."""
    one, two = images.levels
    rows, wide = (
        _thresholds_of(own, at, *span)
        for own, at, span in zip(images.levels, nodes, ((row, row), columns), strict=True)
    )
    first, second, third = images.correct.T
    gained = third - second
    stays = one.level < rows[0]
    moving = np.flatnonzero(
        (one.level >= rows[0]) & (one.level < rows[-1])
    )  # from the first exit on, within these rows
    at = one.level[moving] - rows[0] + 1
    moved, count = (np.bincount(at, weights, len(rows)).cumsum() for weights in ((second - first)[moving], None))
    place = np.maximum(two.level[moving] + 1 - wide[0], 0)
    inside = place < len(wide)
    cells = [np.zeros((len(rows), len(wide)), np.int32) for _ in range(2)]
    for cell, weights in zip(cells, (1, gained[moving][inside]), strict=True):
        np.add.at(cell, (at[inside], place[inside]), weights)
        np.cumsum(np.cumsum(cell, axis=0, out=cell), axis=1, out=cell)
    right = cells[1] + (two.below(stays * gained)[wide] + first[~stays].sum() + second[stays].sum())
    right = right + moved[:, None]
    spent = (cells[0] + two.below(stays)[wide]) * (images.cost[2] - images.cost[1])
    spent += (len(first) * images.cost[0] + (stays.sum() + count) * (images.cost[1] - images.cost[0]))[:, None]
    reward = images.reward(right, spent)
    best = np.unravel_index(reward.argmax(), reward.shape)
    found = float(reward[best]), (int(rows[best[0]]), int(wide[best[1]]))
    return found if found[0] > before[0] else before


def _thresholds_of(levels: thresholds.Levels, nodes: np.ndarray, first: int, last: int) -> np.ndarray:
    """The thresholds of the cells from the first to the last."""
    return np.arange(nodes[first], nodes[last + 1] if last + 1 < len(nodes) else nodes[-1] + 1)
