"""The stage that grows a network: depth is added to the stages whose features gain by it (Jordao et al. 2020, algorithm 1)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynnas_jax import processes, progress
from dynnas_jax.costs import training_energy
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import Job, described, facts_of
from dynnas_jax.networks import chains, fixed, growing
from dynnas_jax.search import stage_growth, stage_importance
from dynnas_jax.stages import growth_nets, network_train, spent
from dynnas_jax.stages.growth_nets import RANDOM, Net, Nets, Options
from dynnas_jax.workdir import write_json

_NO_ARCH = ("name", "depthwise", "padding", "epsilon")  # of a section `network`: how a net is computed


@functools.wraps(Options, assigned=(), updated=())
def run(job: Job, folder: Path, **given) -> tuple[str, ...]:
    """Grows by algorithm 1; leaves `growth.json`, the folder of every net that was trained, and arch files of the candidates.

    Args:
      given: `Options`.
    """
    asked, section = Options(**given), job.workdir.config["growth"]
    nets, choices = Nets(job, folder, asked), _choices(asked)
    most = stage_growth.networks(asked.iterations) + len(choices) - 1 + asked.uniform
    with progress.counted("networks", most, "networks") as advance:
        make = _counting(nets.make, advance)
        found = stage_growth.run(
            growing.initial(job.workdir.config),
            iterations=asked.iterations,
            growth=_step(section, asked),
            train=make,
            score=nets.score,
            worth=growth_nets.worth,
            options=choices,
        )
        if found.tried:  # candidates alike were made once
            advance(len(choices) - len({one.candidate for one in found.tried}))
        controls = [_uniform(job, make, found.candidates[-1])] if asked.uniform else []
    if not processes.is_first():
        return ()
    write_json(folder / "data.json", described(job.images))
    return _written(folder, nets, found, controls)


def _step(section: dict, asked: Options) -> int:
    """Modules that a stage grows by."""
    return growing.family(section["name"]).growth if asked.growth is None else asked.growth


def _counting(make: Callable[..., Net], advance: Callable[[int], None]) -> Callable[..., Net]:
    """`make`, which says that one more is done of each net that it makes for the first time."""
    made = set()

    def counted(*which: Any) -> Net:
        net = make(*which)
        if net.name not in made:
            advance(1)
        made.add(net.name)
        return net

    return counted


def _choices(asked: Options) -> tuple[dict, ...]:
    """The criterion's keyword arguments to choose from."""
    names, values = list(asked.choose or {}), list((asked.choose or {}).values())
    rows = itertools.product(*values)
    return tuple({**(asked.criterion_options or {}), **dict(zip(names, row, strict=True))} for row in rows)


def _uniform(job: Job, make: Callable[..., Net], last: Net) -> Net:
    """The net of the same depth in all stages whose MACs are nearest to the last candidate's, trained as that was."""
    section, facts = job.workdir.config["growth"], facts_of(job.images)

    def macs_of(modules: int) -> int:
        built = growing.built(section, growing.uniform(section, modules), facts)
        return chains.cost(built.largest_net())[0]

    modules = stage_growth.uniform(macs_of, last.facts["macs"])
    return make(stage_growth.UNIFORM, 0, growing.uniform(section, modules))


def _written(folder: Path, nets: Nets, found: stage_growth.Found, controls: list[Net]) -> tuple[str, ...]:
    """The artifacts: what was found, an arch file of every candidate, and of every net what it is."""
    random = nets.options.criterion == RANDOM
    kept = (found.first, *found.candidates)
    looked_at = [] if random else [nets.told(net, found.option) for net in kept]
    content = {
        "criterion": nets.options.criterion,
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
        "scoring": _sums([training_energy.read(folder / growth_nets.SCORING / spent.FILE)]),
    }
    write_json(folder / "growth.json", content)
    files = ["growth.json", "data.json"]
    for number, net in enumerate(found.candidates, 1):
        write_json(folder / f"candidate{number}.json", _arch_file(net))
        files.append(f"candidate{number}.json")
    for net in (*found.candidates, *controls, found.first):
        files += [f"{net.name}/{growth_nets.FINAL}", f"{net.name}/{growth_nets.FACTS}"]
    return tuple(dict.fromkeys(files))


def _arch_file(net: Net) -> dict:
    """The content of a net's arch file, whole: it is counted by itself, and on other data takes their images."""
    arch, section = net.supernet.largest_net().arch, net.facts["network"]
    kept = {name: value for name, value in section.items() if name not in _NO_ARCH}
    depths = {growing.family(section["name"]).option: net.facts["depths"]}
    return {**kept, **depths, **{name: getattr(arch, name) for name in fixed.GIVEN}}


def _trained(folder: Path) -> dict:
    """How many nets were made in all, what they took together, and what of it their further training took."""
    nets = [file.parent for file in sorted(folder.glob(f"*/{growth_nets.FACTS}"))]
    every = [training_energy.read(net / spent.FILE) for net in nets]
    further = [training_energy.read(net / growth_nets.FURTHER / spent.FILE) for net in nets]
    return {"networks": len(every), **_sums([*every, *further]), "further": _sums(further)}


def _sums(every: list[training_energy.Spent]) -> dict:
    return {"seconds": sum(one.seconds for one in every), "energy_j": sum(one.energy_j for one in every)}


@functools.wraps(Options, assigned=(), updated=())
def check(job: Job, **given) -> None:
    """Raises ValueError for what would end a growth at its first step, or long after it."""
    asked, section = Options(**given), job.workdir.config["growth"]
    initial, step = growing.initial(job.workdir.config), _step(section, asked)
    stage_growth.check(initial, iterations=asked.iterations, growth=step)
    _check_criterion(job, asked)
    spent.check(asked.power_w, needed=True)
    for height, _, channels in growing.stage_shapes(job.supernet.largest_net()):
        stage_importance.bounds(channels, height, samples=asked.samples, side=asked.pooled_side)
    options = dict(job.workdir.config["train"])
    network_train.check(job, **options)
    if asked.further is not None:
        _check_further(job, {**options, **asked.further})
    if "source" in given and not isinstance(asked.source, str):
        raise ValueError(
            f"grow.source is {asked.source!r}: give the run whose weights nets begin with, or leave it out of the recipe"
        )
    if asked.read_off and asked.source is None:
        raise ValueError("grow.read_off does nothing without grow.source, the run that nets are read off; give it")
    if asked.source is not None:
        deepest = stage_growth.deepened(initial, asked.iterations * step)
        _check_source(asked.source, growing.built(section, deepest, facts_of(job.images)))
        growth_nets.check_images(asked.source, job, as_it_stands=asked.read_off)
        _check_depths(asked, initial, step)


def _check_further(job: Job, options: dict) -> None:
    try:
        network_train.check(job, **options)
    except ValueError as error:
        raise ValueError(f"grow.further: {error}") from error


def _check_source(source: str, deepest: Supernet) -> None:
    """Whether the last temporary net can begin with the source's weights, should every stage grow in every iteration."""
    variables = growth_nets.source_variables(source)
    try:
        growing.transferred(variables, deepest.largest_net())
    except ValueError as error:
        remedy = "; of fewer grow.iterations less is wanted" if isinstance(error, growing.Shallower) else ""
        raise ValueError(f"grow.source: {source}: {error}{remedy}") from error


def _check_depths(asked: Options, initial: stage_growth.Depths, step: int) -> None:
    """Whether a supernet was trained with every depth that growing may ask for: another is none of its nets."""
    by = 1 if asked.uniform else step
    for stage, (first, known) in enumerate(
        zip(initial, growth_nets.source_depths(asked.source) or (), strict=False), 1
    ):
        wanted = range(first, first + asked.iterations * step + 1, by)
        if absent := [depth for depth in wanted if depth not in known]:
            raise ValueError(
                f"grow.source: {asked.source}: its supernet has no net with {absent[0]} modules in stage {stage}, which growing "
                f"may ask for, but {', '.join(map(str, known))}; grow by its steps, or train one with others"
            )


def _check_criterion(job: Job, asked: Options) -> None:
    criterion, choose = asked.criterion, asked.choose
    if choose is not None and not _to_choose_from(choose):
        raise ValueError(f"grow.choose is {choose}, must have a tuple of values for each argument of the criterion")
    if choose and not len(job.images.holdout):
        raise ValueError("grow.choose compares candidates on held-out images; give data.holdout")
    choices = _choices(asked)
    if criterion == RANDOM:
        if any(choices):
            raise ValueError(
                "grow.criterion is 'random', which has no options; leave out grow.criterion_options and choose"
            )
        return
    if not isinstance(criterion, str) or criterion not in stage_importance.CRITERIA:
        raise ValueError(f"grow.criterion is {criterion!r}, choose from {[*stage_importance.CRITERIA, RANDOM]}")
    for one in choices:
        try:
            stage_importance.check(criterion, **one)
        except ValueError as error:
            raise ValueError(f"{error}{_way_out(criterion, asked)}") from error


def _to_choose_from(choose: Any) -> bool:
    """Whether this is values by the names of a criterion's arguments."""
    return isinstance(choose, dict) and all(
        isinstance(values, (tuple, list)) and len(values) for values in choose.values()
    )


def _way_out(criterion: str, asked: Options) -> str:
    """Where a recipe's options are those of another criterion: how to get rid of them."""
    for given, key in ((asked.criterion_options, "criterion_options"), (asked.choose, "choose")):
        if given and not set(given) <= set(stage_importance.options_of(criterion)):
            return f"; leave out what the recipe has by --config.grow.{key}=None, or take its mode for this criterion"
    return ""
