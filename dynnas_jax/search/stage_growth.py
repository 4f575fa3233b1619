"""Growing depth stage by stage (Jordao et al. 2020, algorithm 1): a stage deepens where its features gain by being deeper.

Each iteration compares the present net with a temporary one whose stages all have `growth` modules more; the stages whose
importance is higher in the temporary net keep them. n iterations train 2 n + 1 nets. What a net is, how it is trained and
scored, comes as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Depths = tuple[int, ...]  # modules of each stage
INITIAL, TEMPORARY, CANDIDATE = "initial", "temporary", "candidate"
UNIFORM = "uniform"  # a control of the same depth in every stage


class Iteration(NamedTuple):
    """What one iteration compared and decided."""

    initial: Depths
    temporary: Depths
    initial_scores: tuple[float, ...]  # of each stage
    temporary_scores: tuple[float, ...]
    grown: tuple[bool, ...]
    candidate: Depths


class Tried(NamedTuple):
    """One choice of the criterion's parameters: the candidate of the first iteration, and its worth."""

    option: Any
    candidate: Depths
    worth: float


class Found(NamedTuple):
    """What growing found; nets are whatever `train` returns."""

    option: Any  # the criterion's parameters, chosen once
    tried: tuple[Tried, ...]  # () where there was one choice only
    iterations: tuple[Iteration, ...]
    first: Any  # the initial net
    candidates: tuple[Any, ...]  # one of each iteration


def deepened(depths: Depths, growth: int) -> Depths:
    """Every stage deeper."""
    return tuple(depth + growth for depth in depths)


def decided(initial_scores: Sequence[float], temporary_scores: Sequence[float]) -> tuple[bool, ...]:
    """Whether each stage gains by being deeper: only a higher score does."""
    return tuple(after > before for before, after in zip(initial_scores, temporary_scores, strict=True))


def where(depths: Depths, growth: int, grown: Sequence[bool]) -> Depths:
    """The stages that have grown deeper, the others as they were."""
    return tuple(depth + growth * bool(grows) for depth, grows in zip(depths, grown, strict=True))


def run(
    initial: Depths,
    *,
    iterations: int,
    growth: int,
    train: Callable[[str, int, Depths], Any],
    score: Callable[[Any, Any], Sequence[float]],
    worth: Callable[[Any], float],
    options: Sequence[Any] = (None,),
) -> Found:
    """Algorithm 1, from `initial` modules per stage.

    With several `options` the first iteration is run with each: its two nets serve all, candidates alike are trained once, and
    the option of the best candidate (the first of equals) is used unchanged from then on.

    Args:
      train: (role, iteration, depths) -> a net; roles are those of this module, the initial net is of iteration 0.
      score: (net, option) -> the importance of each stage.
      worth: net -> its accuracy on images that it was not trained on.

    Raises:
      ValueError: as `check`.
    """
    check(initial, iterations=iterations, growth=growth)
    net, depths, option, tried = train(INITIAL, 0, tuple(initial)), tuple(initial), options[0], ()
    first, done, candidates = net, [], []
    for number in range(1, iterations + 1):
        temporary = train(TEMPORARY, number, deepened(depths, growth))
        compare = _comparing(net, temporary, depths, growth, score)
        if number == 1 and len(options) > 1:
            option, tried = _chosen(options, compare, train, worth)
        done.append(compare(option))
        depths = done[-1].candidate
        net = train(CANDIDATE, number, depths)
        candidates.append(net)
    return Found(option, tried, tuple(done), first, tuple(candidates))


def _comparing(net: Any, temporary: Any, depths: Depths, growth: int, score: Callable) -> Callable[[Any], Iteration]:
    """option -> what the comparison of the two nets comes to."""

    def compare(option: Any) -> Iteration:
        before, after = (tuple(map(float, score(one, option))) for one in (net, temporary))
        grown = decided(before, after)
        return Iteration(depths, deepened(depths, growth), before, after, grown, where(depths, growth, grown))

    return compare


def _chosen(
    options: Sequence[Any], compare: Callable[[Any], Iteration], train: Callable, worth: Callable
) -> tuple[Any, tuple[Tried, ...]]:
    """The option whose first candidate is worth most, and what each came to."""
    worths: dict[Depths, float] = {}
    tried = []
    for option in options:
        depths = compare(option).candidate
        if depths not in worths:
            worths[depths] = worth(train(CANDIDATE, 1, depths))
        tried.append(Tried(option, depths, worths[depths]))
    return max(tried, key=lambda one: one.worth).option, tuple(tried)


def networks(iterations: int) -> int:
    """How many nets are trained: two for each iteration, and the initial one."""
    return 2 * iterations + 1


def uniform(macs_of: Callable[[int], int], macs: int) -> int:
    """The number of modules, the same in each stage, whose MACs are nearest to `macs`; the fewer of two equally near ones."""
    modules = 1
    while macs_of(modules) < macs:
        modules += 1
    near = (modules - 1, modules) if modules > 1 else (modules,)
    return min(near, key=lambda count: (abs(macs_of(count) - macs), count))


def check(initial: Depths, *, iterations: int, growth: int) -> None:
    """Raises ValueError for nothing to begin with, nothing to grow by, or no iteration."""
    for name, value in (("initial_modules", min(initial, default=0)), ("growth", growth), ("iterations", iterations)):
        if type(value) is not int or value < 1:
            raise ValueError(f"grow.{name} is {value!r}, must be at least 1 and whole")
