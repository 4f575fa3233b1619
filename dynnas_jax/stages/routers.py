"""Fitting the routers of a chosen pair on the held-out images, and what they do there and on the test split."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import numpy as np

from dynnas_jax import decisions
from dynnas_jax.data.resize import at_resolution
from dynnas_jax.dynamic import fitting, protocol, routing, thresholds
from dynnas_jax.dynamic.routers import Router, RouterCost
from dynnas_jax.export import targets
from dynnas_jax.job import Job
from dynnas_jax.networks import big_little, coupled

_NEEDS = {"entropy": "LOG", "norm": "SQRT"}  # operators that not every target has


class Tried(NamedTuple):
    """A router of the chosen pair, with its scores of images that it was not fitted on."""

    router: Router
    params: dict | None
    cost: RouterCost
    score: np.ndarray  # float32[m, 2]; the second column is not used
    correct: np.ndarray  # bool[m, 2], of little and big


def asked(section: dict) -> tuple[routing.Asked, dict]:
    """What a config's section `dynamic` says of routing, and its other keys. Raises ValueError as `routing.asked`."""
    own = inspect.signature(routing.asked).parameters
    given = {name: value for name, value in section.items() if name in own}
    return routing.asked(**given), {name: value for name, value in section.items() if name not in own}


def is_trained(train: dict) -> bool:
    """Whether a config's section `train` trains a router beside the nets."""
    rule = train.get("joint_rule") or {}
    return rule.get("router") == "learned" and rule.get("routing", 1.0) > 0


def options_in_use(config: dict) -> dict:
    """The options of the router that a config asks for, by their dotted names, each as it is given or by default."""
    wanted, _ = asked(config["dynamic"])
    router, defaults = wanted.router, inspect.signature(fitting.fit).parameters
    if router.name == "confidence":
        return {}
    jointly = is_trained(config["train"]) if wanted.jointly is None else wanted.jointly
    found = {f"dynamic.router_{name}": wanted.fit.get(name, defaults[name].default) for name in ("l2", "folds")}
    if router.name == "difficulty":
        return found | {"dynamic.router_place": router.place, "dynamic.router_statistics": router.statistics}
    found["dynamic.router_fit"] = routing.FITS[0 if jointly else 1]
    if jointly:
        return found | {"supernet.router_units": config["supernet"].get("router_units", coupled.ROUTER_UNITS)}
    return found | {"dynamic.router_units": router.units}


def check(section: dict, config: dict) -> None:
    """Raises ValueError as `routing.asked`, for a router that the target cannot run, or one that was to be trained and is not."""
    wanted, _ = asked(section)
    ops = targets.target(config["target"]).ops
    lacking = [name for name in wanted.router.statistics if ops is not None and _NEEDS.get(name, "MEAN") not in ops]
    if wanted.router.name == "difficulty" and lacking:
        kept = tuple(name for name in wanted.router.statistics if name not in lacking) or ("mean",)
        raise ValueError(
            f"dynamic.router_statistics: target {config['target']} cannot compute {' and '.join(lacking)}; "
            f"write dynamic.router_statistics={kept}"
        )
    trained = config["supernet"].get("coupled", False) and is_trained(config["train"])
    if wanted.jointly and not trained:
        raise ValueError(
            "dynamic.router_fit is 'jointly', but no router is trained with the nets; "
            "set supernet.coupled=True and train.joint_rule={'router': 'learned'}, or write 'afterwards'"
        )
    learned = (config["train"].get("joint_rule") or {}).get("optimal", decisions.OPTIMAL[0])
    if trained and wanted.jointly is not False and wanted.router.name == "learned" and learned != wanted.optimal:
        raise ValueError(
            f"dynamic.optimal is {wanted.optimal!r}, but the router is trained for train.joint_rule.optimal={learned!r}; "
            "give both the same, or router_fit='afterwards'"
        )
    if trained and section.get("router_units") and wanted.jointly is not False:
        raise ValueError(
            "dynamic.router_units is for router_fit='afterwards'; with the nets it has supernet.router_units"
        )


def fit(
    job: Job, wanted: routing.Asked, pair: big_little.Pair, nets: dict, supernet_variables: dict
) -> tuple[Tried, ...]:
    """The router that is asked for and those it is compared with, fitted on the held-out images; the nets stay as they are."""
    split, routers = at_resolution(job.images.holdout, pair.big.arch.resolution), routing.tried(wanted)
    seen = protocol.observed(pair, nets, split, routers)
    best = decisions.best(*seen.correct.T, wanted.optimal)
    jointly = is_trained(job.workdir.config["train"]) if wanted.jointly is None else wanted.jointly
    found = []
    for router, inputs in zip(routers, seen.inputs, strict=True):
        options = {**wanted.fit, "seed": job.seed}
        if router.name == "confidence":
            fitted = fitting.Fitted(None, np.asarray(router.judge(None, inputs)))
        elif router.name == "learned" and jointly:
            own = coupled.own_router(supernet_variables, inputs["mean"].shape[1])
            fitted = fitting.rescaled(own, np.asarray(coupled.decide(own, inputs["mean"])), best, **options)
        else:
            fitted = fitting.fit(inputs, best, units=router.units if router.name == "learned" else 0, **options)
        cost = protocol.router_cost(pair, router, fitted.params)
        found.append(Tried(router, fitted.params, cost, np.stack([fitted.score] * 2, axis=-1), seen.correct))
    return tuple(found)


def point(score: np.ndarray, correct: np.ndarray, spent: list, threshold: float | None, target: dict):
    """The operating point of a pair for a target of `thresholds.choose`; or at a threshold, feasible if the target holds."""
    if threshold is None:
        return thresholds.choose(score, correct, spent, **target)
    found = thresholds.evaluate(score, correct, spent, [threshold])
    most, least = target["max_cost"], target["min_accuracy"]
    return found._replace(feasible=found.average_cost <= most if least is None else found.accuracy >= least)


def row(tried: Tried, point, optimal: str) -> dict:
    """A router as `found.json` and `evaluation.json` list it, with what it does at an operating point."""
    best = decisions.best(*tried.correct.T, optimal)
    stays = tried.score[:, 0] > np.float32(point.thresholds[0])
    return {
        "router": tried.router.label,
        "macs": tried.cost.macs,
        "params": tried.cost.params,
        "threshold": point.thresholds[0],
        "auroc": fitting.auroc(tried.score[:, 0], best),
        "routing_accuracy": float(np.mean(stays == best)),
        "accuracy": point.accuracy,
        "exit_rate": point.exit_rate[0],
    }


def tested(
    pair: big_little.Pair, variables: dict, found: dict, params: dict, split, scores: np.ndarray, correct: np.ndarray
):
    """The rows of `found["routers"]` on a split, with their `macs` on average.

    Args:
      params: of each router by its label; scores, correct: [m, 2], what the pair answers with the router that was asked for.
    """
    rows, many = found["routers"], len(found["routers"]) > 1
    routers = tuple(Router.from_json(old["spec"]) for old in rows)
    seen = protocol.observed(pair, variables, split, routers).inputs if many else (None,)
    listed = []
    for old, router, inputs in zip(rows, routers, seen, strict=True):
        score = np.stack([np.asarray(router.judge(params.get(router.label), inputs))] * 2, axis=-1) if many else scores
        tried = Tried(router, None, RouterCost(old["macs"], old["params"]), score, correct)
        point = thresholds.evaluate(score, correct, old["cost"], [old["threshold"]])
        new = row(tried, point, found["optimal"]) | {"average_macs": point.average_cost, "auroc_holdout": old["auroc"]}
        listed.append(new)
    return listed
