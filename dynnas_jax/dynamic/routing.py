"""What a config says of how a pair's images are routed, and the routers that are tried for it."""

from __future__ import annotations

from typing import Any, NamedTuple

from dynnas_jax import decisions
from dynnas_jax.confidence import DEFAULT_SCORE, SCORES
from dynnas_jax.dynamic.routers import PLACES, ROUTERS, STATISTICS, UNITS, Router


class Asked(NamedTuple):
    """What a config's section `dynamic` says of routing."""

    router: Router
    optimal: str  # of `decisions.OPTIMAL`
    fit: dict  # options of `fitting.fit`
    jointly: bool | None  # whether the router is the one trained with the nets; None: where there is one
    threshold: float | None  # in place of the one that the target asks for
    compare: bool  # whether the other routers are tried beside it


# Whose an option is.
_OWN = {
    **dict.fromkeys(("router_units", "router_fit"), ("learned",)),
    **dict.fromkeys(("router_place", "router_statistics"), ("difficulty",)),
    **dict.fromkeys(("router_l2", "router_folds"), ("learned", "difficulty")),
}
FITS = ("jointly", "afterwards")


def asked(
    *,
    router: str = ROUTERS[0],
    score: str = DEFAULT_SCORE,
    optimal: str = decisions.OPTIMAL[0],
    threshold: float | None = None,
    compare_routers: bool = False,
    router_units: int | None = None,
    router_fit: str | None = None,
    router_place: str | None = None,
    router_statistics: tuple[str, ...] | None = None,
    router_l2: float | None = None,
    router_folds: int | None = None,
) -> Asked:
    """What routes the images of a pair.

    Args:
      router: "confidence", the `score` of little's answer; "learned", a multilayer perceptron on the means of what little's head
        reads; or "difficulty", a logistic regression on statistics of a feature map.
      score: of `confidence.SCORES`; the other routers choose the pair by it, before they are fitted.
      optimal: what a router learns, and is judged by: of `decisions.OPTIMAL`.
      threshold: in place of the one that the target asks for.
      compare_routers: the others are fitted too, for the report's table.
      router_units: hidden units of the learned router, by default 16.
      router_fit: the learned router's: "jointly", with the nets, or "afterwards", with the nets as they are; by default jointly
        where `train.joint_rule` trains one.
      router_place: the difficulty router's: "little", what little's head reads; "stem", what the stem leaves: a hard image
        does not pay for little. By default "little".
      router_statistics: the difficulty router's, of `routers.STATISTICS`; by default all.
      router_l2, router_folds: of `fitting.fit`.

    Raises:
      ValueError: for an unknown name, a number out of range, or an option of another router.
    """
    given = {name: value for name, value in locals().items() if name in _OWN and value is not None}
    known = {"router": ROUTERS, "score": tuple(SCORES), "optimal": decisions.OPTIMAL}
    known |= {"router_fit": FITS, "router_place": PLACES}
    values = {"router": router, "score": score, "optimal": optimal, **given}
    for name, choices in known.items():
        if name in values and values[name] not in choices:
            raise ValueError(f"dynamic.{name} is {values[name]!r}, choose from {list(choices)}")
    for name in given:
        if router not in _OWN[name] and not compare_routers:
            wanted = " or ".join(f"dynamic.router={own!r}" for own in _OWN[name])
            raise ValueError(f"dynamic.{name} does nothing for router {router!r}; write {wanted}, or leave it out")
    if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
        raise ValueError(f"dynamic.threshold is {threshold!r}, must be a number from 0 to 1, as the scores are")
    _check_numbers(given)
    chosen = given.get("router_statistics", tuple(STATISTICS))
    if unknown := [name for name in chosen if name not in STATISTICS] or not chosen:
        raise ValueError(f"dynamic.router_statistics is {chosen!r} ({unknown}), choose from {list(STATISTICS)}")
    fit = {name.removeprefix("router_"): given[name] for name in ("router_l2", "router_folds") if name in given}
    place = given.get("router_place", PLACES[0]) if router == "difficulty" else PLACES[0]
    units = given.get("router_units", UNITS)
    which = Router(router, place, score, tuple(chosen), units)
    jointly = None if router_fit is None else router_fit == FITS[0]
    return Asked(which, optimal, fit, jointly, threshold, compare_routers)


def _check_numbers(given: dict) -> None:
    for name, least in (("router_units", 1), ("router_folds", 2)):
        if name in given and (type(given[name]) is not int or given[name] < least):
            raise ValueError(f"dynamic.{name} is {given[name]!r}, must be a whole number of at least {least}")
    if "router_l2" in given and not (_is_number(given["router_l2"]) and given["router_l2"] > 0):
        raise ValueError(f"dynamic.router_l2 is {given['router_l2']!r}, must be a number above 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def tried(asked: Asked) -> tuple[Router, ...]:
    """The router that is asked for, first, and with `compare_routers` all others."""
    if not asked.compare:
        return (asked.router,)
    plain = asked.router._replace(statistics=asked.router.statistics, place=PLACES[0])
    others = [plain._replace(name="confidence", confidence=score) for score in SCORES]
    others.append(plain._replace(name="learned"))
    others += [plain._replace(name="difficulty", place=place) for place in PLACES]
    labels = {router.label: router for router in (asked.router, *others)}
    return tuple(labels.values())
