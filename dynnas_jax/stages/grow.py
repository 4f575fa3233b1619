"""The stage that grows a network: depth is added to the stages whose features gain by it (Jordao et al. 2020, algorithm 1)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from dynnas_jax import processes, progress
from dynnas_jax.costs import energy, training_energy
from dynnas_jax.job import Job, described, facts_of
from dynnas_jax.networks import chains, growing
from dynnas_jax.search import stage_growth, stage_importance
from dynnas_jax.stages import growth_nets, network_train, spent
from dynnas_jax.stages.growth_nets import RANDOM, Net, Nets, Plan
from dynnas_jax.workdir import write_json

UNIFORM = "uniform"  # the control of the same depth in every stage
_NO_ARCH = ("name", "depthwise", "padding", "epsilon")  # of a section `network`: how a net is computed
ITERATIONS, CRITERION = 5, "pls"  # the paper's
SAMPLES, POOLED_SIDE = 2000, 2


def run(
    job: Job,
    folder: Path,
    *,
    iterations: int = ITERATIONS,
    initial_modules: int | None = None,
    growth: int | None = None,
    criterion: str = CRITERION,
    criterion_options: dict | None = None,
    choose: dict | None = None,
    samples: int = SAMPLES,
    pooled_side: int = POOLED_SIDE,
    further: dict | None = None,
    source: str | None = None,
    read_off: bool = False,
    uniform: bool = False,
    power_w: float | None = None,
    grid_g_per_kwh: float = energy.GRID_G_PER_KWH["world"],
) -> tuple[str, ...]:
    """Grows by algorithm 1; leaves `growth.json`, the folder of every net that was trained, and arch files of the candidates.

    Args:
      iterations: each adds a temporary net and a candidate to the initial one.
      initial_modules: of every stage at first; None: the paper's, 6 blocks or 2 cells.
      growth: modules that a stage grows by; None: the paper's, 2 blocks or 1 cell.
      criterion: of `stage_importance.CRITERIA`, or "random" for coins.
      criterion_options: its keyword arguments.
      choose: one of its arguments with the values to choose from, once, by the held-out accuracy of the first candidate.
      samples: training images whose features are looked at, at most.
      pooled_side: pixels that a stage's maps are pooled to, at most.
      further: keyword arguments of the section `train` that are others in a further training of the candidates; None: none.
      source: a run's directory; nets begin with the modules of its net, or of its supernet, which must be as deep.
      read_off: nets are compared as they stand in the source; nothing is trained but what `further` says.
      uniform: whether a net of the same depth in all stages, of about the last candidate's MACs, is trained for comparison.
      power_w: that training draws, where no meter shall tell; grid_g_per_kwh: CO2-equivalents of the electricity.
    """
    chosen = Plan(
        train=dict(job.workdir.config["train"]),
        further=further,
        source=None if source is None else growth_nets.source_variables(source),
        read_off=read_off,
        criterion=criterion,
        samples=samples,
        pooled_side=pooled_side,
        power_w=power_w,
        grid_g_per_kwh=grid_g_per_kwh,
    )
    nets, config = Nets(job, folder, chosen), job.workdir.config
    with progress.counted("networks", stage_growth.networks(iterations) + uniform, "networks") as advance:
        found = stage_growth.run(
            growing.initial(config),
            iterations=iterations,
            growth=growth or growing.family(config["growth"]["name"]).growth,
            train=lambda *which: _counted(nets.make(*which), advance),
            score=nets.score,
            worth=growth_nets.worth,
            options=_options(criterion_options, choose),
        )
        controls = [_uniform(job, nets, found.candidates[-1])] if uniform else []
    if not processes.is_first():
        return ()
    write_json(folder / "data.json", described(job.images))
    return _written(folder, nets, found, controls)


def _counted(net: Net, advance: Any) -> Net:
    advance(1)
    return net


def _options(given: dict | None, choose: dict | None) -> tuple[dict, ...]:
    """The criterion's keyword arguments to choose from."""
    names, values = list(choose or {}), list((choose or {}).values())
    rows = itertools.product(*values)
    return tuple({**(given or {}), **dict(zip(names, row, strict=True))} for row in rows)


def _uniform(job: Job, nets: Nets, last: Net) -> Net:
    """The net of the same depth in all stages whose MACs are nearest to the last candidate's, trained as that was."""
    section, facts = job.workdir.config["growth"], facts_of(job.images)

    def macs_of(modules: int) -> int:
        built = growing.built(section, growing.uniform(section, modules), facts)
        return chains.cost(built.largest_net())[0]

    return nets.make(UNIFORM, 0, growing.uniform(section, stage_growth.uniform(macs_of, last.facts["macs"])))


def _written(folder: Path, nets: Nets, found: stage_growth.Found, controls: list[Net]) -> tuple[str, ...]:
    """The artifacts: what was found, an arch file of every candidate, and of every net what it is."""
    random = nets.plan.criterion == RANDOM
    kept = (found.first, *found.candidates)
    looked_at = [] if random else [[one._asdict() for one in nets.importances(net, found.option)] for net in kept]
    content = {
        "criterion": nets.plan.criterion,
        "options": found.option,
        "tried": [one._asdict() for one in found.tried],
        "samples": len(nets.chosen),
        "bounds": [] if random else [bound._asdict() for bound in nets.bounds(found.candidates[-1])],
        "importances": looked_at,
        "iterations": [one._asdict() for one in found.iterations],
        "initial": found.first.facts,
        "candidates": [net.facts for net in found.candidates],
        "controls": [net.facts for net in controls],
        "trained": _trained(folder),
    }
    write_json(folder / "growth.json", content)
    files = ["growth.json", "data.json"]
    for number, net in enumerate(found.candidates, 1):
        option = growing.family(net.facts["network"]["name"]).option
        arch = {name: value for name, value in net.facts["network"].items() if name not in _NO_ARCH}
        write_json(folder / f"candidate{number}.json", {**arch, option: net.facts["depths"]})
        files.append(f"candidate{number}.json")
    for net in (*found.candidates, *controls, found.first):
        files += [f"{net.name}/{growth_nets.FINAL}", f"{net.name}/{growth_nets.FACTS}"]
    return tuple(dict.fromkeys(files))


def _trained(folder: Path) -> dict:
    """How many nets were made in all, and what they took together."""
    every = [training_energy.read(file) for file in sorted(folder.glob(f"*/{spent.FILE}"))]
    return {
        "networks": len(every),
        "seconds": sum(one.seconds for one in every),
        "energy_j": sum(one.energy_j for one in every),
    }


def check(
    job: Job,
    *,
    iterations: int = ITERATIONS,
    growth: int | None = None,
    criterion: str = CRITERION,
    criterion_options: dict | None = None,
    choose: dict | None = None,
    samples: int = SAMPLES,
    pooled_side: int = POOLED_SIDE,
    further: dict | None = None,
    source: str | None = None,
    read_off: bool = False,
    **_,
) -> None:
    """Raises ValueError for what would end a growth at its first step, or long after it."""
    section = job.workdir.config["growth"]
    step = growing.family(section["name"]).growth if growth is None else growth
    initial = growing.initial(job.workdir.config)
    stage_growth.check(initial, iterations=iterations, growth=step)
    _check_criterion(job, criterion, criterion_options, choose)
    for height, _, channels in growing.stage_shapes(job.supernet.largest_net()):
        stage_importance.bounds(channels, height, samples=samples, side=pooled_side)
    options = dict(job.workdir.config["train"])
    network_train.check(job, **options)
    if further is not None:
        network_train.check(job, **{**options, **further})
    if read_off and source is None:
        raise ValueError("grow.read_off does nothing without grow.source, the run that nets are read off; give it")
    if source is not None:
        deepest = growing.built(section, stage_growth.deepened(initial, step), facts_of(job.images)).largest_net()
        variables = growth_nets.source_variables(source)
        try:
            growing.transferred(variables, deepest)
        except ValueError as error:
            raise ValueError(f"grow.source: {source}: {error}") from error


def _check_criterion(job: Job, criterion: str, given: dict | None, choose: dict | None) -> None:
    if choose is not None and not all(isinstance(values, (tuple, list)) and len(values) for values in choose.values()):
        raise ValueError(f"grow.choose is {choose}, must have a tuple of values for each argument of the criterion")
    if choose and not len(job.images.holdout):
        raise ValueError("grow.choose compares candidates on held-out images; give data.holdout")
    options = _options(given, choose)
    if criterion == RANDOM:
        if any(options):
            raise ValueError(
                "grow.criterion is 'random', which has no options; leave out grow.criterion_options and choose"
            )
        return
    if criterion not in stage_importance.CRITERIA:
        raise ValueError(f"grow.criterion is {criterion!r}, choose from {[*stage_importance.CRITERIA, RANDOM]}")
    for one in options:
        stage_importance.check(criterion, **one)
