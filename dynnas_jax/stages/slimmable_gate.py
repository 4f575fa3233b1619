"""The stage that trains the gates of a slimmable supernet: stage II, and what moves them to the average MACs that are wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynnas_jax import devices, processes
from dynnas_jax.dynamic import gate_targets, gates
from dynnas_jax.job import Job, load_variables, save_variables, trained_file
from dynnas_jax.networks import gate
from dynnas_jax.stages import slimmable, slimmable_transfer, spent
from dynnas_jax.train import distillation, loop, sparsification
from dynnas_jax.workdir import write_json


def run(
    job: Job,
    folder: Path,
    *,
    steps: int,
    batch_size: int = loop.BATCH_SIZE,
    sparsification: dict | None = None,
    optimizer: dict | None = None,
    ema_decay: float = 0.99,
    calibration_images: int = 1024,
    transfer_from: str | None = None,
    power_w: float | None = None,
    checkpoint_every: int = 100,
    log_every: int = 10,
) -> tuple[str, ...]:
    """The gated network, by sandwich gate sparsification on the frozen supernet; leaves what its training took beside it.

    Where `dynamic` asks for average MACs, the gates' scores are tilted until the held-out images meet them.

    Args:
      steps: 0 leaves the gates as they start, to judge transferred ones.
      sparsification: keyword arguments of `train.sparsification.rule`.
      optimizer: of `train.state.optimizer`; nothing of a gate decays.
      calibration_images: training images for the statistics of every path, where there is batch norm.
      transfer_from: a run's working directory, whose trained slimming heads these start from.
      power_w: see `spent.metered`.
    """
    supernet = job.supernet
    start = load_variables(job.workdir.folder("train") / trained_file(job.kind))
    frozen = slimmable.with_path_statistics(supernet, start, job.calibration_batches(calibration_images))
    moved = None if transfer_from is None else slimmable_transfer.heads(job, transfer_from, start)
    initial = start if moved is None else moved.variables
    options = {"steps": steps, "batch_size": batch_size, "ema_decay": ema_decay, "log_every": log_every}
    options |= {"optimizer": {"learning_rate": 0.05, **(optimizer or {}), "weight_decay": 0.0}}
    params = initial["params"]
    if steps:
        with spent.metered(folder, power_w):
            params = _learned(job, folder, initial, frozen, sparsification, checkpoint_every, options)
    variables = {**frozen, "params": gate.with_trained(frozen["params"], gate.trained(params))}
    variables, found = _met(job, variables)
    if processes.is_first():
        save_variables(folder / slimmable.VARIABLES, variables)
        write_json(folder / "found.json", found)
        if moved is not None:
            write_json(folder / "transferred.json", moved.listed)
    return slimmable.VARIABLES, "found.json", *(() if moved is None else ("transferred.json",))


def _learned(
    job: Job, folder: Path, initial: dict, frozen: dict, rule: dict | None, checkpoint_every: int, options: dict
) -> dict:
    """The params after training, their gates averaged over the steps."""
    network = slimmable.network(job.supernet)
    made = sparsification.rule(network, **(rule or {}), target_macs=gate_targets.asked(job.supernet, **job.dynamic))
    final = loop.fit(
        job.supernet,
        job.images.train,
        made,
        seed=job.seed,
        augment=job.augment,
        initial=initial,
        teacher=distillation.Teacher(network.ends, frozen),
        directory=folder,
        checkpoint_every=checkpoint_every,
        trackers=(),
        **options,
    )
    return devices.on_host(final.averaged)["params"]


def _met(job: Job, variables: dict) -> tuple[dict, dict]:
    """The variables with the gates tilted to the target, if there is one, and what held-out images then come to."""
    supernet, split = job.supernet, job.images.holdout
    answer, cost = slimmable.Answering(supernet), np.asarray(gates.cost(supernet), np.float64)
    heads, unit = gate.trained(variables["params"]), gate_targets.tilts(supernet)

    def tilted(tilt: float) -> dict:
        moved = gate.tilted(heads, {block: tilt * own for block, own in unit.items()})
        return {**variables, "params": gate.with_trained(variables["params"], moved)}

    def average_macs(tilt: float) -> float:
        path = answer(tilted(tilt), split.images).path
        return float(cost[gates.number_of(supernet, path)].mean())

    target = gate_targets.asked(supernet, **job.dynamic)
    met = None if target is None else gate_targets.meet(average_macs, target)
    variables = tilted(met.tilt if met else 0.0)
    told = {
        "space": supernet.space.fingerprint,
        "target_macs": target,
        "target_missed": met is not None and met.average_macs > target,
        "tilt": met.tilt if met else 0.0,
        "gates": {gene.name: list(gene.choices) for gene in supernet.space.genes},
        "smallest_macs": int(cost[0]),
        "largest_macs": int(cost[-1]),
        "paths": len(cost),
        "holdout": _seen(job, cost, answer(variables, split.images)),
    }
    return variables, told


def _seen(job: Job, cost: np.ndarray, answers: gates.Answers) -> dict:
    """What held-out images come to, by the cost[paths] of each path, and the share that takes each choice of each gate."""
    supernet, labels = job.supernet, job.images.holdout.labels
    shares = [
        gates.Spread.of(choice, len(gene.choices)).share.tolist()
        for choice, gene in zip(answers.path.T, supernet.space.genes, strict=True)
    ]
    average = float(cost[gates.number_of(supernet, answers.path)].mean())
    return {"accuracy": float((answers.logits.argmax(-1) == labels).mean()), "average_macs": average, "share": shares}


def check(
    job: Job,
    *,
    steps: int,
    batch_size: int = loop.BATCH_SIZE,
    transfer_from: str | None = None,
    power_w: float | None = None,
    **_,
) -> None:
    """Raises ValueError for a target that no path meets, a batch that does not fit, a power of nothing, or gates of others."""
    gate_targets.asked(job.supernet, **job.dynamic)
    spent.check(power_w)
    if steps:
        loop.check(steps, batch_size, len(job.images.train), devices.data_mesh())
    if transfer_from is not None:
        slimmable_transfer.source(job, transfer_from, "gate")
