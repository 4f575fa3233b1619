"""The strategies that look for a pair by evaluating pairs, at equal effort, and what each run of one has cost.

A strategy is a function of what is `Asked` and of the keys of its own section of the config; it returns an `Outcome`.
Effort is counted in images forwarded, whatever for: for the statistics of a net, to evaluate it, or to train it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dynnas_jax import devices, records
from dynnas_jax.job import NO_HELD_OUT, Job
from dynnas_jax.networks import big_little
from dynnas_jax.pair_space import PairSpace
from dynnas_jax.search import collect, evolution, once_for_all, pair_fitness, pairs, predictor, random_search
from dynnas_jax.search.effort import Meter
from dynnas_jax.stages import collect as collecting
from dynnas_jax.stages import differentiable
from dynnas_jax.stages import pair as pair_of
from dynnas_jax.workdir import finite

RECORDS = "records"  # the pair is made of the subnets on record and of those found beside them; no strategy of these
PAIRS = 200  # that the default effort pays for


class Asked(NamedTuple):
    """What a strategy is given."""

    job: Job
    key: jax.Array
    variables: dict  # the trained supernet's, on the host
    evaluate: collect.Evaluator  # held-out images and calibration images; `evaluate.data`, `.mesh`, `.supernet`
    table: pair_fitness.PairTable  # what pairs cost, in the unit of the budget; `table.space` is the space of pairs
    budget: np.float32  # the most that a pair may spend on an image on average
    fitness: jax.tree_util.Partial  # pair genome -> float32[], by evaluating both nets; to be mapped, not vmapped
    effort_images: int  # that may be forwarded
    images_each: int  # forwarded by one call of `fitness`

    @property
    def pairs(self) -> int:
        """How many pairs the effort pays for, if it is spent on nothing else."""
        return self.effort_images // self.images_each


class Outcome(NamedTuple):
    """What a strategy found, and what it has spent."""

    found: evolution.Found  # of `Asked.table.space`, `cost` the pair's least; arrays that NumPy can read
    architectures: int  # pairs that were evaluated
    images: int  # forwarded, all in all
    seen: list[int]  # images forwarded up to each entry of `found.history`
    details: dict  # more to tell, JSON-able


class Strategy(NamedTuple):
    """One way to look for a pair."""

    run: Callable[..., Outcome]  # (asked, **its section of the config)
    configured: tuple[Callable, ...] = ()  # functions whose keyword-only parameters are the keys of that section
    given: tuple[str, ...] = ()  # but these, which `run` fills in
    fewest: Callable[..., int] = lambda **_: 1  # (**its section) -> pairs that the effort must pay for


def evolutionary(asked: Asked, *, population: int | None = None, **options: Any) -> Outcome:
    """`evolution.run` on pairs, each evaluated for real; as many generations as the effort pays for.

    The first population is within the budget, as that of the other strategies is. By default it has as many pairs as there are
    generations.
    """
    shape = evolution.schedule(asked.pairs, population)
    first_key, run_key = jax.random.split(asked.key)
    space, cost, mesh = asked.table.space, asked.table.least, asked.evaluate.mesh
    start = random_search.draw(first_key, space, cost, asked.budget, shape["population"] - 1)
    spread = mesh if mesh.size > 1 else None

    def search(fitness, key, start):
        key = jax.random.wrap_key_data(key)
        return evolution.run(key, space, fitness, cost, asked.budget, spread, "mapped", start, **shape, **options)

    given = devices.replicated(mesh, (np.asarray(jax.random.key_data(run_key)), start))
    found = evolution.together(search, mesh)(asked.fitness, *given)
    seen = [shape["population"] * (2 + generation) for generation in range(shape["generations"])]
    return _evaluated(asked, found, seen, shape)


def once_for_all_style(asked: Asked, **options: Any) -> Outcome:
    """`once_for_all.run` on pairs: a predictor of the accuracy that a pair has within the budget."""
    fitted: list[predictor.Predictor] = []
    options = {"evaluations": asked.pairs, **options}
    found = once_for_all.run(*_common(asked), fitted.append, **options)
    told = {name: getattr(one, name) for one in fitted for name in ("kendall_tau", "fitted", "held_out")}
    return _evaluated(asked, found, range(1, len(found.history) + 1), told)


def random(asked: Asked) -> Outcome:
    """`random_search.run` on pairs."""
    found = random_search.run(*_common(asked), evaluations=asked.pairs)
    return _evaluated(asked, found, range(1, len(found.history) + 1), {})


def by_gradient(asked: Asked, **options: Any) -> Outcome:
    """`differentiable.search`: relaxed pairs, and the one read off evaluated as those of the other strategies are."""
    return Outcome(*differentiable.search(asked, **options))


def _two_generations(population: int | None = None, **_: Any) -> int:
    return 2 * (population or 2)


STRATEGIES = {
    "evolutionary": Strategy(
        evolutionary, (evolution.run, evolutionary), ("generations", "children"), fewest=_two_generations
    ),
    "once_for_all": Strategy(
        once_for_all_style,
        (predictor.fit, evolution.run, once_for_all.run),
        ("key", "evaluations"),
        fewest=lambda **_: once_for_all.FEWEST,
    ),
    "random": Strategy(random),
    "differentiable": Strategy(by_gradient, differentiable.CONFIGURED, differentiable.GIVEN, differentiable.fewest),
}


def _common(asked: Asked) -> tuple:
    """The arguments that all strategies share, of a fitness that runs nets."""
    table, mesh = asked.table, asked.evaluate.mesh
    return asked.key, table.space, asked.fitness, table.least, asked.budget, mesh, "mapped"


def _evaluated(asked: Asked, found: evolution.Found, pairs_seen, details: dict) -> Outcome:
    """The outcome of a strategy that does nothing but evaluate pairs; `pairs_seen` up to each entry of the history."""
    seen = list(pairs_seen)
    return Outcome(found, seen[-1], seen[-1] * asked.images_each, [n * asked.images_each for n in seen], details)


def check(search: dict, dynamic: dict) -> None:
    """Whether a config's sections `search` and `dynamic` fit each other.

    Raises:
      ValueError: for an unknown strategy, an option of another one, or a target that strategies do not search for.
    """
    strategy = search.get("strategy", RECORDS)
    if strategy not in (RECORDS, *STRATEGIES):
        raise ValueError(f"search.strategy is {strategy!r}, choose from {[RECORDS, *STRATEGIES]}")
    # The loss of the differentiable one has a price of its own.
    evaluating = tuple(name for name in STRATEGIES if name != "differentiable")
    owners = {name: (name,) for name in STRATEGIES} | {"effort_images": tuple(STRATEGIES), "cost_weight": evaluating}
    for name, owning in owners.items():
        if search.get(name) and strategy not in owning:
            wanted = " or ".join(f"search.strategy={own!r}" for own in owning)
            raise ValueError(f"search.{name} does nothing for strategy {strategy!r}; write {wanted}, or leave it out")
    if (effort := search.get("effort_images")) is not None and type(effort) is not int:
        raise ValueError(f"search.effort_images is {effort!r}, must be a whole number")
    if strategy != RECORDS and pairs.cost_fraction(**dynamic) is None:
        raise ValueError(
            f"search.strategy={strategy!r} looks for the most accurate pair within a cost, but dynamic.max_accuracy_loss "
            "bounds the accuracy; give dynamic.max_macs_fraction"
        )


def check_effort(
    job: Job, strategy: str, calibration_images: int, effort_images: int | None, options: dict | None
) -> None:
    """Raises ValueError for no held-out images, or an effort that does not pay for the fewest pairs of a strategy's section."""
    if strategy == RECORDS:
        return
    if not len(job.images.holdout):
        raise ValueError(NO_HELD_OUT)
    each, fewest = images_each(job, calibration_images), STRATEGIES[strategy].fewest(**(options or {}))
    effort = effort_images or PAIRS * each
    if effort < fewest * each:
        raise ValueError(
            f"search.effort_images is {effort}, but a pair takes {each} images (search.calibration_images and those "
            f"held out, for both nets) and strategy {strategy!r} at least {fewest} pairs: give at least {fewest * each}"
        )


def images_each(job: Job, calibration_images: int) -> int:
    """Images that are forwarded to evaluate one pair: both nets' statistics and answers."""
    calibration = min(calibration_images, len(job.images.train))
    return 2 * collect.images_each(calibration, len(job.images.holdout))


def run(
    seen: pair_of.Evaluated,
    strategy: str,
    calibration_images: int,
    *,
    effort_images: int | None = None,
    cost_weight: float = 0.0,
    options: dict | None = None,
) -> tuple[pair_of.Candidates, dict]:
    """The pair that a strategy finds, and what `found.json` says of its search.

    It may spend on average the share that the config gives of what the big one of `seen` costs, whatever the strategy.

    Args:
      calibration_images: as `seen.evaluate` has them.
      effort_images: at most so many are forwarded; by default what `PAIRS` pairs take.
      cost_weight: of `pair_fitness.of`.
      options: the strategy's section of the config.
    """
    job, supernet, nets = seen.job, seen.job.supernet, seen.tables[seen.unit]
    stem = nets.only(big_little.build(supernet, supernet.space.largest, supernet.space.largest).stem)
    table, each = pair_fitness.PairTable(PairSpace(supernet.space), nets, stem), images_each(job, calibration_images)
    max_cost = pairs.cost_fraction(**seen.target) * float(nets.exact(seen.genomes[seen.big]))
    budget, effort = np.float32(max_cost) * evolution.BELOW, effort_images or PAIRS * each
    with Meter() as meter:
        fitness = pair_fitness.of(seen.evaluate, seen.variables, table, budget, cost_weight=cost_weight)
        asked = Asked(job, job.key(5), seen.variables, seen.evaluate, table, budget, fitness, effort, each)
        outcome = STRATEGIES[strategy].run(asked, **(options or {}))
        found = devices.on_host(outcome.found)
    history = zip(outcome.seen, found.history.tolist(), strict=True)
    told = {
        "strategy": strategy,
        "effort": {
            "asked_images": effort,
            "images": outcome.images,
            "architectures": outcome.architectures,
            **meter.told(),
        },
        "history": [{"images": images, "fitness": finite(fitness)} for images, fitness in history],
        "details": {"fitness": finite(found.fitness), "cost_weight": cost_weight, **outcome.details},
    }
    return pair_of.of_genome(seen, found.genome, max_cost), told


def of_records(seen: pair_of.Evaluated, calibration_images: int) -> tuple[pair_of.Candidates, dict]:
    """The pair made of the subnets evaluated, which the records led to, and what `found.json` says of all their evaluations."""
    job, pair = seen.job, pair_of.of_candidates(seen)
    store = records.open(job.workdir.folder("collect") / "records.zarr", job.supernet.space.fingerprint)
    section = inspect.signature(collecting.run).bind(job, None, **job.workdir.config["collect"])
    section.apply_defaults()
    recorded, roles = int(store.done().sum()), store.arrays["score"].shape[-1]
    nets = len(pair.bigs) + (len(pair.littles) if job.supernet.coupling else 0)
    images = recorded * roles * images_each(job, section.arguments["calibration_images"]) // 2
    effort = {"images": images + nets * images_each(job, calibration_images) // 2, "architectures": recorded + nets}
    return pair, {"strategy": RECORDS, "effort": effort, "history": []}
