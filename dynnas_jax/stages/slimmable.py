"""What the stages of a dynamic slimmable network share: their options, its trained variables, and the network as it answers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax import networks, relaxed, relaxed_reads
from dynnas_jax.costs import macs
from dynnas_jax.dynamic import cascade, gate_targets, gates
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import Job, load_variables
from dynnas_jax.networks import gate, gated
from dynnas_jax.networks.gated_parts import Cut
from dynnas_jax.train import bootstrapping, sparsification, state
from dynnas_jax.train.calibration import recalibrate
from dynnas_jax.workdir import read_json

VARIABLES = "gated.msgpack"  # what the stage `gate` leaves


def options(config: dict, parameters: Callable, gate_stage: Callable) -> dict:
    """What the sections of such a run may hold, beside those of every training; `parameters` as in `settings`."""
    network = networks.with_gates(config["slimmable"].get("network"))
    also, given = ("network", "padding", "epsilon", "act"), ("channels", "classes", "resolution")
    return {
        "slimmable": parameters(network.resolve(), also=also, given=given),
        "dynamic": parameters(gate_targets.asked),
        "train.bootstrapping": parameters(bootstrapping.rule),
        "gate": parameters(gate_stage),
        "gate.sparsification": parameters(sparsification.check),
        "gate.optimizer": parameters(state.optimizer, given=("starts", "weight_decay")),
    }


def parts(config: dict) -> list[tuple[str, Callable, dict | None]]:
    """What such a run is made of, to be built before anything is done: sections, functions, and their keyword arguments."""
    train, gates = config["train"], config["gate"]
    return [
        ("train.bootstrapping", bootstrapping.rule, train.get("bootstrapping")),
        ("gate.sparsification", sparsification.check, gates.get("sparsification")),
        ("gate.optimizer", functools.partial(state.optimizer, 1), gates.get("optimizer")),
        ("dynamic", gate_targets.check, config["dynamic"]),
    ]


def trained(job: Job) -> dict:
    """The gated network's variables, with every path's statistics."""
    return load_variables(job.workdir.folder("gate") / VARIABLES)


def held_out_shares(job: Job) -> list[list[float]]:
    """Of each gate the share of the held-out images that take each of its choices.

    Raises:
      ValueError: for a stage `gate` done before that was kept.
    """
    found = read_json(job.workdir.folder("gate") / "found.json")["holdout"]
    if "share" not in found:
        raise ValueError("gate/found.json does not say which paths held-out images take; run with --redo=gate")
    return found["share"]


def with_path_statistics(supernet: Supernet, variables: dict, images: np.ndarray) -> dict:
    """The variables with the statistics of every path on uint8[batches, b, h, w, c], where the network has batch norm.

    Those of channels that a path does without are what they would be: what the gradient of its gate sees of them.
    """
    if not gated.has_batch_norm(variables):
        return {**variables, gated.PATHS: {}}
    net, plain = supernet.largest_net(), {name: leaves for name, leaves in variables.items() if name != gated.PATHS}

    def of_path(genome: jax.Array, given: dict, seen: jax.Array) -> dict:
        with relaxed_reads.scaled(supernet, relaxed.one_hot(supernet.space, genome)):
            return recalibrate(net, given, seen)["batch_stats"]

    # Images and weights are given: closed over they would be constants, as large, of the program.
    of_paths = jax.jit(lambda genomes, *given: jax.lax.map(lambda genome: of_path(genome, *given), genomes))
    found = of_paths(jnp.asarray(gates.paths(supernet)), plain, images)
    # Nothing in front of the gate depends on the path: rounding must not either.
    front = supernet.arch.segments[0].blocks
    alike = {
        name: jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], len(leaf), axis=0), found[name])
        for name in front
        if name in found
    }
    return {**variables, gated.PATHS: {**found, **alike}}


def default_batch() -> int:
    """Images of a batch on this backend: at least the chunk that runs in front of the first gate."""
    return max(256, cascade.default_capacity(1)[0])


class Answering:
    """A gated network on the images of a split: logits float32[m, classes] and path int32[m, gates]; one compiled program."""

    def __init__(self, supernet: Supernet, *, batch: int | None = None, capacity: int | None = None):
        """Images of a batch, by default `default_batch()`, and of a chunk, as in `gates.grouped`."""
        self.run, self.capacity = jax.jit(gates.grouped(supernet, capacity=capacity)), capacity
        self.batch = batch or default_batch()

    def __call__(self, variables: dict | Cut, images: np.ndarray) -> gates.Answers:
        found, count = [], len(images)
        batch = min(self.batch, count)
        for start in range(0, count, batch):
            rows = np.minimum(np.arange(start, start + batch), count - 1)  # the last image fills the last batch
            found.append(jax.tree.map(np.asarray, self.run(variables, images[rows])))
        return gates.Answers(*(np.concatenate(leaves)[:count] for leaves in zip(*found, strict=True)))


def predictions(job: Job, *, batch: int = 256) -> dict[str, np.ndarray]:
    """int[m] by the name of each path, as `gates.parts` names it: its likeliest class for every test image."""
    variables, images, found = trained(job), job.images.test.images, {}
    if len(job.supernet.space.genes) > 1:  # then no part is a path of its own
        return found
    for number, genome in enumerate(gates.paths(job.supernet), 1):
        net, own = gated.path(job.supernet, variables, genome)
        run = jax.jit(lambda v, x, net=net: net.apply(v, x)[0].argmax(-1))
        starts = range(0, len(images), batch)
        found[f"path{number}"] = np.concatenate([np.asarray(run(own, images[at : at + batch])) for at in starts])
    return found


def network(supernet: Supernet) -> sparsification.Network:
    """The network as the training of its gates asks for it."""
    table, space = macs.table(supernet), supernet.space

    def ends(variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        both = (gated.path(supernet, variables, genome) for genome in (space.smallest, space.largest))
        return tuple(net.apply(own, images)[0] for net, own in both)

    return sparsification.Network(
        heads=gate.trained,
        with_heads=gate.with_trained,
        masked=functools.partial(gated.masked, supernet),
        ends=ends,
        macs=functools.partial(relaxed.expected_cost, table),
        most_macs=table.exact(space.largest),
    )


def folder_of(path: str) -> Path:
    """A run's working directory as a config names it."""
    return Path(str(path)).expanduser()
