"""Builds the latency table of a config's space on the machine it runs on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dynnas_jax import job, kinds
from dynnas_jax.costs import latency, macs
from dynnas_jax.data import sources
from dynnas_jax.dynamic import protocol, routing
from dynnas_jax.dynamic.routers import Router
from dynnas_jax.elastic import Supernet, image_struct, walk
from dynnas_jax.export import confined, functions, latency_table, machine, metadata, targets
from dynnas_jax.export.latency_table import Part
from dynnas_jax.networks import big_little, multi_costs
from dynnas_jax.networks.template import form_here
from dynnas_jax.stages import routers as routing_stage

ARCHITECTURES = {"x86": ("x86_64", "amd64")}  # where a target's table can be measured; all others are ARM's
ARM = ("aarch64", "arm64")
NO_LITERT = ("edgetpu",)  # LiteRT runs on these, but not what they are bought for
_LEAST = {"threads": 1, "nets": latency_table.FEWEST_NETS, "rounds": 1}
DRAWN = 4096  # genomes that whole nets are chosen from


def build(
    config: dict,
    output: Path,
    *,
    target: str,
    runtime: str = latency_table.LITERT,
    precision: str | None = None,
    threads: int = 1,
    nets: int = 40,
    rounds: int = 25,
) -> latency.LatencyTable:
    """Times every distinct block of the config's space, and its routers, and writes the table to `output`.

    The space is what the config's own target restricts it to, whatever is restricted for `target`: a run of the config can be
    searched for any device.

    What is done stands in `output` + ".partial" meanwhile; the same call goes on from there, on the same machine with the same
    versions.

    Args:
      target: whose table it is, and whose form of convolutions and precision the blocks have; this machine must be one.
      runtime: "litert", or "jax" for the device that JAX runs on here, such as a GPU, in float32.
      precision: of the files; the target's own (the last of its `precisions`) if None.
      nets: whole nets that the blocks' times are fitted to.
      rounds: bursts of each block and net.

    Raises:
      ValueError: for an unknown target, runtime or precision, one that JAX does not compute in, too few threads, nets or rounds,
        a target without such tables, a machine that is none of the target's, a file that stands at `output`, or missing data.
    """
    known, kind = targets.target(target), kinds.of(config)
    if runtime not in latency_table.RUNTIMES:
        raise ValueError(f"runtime is {runtime!r}, choose from {list(latency_table.RUNTIMES)}")
    if runtime == latency_table.JAX:
        if precision not in (None, "fp32") or threads != 1:
            raise ValueError(
                "runtime jax times blocks in fp32 and with threads of its own: leave --precision and --threads out"
            )
        precision = "fp32"
    for name, value in {"threads": threads, "nets": nets, "rounds": rounds}.items():
        if value < _LEAST[name]:
            raise ValueError(f"{name} is {value}, must be a number of at least {_LEAST[name]}")
    confined.check_threads(threads)
    if precision is not None and precision not in metadata.PRECISIONS:
        raise ValueError(f"precision is {precision!r}, choose from {list(metadata.PRECISIONS)}")
    _check_machine(known, machine.facts())
    if output.exists():
        raise ValueError(f"{output} exists already; remove it, or choose another --output")
    if not output.parent.is_dir():
        raise ValueError(f"cannot write {output}: there is no folder {output.parent}")
    supernet = supernet_of(config)
    precision = precision or known.precisions[-1]
    asked = routing_stage.asked(config.get("dynamic", {}))[0] if kind is kinds.SUPERNET else None
    wanted = routing.tried(asked) if asked else ()
    options = {"runtime": runtime, "precision": precision, "threads": threads, "nets": nets, "rounds": rounds}
    return of_supernet(supernet, output, target, routers=wanted, **options)


def supernet_of(config: dict) -> Supernet:
    """The supernet that a config's data and target make; nothing is trained.

    Raises:
      ValueError: for data that are missing, or a config of one fixed net with one exit.
    """
    if (kind := kinds.of(config)) not in (kinds.SUPERNET, *kinds.OF_EXITS):
        raise ValueError(f"config: a latency table is of the blocks of many nets, and this is {kind.words}")
    data = {key: value for key, value in config["data"].items() if key != "augment"}
    images = sources.load(seed=config["seed"], **data)
    return job.build(config, job.facts_of(images))


def _check_machine(target: targets.Target, facts: dict) -> None:
    """Raises ValueError where this machine is known not to be one of the target's; a board that does not say its name passes."""
    if target.name in NO_LITERT:
        raise ValueError(
            f"target {target.name!r} runs what its own compiler makes; there are no latency tables of blocks for it"
        )
    architecture, board = facts["architecture"], facts["board"]
    if architecture.lower() not in ARCHITECTURES.get(target.name, ARM):
        raise ValueError(f"this machine ({architecture}) is no {target.name}: run the same command on one")
    if board and (target.board or targets.of_board(board)) and targets.of_board(board) != target.name:
        raise ValueError(f"this machine ({board}) is no {target.name}: run the same command on one")


def of_supernet(
    supernet: Supernet,
    output: Path,
    target: str,
    *,
    runtime: str = latency_table.LITERT,
    precision: str,
    threads: int,
    nets: int,
    rounds: int,
    routers: Sequence[Router] = (),
    **measurement: Any,
) -> latency.LatencyTable:
    """The table of a supernet, written to `output`; arguments as in `build`, others are those of `latency_table.timed`.

    Raises:
      ValueError: for nets that are too few to fit the blocks' times to.
    """
    in_jax = runtime == latency_table.JAX
    blocks, form = latency.distinct(supernet), form_here("auto") if in_jax else targets.target(target).depthwise
    beside = {part.name: (part, router) for router in routers for part in _router_parts(supernet, blocks, router)}
    parts = [latency_table.EMPTY, *(_block_part(name, built, form) for name, built in blocks.items())]
    parts += [part for part, _ in beside.values()]
    genomes = stratified(supernet, macs.table(supernet), nets, jax.random.key(0))
    parts += [part for genome in genomes for part in net_parts(supernet, genome, form)]
    latency_table.check_nets(parts)
    partial = output.with_name(f"{output.name}.partial")
    how = {"runtime": runtime, "precision": precision, "threads": threads}
    device = device_here(in_jax)
    plan = {"space": supernet.space.fingerprint, "target": target, "device": device, **how}
    samples = latency_table.timed(parts, partial, plan=plan, rounds=rounds, **how, **measurement)
    fit = latency_table.fit(parts, samples)
    rows = tuple(
        latency.Row(latency.input_shapes(built.traced), latency.spec(built.block.module), *fit.block_ms[name])
        for name, built in blocks.items()
    )
    rows += tuple(
        latency.Row(tuple(part.function.shapes.values()), latency.router_spec(router.to_json()), *fit.block_ms[name])
        for name, (part, router) in beside.items()
    )
    told = {**device, "threads": threads, "precision": precision}
    table = latency.LatencyTable(target, told, supernet.space.fingerprint, fit.overhead_ms, fit.how, rows)
    latency.save(table, output)
    shutil.rmtree(partial)
    return table


def device_here(in_jax: bool) -> dict:
    """What a table is measured on here, in words; rounds of another machine, or other versions, do not go on."""
    facts, versions = machine.facts(), machine.versions()
    board = facts["board"] or facts["cpu"] or "unknown"
    if not in_jax:
        return {"board": board, "runtime": "LiteRT", "versions": versions}
    device, versions = jax.devices()[0], {**versions, "jax": jax.__version__}
    kind = board if device.platform == "cpu" else device.device_kind  # JAX calls every processor "cpu"
    return {"board": kind, "runtime": f"JAX on {device.platform}", "versions": versions}


def _block_part(name: str, built: macs.Built, form: str) -> Part:
    module = built.block.module
    module = module.clone(name=None, parent=None, numerics=dataclasses.replace(module.numerics, depthwise=form))
    variables, tree = drawn_variables(built.traced.variables), built.traced.reads
    shapes = latency.input_shapes(built.traced)
    images = shapes[0] == tuple(image_struct(built.arch).shape)
    return latency_table.block(name, lambda *read: module.apply(variables, tree.unflatten(read)), shapes, images)


def _router_parts(supernet: Supernet, blocks: dict[str, macs.Built], router: Router) -> list[Part]:
    """A router at every feature map of the space that it may look at, with drawn weights; none of a confidence.

    What reads little's answer is no part of a file: the score of a confidence is the runtime's own.
    """
    if router.name == "confidence":
        return []
    stem = big_little.build(supernet, supernet.space.largest, supernet.space.largest).stem[-1]
    if router.place == "stem":
        shapes = [built.traced.output.shape for built in blocks.values() if built.block.name == stem]
    else:
        shapes = [shape for b in blocks.values() if b.block.name == "head" for shape in latency.input_shapes(b.traced)]
    spec, parts = latency.router_spec(router.to_json()), []
    for shape in dict.fromkeys(map(tuple, shapes)):
        params = drawn_variables(_router_shapes(router, shape))
        score = lambda x, params=params: router.score(params, x, None)  # noqa: E731
        parts.append(latency_table.block(latency.identity((shape,), spec), score, [shape]))
    return parts


def _router_shapes(router: Router, shape: tuple[int, ...]) -> dict:
    """Of the params that `dynamic.fitting` makes."""
    inputs = jax.eval_shape(lambda x: router.inputs(x, None), jax.ShapeDtypeStruct(shape, np.float32))
    sizes, leaf = (
        {name: each.shape[-1] for name, each in inputs.items()},
        lambda *s: jax.ShapeDtypeStruct(s, np.float32),
    )
    if router.name == "learned":
        layers = {"hidden": (sizes["mean"], router.units), "out": (router.units, 1)}
        return {name: {"kernel": leaf(*of), "bias": leaf(of[1])} for name, of in layers.items()}
    return {"kernels": {name: leaf(size, 1) for name, size in sizes.items()}, "bias": leaf(1)}


def net_parts(supernet: Supernet, genome: np.ndarray, form: str) -> list[Part]:
    """A whole subnet with drawn weights, its depthwise convolutions in a target's form, as what a device is given of it.

    That is one function from images to logits, or one for each exit, which goes on from what the one before left.
    """
    arch = supernet.arch(multi_costs.settled(supernet, genome) if supernet.exits else genome)
    traced = walk(blocks := supernet.blocks(arch), image_struct(arch))
    variables: dict = {}
    for name, one in traced.items():
        for collection, leaves in drawn_variables(one.variables).items():
            variables.setdefault(collection, {})[name] = leaves
    net, shape = supernet.net(arch).clone(depthwise=form), image_struct(arch).shape[1:]
    inside = {block.name: latency.of_block(macs.Built(arch, block, traced[block.name])) for block in blocks}
    name = json.dumps(genome.tolist())
    if not supernet.exits:
        whole = functions.whole(lambda images: net.apply(variables, images)[0], shape)
        return [Part(name, whole, tuple(inside.values()))]
    steps = dict(zip(supernet.exits, protocol.multi_exit(net).steps, strict=True))
    network = functions.from_steps(steps, variables, shape)
    of_exits = zip(network.steps.items(), multi_costs.by_exit(supernet, inside), strict=True)
    return [Part(f"{name} {exit}", call, tuple(inside[block] for block in own)) for (exit, call), own in of_exits]


def drawn_variables(shapes: dict) -> dict:
    """Variables of these shapes that keep signals in a normal range; no time depends on their values."""
    generator = np.random.default_rng(0)

    def leaf(shape: Any) -> np.ndarray:
        fan_in = max(1, int(np.prod(shape.shape[:-1]))) if len(shape.shape) > 1 else 1
        return (generator.uniform(0.25, 1, shape.shape) / fan_in).astype(np.float32)

    return jax.tree.map(leaf, shapes)


def stratified(supernet: Supernet, cost: Callable, count: int, key: jax.Array) -> np.ndarray:
    """int32[count, genes]: of random genomes those that spread most evenly over log cost; fewer where there are not so many."""
    space = supernet.space
    drawn = space.sample(key, DRAWN)
    genomes = np.unique(np.asarray(jax.jit(jax.vmap(space.canonical))(drawn)), axis=0)
    logs = np.log(np.asarray(jax.jit(cost)(genomes), np.float64))
    rows: list[int] = []
    for wanted in np.linspace(logs.min(), logs.max(), min(count, len(genomes))):
        distance = np.abs(logs - wanted)
        distance[rows] = np.inf
        rows.append(int(distance.argmin()))
    return genomes[rows]
