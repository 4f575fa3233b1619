"""The thresholds of a network of S exits that are best by the reward of `metric`, from scores and hits on held-out images.

Exact for up to three exits: a coarse grid over the distinct thresholds, bounds on what each of its cells can hold, the cells that
could beat the best one seen taken apart, and every point of the parts that still could. Of more by coordinate descent, each
coordinate exact.
The paper (ENAS4D, arXiv 2009.09182) searches a grid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynnas_jax.dynamic import metric, thresholds

NODES = 200  # of the coarse grid, along each threshold
STEPS = (8, 1)  # thresholds of the second exit in a part of a cell, and in a part of that
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
            best, chosen = _row_of_cells(images, grid.nodes, int(row), columns, (best, chosen))
    return chosen


class _Span(NamedTuple):
    """Thresholds of the second exit in cells: of each the first, and how many there are."""

    first: np.ndarray  # int64[n], ascending
    count: np.ndarray  # int64[n]

    def every(self, step: int) -> _Span:
        """Cells of at most so many thresholds in the place of each."""
        parts = -(-self.count // step)
        own = np.arange(parts.sum()) - np.repeat(parts.cumsum() - parts, parts)
        first = np.repeat(self.first, parts) + step * own
        return _Span(first, np.minimum(np.repeat(self.first + self.count, parts) - first, step))


def _row_of_cells(
    images: _Images, nodes: tuple, row: int, columns: np.ndarray, found: tuple[float, tuple[int, int]]
) -> tuple[float, tuple[int, int]]:
    """The better of what was found before, (reward, thresholds), and every point of some cells of a row of the grid.

    The thresholds of the first exit are taken one by one, those of the second in ever smaller cells, where these could be better.
    """
    rows = np.arange(*_ends(nodes[0], np.asarray(row)))
    first, end = _ends(nodes[1], columns)
    strip, span = _strip(images, rows), _Span(first, end - first)
    for step in STEPS:
        span = span.every(step)
        right, spent = strip.at(images, span.first)
        reward = images.reward(right, spent)
        place = np.unravel_index(reward.argmax(), reward.shape)
        if reward[place] > found[0]:
            found = float(reward[place]), (int(rows[place[0]]), int(span.first[place[1]]))
        gain = strip.may_gain[span.first + span.count - 1] - strip.may_gain[span.first]
        better = (images.reward(right + gain, spent) > found[0]).any(axis=0) & (span.count > 1)
        if not better.any():
            break
        span = _Span(span.first[better], span.count[better])
    return found


class _Strip(NamedTuple):
    """Some neighbouring thresholds of the first exit, and what is known at every one of the second."""

    moving: np.ndarray  # int64[n], images that leave the first exit within these
    place: np.ndarray  # int64[n], at which of them
    right: np.ndarray  # int64[rows, 1], answered rightly by the first two exits if the third answered none
    spent: np.ndarray  # float64[rows, 1]
    gained: np.ndarray  # int64[thresholds], by the third answering those of its images that reach it at all of these
    last: np.ndarray  # int64[thresholds], how many these are
    may_gain: np.ndarray  # int64[thresholds], how many are right at the third and wrong at the second, and may reach it

    def at(self, images: _Images, wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(right int64[rows, n], spent float64[rows, n]) at some thresholds of the second exit, ascending."""
        place = np.searchsorted(wide, images.levels[1].level[self.moving], side="right")
        inside = place < len(wide)
        moving, gained = self.moving[inside], images.correct[:, 2] - images.correct[:, 1]
        flat, shape = self.place[inside] * len(wide) + place[inside], (len(self.right), len(wide))
        cells = (np.bincount(flat, weights, shape[0] * shape[1]) for weights in (None, gained[moving]))
        last, right = (cell.astype(np.int32).reshape(shape).cumsum(axis=0).cumsum(axis=1) for cell in cells)
        spent = (last + self.last[wide]) * (images.cost[2] - images.cost[1])
        return right + self.gained[wide] + self.right, spent + self.spent


def _strip(images: _Images, rows: np.ndarray) -> _Strip:
    one, two = images.levels
    first, second, third = images.correct.T
    gained = third - second
    stays = one.level < rows[0]
    moving = np.flatnonzero(
        (one.level >= rows[0]) & (one.level < rows[-1])
    )  # from the first exit on, within these rows
    place = one.level[moving] - rows[0] + 1
    moved, count = (np.bincount(place, weights, len(rows)).cumsum() for weights in ((second - first)[moving], None))
    right = first[~stays].sum() + second[stays].sum() + moved.astype(np.int64)
    spent = len(first) * images.cost[0] + (stays.sum() + count) * (images.cost[1] - images.cost[0])
    may_gain = two.below((gained > 0) & (one.level < rows[-1]))
    return _Strip(moving, place, right[:, None], spent[:, None], two.below(stays * gained), two.below(stays), may_gain)


def _ends(nodes: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first threshold of cells, and the one behind their last."""
    behind = np.append(nodes[1:], nodes[-1] + 1)
    return nodes[places], behind[places]
