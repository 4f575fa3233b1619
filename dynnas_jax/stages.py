"""The stages of the main job: each reads artifacts, does its work, and returns the files it leaves.

A stage's options are the keyword arguments of its function here; the config's section of its name fills them in.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dynnas_jax import records
from dynnas_jax.costs import macs
from dynnas_jax.data.mixing import rule as mixing_rule
from dynnas_jax.dynamic import protocol, thresholds
from dynnas_jax.job import Job, build_supernet, facts_of, load_variables, save_variables
from dynnas_jax.networks import big_little
from dynnas_jax.search import collect as collecting
from dynnas_jax.search import evolution, predictor
from dynnas_jax.search.pairs import choose_pair
from dynnas_jax.train import calibration, loop, sandwich
from dynnas_jax.workdir import read_arrays, read_config, read_json, write_json


def _evaluator(job: Job, calibration_images: int, chunk: int) -> collecting.Evaluator:
    score = job.dynamic.get("score", "max_softmax")
    split = job.images.holdout
    if not len(split):
        raise ValueError("data: holdout is 0, but search and thresholds need held-out images")
    return collecting.Evaluator(job.supernet, job.calibration(calibration_images), split, score=score, chunk=chunk)


def train(
    job: Job, folder: Path, *, sandwich_rule: dict | None = None, mixing: dict | None = None, **options
) -> tuple[str, ...]:
    """The supernet, by the sandwich rule; leaves checkpoints, metrics, and the averaged variables."""
    evaluate = _evaluator(job, 1024, 2)
    ends = np.stack([job.supernet.space.smallest, job.supernet.space.largest])

    def held_out(variables):
        smallest, largest = evaluate(variables, ends).correct.mean(axis=1)
        return {"holdout_accuracy_smallest": float(smallest), "holdout_accuracy_largest": float(largest)}

    final = loop.fit(
        job.supernet,
        job.images.train,
        sandwich.rule(**(sandwich_rule or {})),
        seed=job.seed,
        augment=job.augment,
        mix=mixing_rule(**mixing) if mixing else None,
        directory=folder,
        evaluate=held_out,
        **options,
    )
    save_variables(folder / "supernet.msgpack", jax.device_get(loop.averaged(final)))
    write_json(folder / "data.json", facts_of(job.images))
    return "supernet.msgpack", "data.json"


def _supernet_variables(job: Job) -> dict:
    return load_variables(job.workdir.folder("train") / "supernet.msgpack")


def collect(
    job: Job, folder: Path, *, subnets: int = 1000, calibration_images: int = 1024, chunk: int = 16
) -> tuple[str, ...]:
    """Records of sampled subnets on the held-out images."""
    genomes = collecting.distinct(job.supernet.space, job.key(1), subnets)
    evaluate = _evaluator(job, calibration_images, chunk)
    cost = macs.table(job.supernet).exact
    collecting.run(evaluate, _supernet_variables(job), genomes, cost, folder / "records.zarr")
    store = folder / "records.zarr"
    return tuple(sorted(str(path.relative_to(folder)) for path in store.rglob("*") if path.is_file()))


def predict(job: Job, folder: Path, **options) -> tuple[str, ...]:
    """The accuracy predictor, fitted on the records."""
    store = records.open(job.workdir.folder("collect") / "records.zarr", job.supernet.space.fingerprint)
    genomes, accuracy = store.read("genome"), store.accuracy()[:, 0]
    fitted = predictor.fit(job.supernet.space, genomes, accuracy, key=job.key(2), **options)
    predictor.save(fitted, folder)
    return "predictor.json", "params.npz"


def search(job: Job, folder: Path, *, budgets: int = 16, calibration_images: int = 1024, **options) -> tuple[str, ...]:
    """The best subnet for each budget, all budgets at once; then the pair, chosen on held-out images.

    Candidates are the subnets found, the smallest and the largest; each is evaluated, not only predicted.
    """
    supernet = job.supernet
    table, fitted = macs.table(supernet), predictor.load(job.workdir.folder("predict"), supernet.space)
    ends = table.exact(supernet.space.smallest), table.exact(supernet.space.largest)
    limits = np.geomspace(*ends, budgets + 2)[1:-1].astype(np.float32)
    keys = jax.random.split(job.key(3), budgets)
    run = functools.partial(evolution.run, space=supernet.space, fitness=fitted, cost=table, **options)
    found = jax.jit(jax.vmap(lambda key, budget: run(key, budget=budget)))(keys, jnp.asarray(limits))
    genomes = np.concatenate([[supernet.space.smallest], np.asarray(found.genome), [supernet.space.largest]])
    evaluate = _evaluator(job, calibration_images, len(genomes))
    variables = _supernet_variables(job)
    answers = evaluate(variables, genomes)
    predicted = np.asarray(jax.jit(jax.vmap(lambda genome: fitted(genome)))(genomes))
    allowed, front = [ends[0], *limits.tolist(), ends[1]], []
    for budget, genome, guess, correct in zip(allowed, genomes, predicted, answers.correct, strict=True):
        cost = table.exact(genome)
        front.append(
            {
                "budget": float(budget),
                "feasible": cost <= budget,
                "genome": supernet.space.to_json(genome),
                "macs": cost,
                "params": macs.params_table(supernet).exact(genome),
                "predicted_accuracy": float(guess),
                "holdout_accuracy": float(correct.mean()),
            }
        )
    pair = _pair(job, folder, variables, genomes, answers, calibration_images)
    space = {"space": supernet.space.fingerprint, "smallest_macs": ends[0], "largest_macs": ends[1]}
    write_json(folder / "found.json", {**space, "front": front, "pair": pair})
    return "found.json", "pair.msgpack"


def _pair(job, folder, variables, genomes, answers, calibration_images) -> dict:
    """Chooses the pair, extracts both nets with their own statistics, and describes it as `found.json` does."""
    supernet, dynamic = job.supernet, dict(job.dynamic)
    score = dynamic.pop("score", "max_softmax")
    costs = np.asarray([macs.table(supernet).exact(genome) for genome in genomes])
    stem = big_little.cost(big_little.build(supernet, genomes[0], genomes[0])).stem
    chosen = choose_pair(answers.score, answers.correct, costs, stem, **dynamic)
    images = calibration.batches(job.calibration(calibration_images), min(128, calibration_images))
    own, described = {}, {}
    for which, index in (("little", chosen.little), ("big", chosen.big)):
        own[which] = calibration.extract_calibrated(supernet, variables, genomes[index], images)[1]
        described[which] = {
            "genome": supernet.space.to_json(genomes[index]),
            "arch": supernet.arch.file(genomes[index]),
            "macs": int(costs[index]),
            "params": macs.params(own[which]),
        }
    pair = big_little.build(supernet, genomes[chosen.little], genomes[chosen.big])
    cost = big_little.cost(pair)
    save_variables(folder / "pair.msgpack", own)
    point = chosen.point
    return {
        **described,
        "stem_macs": cost.stem,
        "cost": list(cost.cumulative),
        "params": big_little.params(pair, own),
        "thresholds": list(point.thresholds),
        "score": score,
        "target": {"max_macs": chosen.max_cost, "min_accuracy": chosen.min_accuracy},
        "feasible": point.feasible,
        "holdout": {
            "accuracy": point.accuracy,
            "average_macs": point.average_cost,
            "exit_rate": list(point.exit_rate),
        },
    }


class _FoundPair(NamedTuple):
    found: dict
    pair: big_little.Pair
    variables: dict


def _found_pair(job: Job) -> _FoundPair:
    """The searched pair and its variables."""
    folder = job.workdir.folder("search")
    found = read_json(folder / "found.json")["pair"]
    genomes = (job.supernet.space.from_json(found[which]["genome"]) for which in ("little", "big"))
    return _FoundPair(found, big_little.build(job.supernet, *genomes), load_variables(folder / "pair.msgpack"))


def evaluate(job: Job, folder: Path) -> tuple[str, ...]:
    """Little, big and dynamic on the test split, which nothing before has seen."""
    found, pair, variables = _found_pair(job)
    split = job.images.test
    dynamic = protocol.confident_pair(pair, score=found["score"])
    out = protocol.answers(dynamic, variables, split)
    point = thresholds.evaluate(out.score, out.correct, np.asarray(dynamic.cost), found["thresholds"])
    choice = dynamic.policy(out.score.T, np.asarray(found["thresholds"], np.float32))
    right = out.correct[np.arange(len(split)), choice]
    np.savez(
        folder / "outputs.npz",
        score=out.score,
        correct=out.correct,
        prediction=out.prediction,
        choice=choice,
        label=split.labels,
        image_id=split.image_id,
    )
    summary: dict[str, Any] = {"split": "test", "images": len(split)}
    for s, which in enumerate(("little", "big")):
        summary[which] = {"accuracy": float(out.correct[:, s].mean())} | {
            k: found[which][k] for k in ("macs", "params")
        }
    summary["dynamic"] = {
        "accuracy": point.accuracy,
        "macs": point.average_cost,
        "params": found["params"],
        "exit_rate": list(point.exit_rate),
        "thresholds": list(point.thresholds),
    }
    summary["paired"] = {
        "dynamic_right_big_wrong": int((right & ~out.correct[:, 1]).sum()),
        "dynamic_wrong_big_right": int((~right & out.correct[:, 1]).sum()),
    }
    summary["expected_macs_fraction"] = point.average_cost / found["big"]["macs"]
    write_json(folder / "evaluation.json", summary)
    return "evaluation.json", "outputs.npz"


def export(
    job: Job,
    folder: Path,
    *,
    precisions: tuple[str, ...] = ("fp32", "int8"),
    calibration_images: int = 256,
    threads: int = 1,
    runs: int = 1000,
    warm_up: int = 100,
) -> tuple[str, ...]:
    """The pair as TFLite files in `export/TARGET`, each checked; then the cascade over the test split, timed."""
    from dynnas_jax.export import pair as exporting

    found, pair, variables = _found_pair(job)
    saved = read_arrays(job.workdir.folder("evaluate") / "outputs.npz")
    predicted = saved["prediction"][np.arange(len(saved["choice"])), saved["choice"]]
    pair = big_little.in_form(pair, "conv")
    cost = big_little.cost(pair)

    def little(images):
        stem = big_little.run_stem(pair, variables, images)
        return big_little.after_stem(pair, "little", variables, stem), stem

    def big(images):
        return big_little.after_stem(pair, "big", variables, big_little.run_stem(pair, variables, images))

    test = job.images.test
    where = folder / job.target
    files = exporting.export_pair(
        little,
        functools.partial(big_little.after_stem, pair, "big", variables),
        big,
        image_shape=test.images.shape[1:],
        folder=where,
        calibration=job.calibration(calibration_images),
        metadata={
            "labels": list(job.images.classes),
            "cost": list(cost.cumulative),
            "score": found["score"],
            "thresholds": found["thresholds"],
        },
        macs={"little": cost.little, "big_after_stem": cost.big - cost.stem, "big": cost.big},
        precisions=tuple(precisions),
    )
    measured = exporting.measure(
        where,
        files,
        test.images,
        test.labels,
        predicted,
        precisions=tuple(precisions),
        threads=threads,
        runs=runs,
        warm_up=warm_up,
    )
    write_json(where / "export.json", measured)
    return (f"{job.target}/export.json", *(f"{job.target}/{file['path']}" for file in files.values()))


def report(job: Job, folder: Path, *, title: str | None = None) -> tuple[str, ...]:
    """Tables, figures and the page, from the artifacts alone."""
    from dynnas_jax.reports import page

    page.write(job.workdir.path, images=job.images.test.images, classes=job.images.classes, title=title)
    made = (path for path in sorted(folder.rglob("*")) if path.suffix in (".csv", ".png"))
    return "../report.html", *(str(path.relative_to(folder)) for path in made)


def best_subnet(path: Path, max_macs: float) -> dict:
    """The subnet of a trained run with the best predicted accuracy within a budget, as a genome and as an arch file.

    Raises:
      ValueError: for a budget that is no number, a run without its predictor, or a budget below the smallest cost (named).
    """
    if not max_macs > 0:
        raise ValueError(f"max_macs is {max_macs}, must be above 0")
    config = read_config(path)
    for name in ("train", "predict"):
        if not (path / name / "manifest.json").is_file():
            raise ValueError(f"{path}: stage {name!r} is not done; `dynnas run` must come to it first")
    supernet = build_supernet(config["supernet"], read_json(path / "train" / "data.json"))
    table, fitted = macs.table(supernet), predictor.load(path / "predict", supernet.space)
    if max_macs < (least := table.exact(supernet.space.smallest)):
        raise ValueError(f"no subnet of this space costs {max_macs:.0f} MACs or less; the smallest costs {least}")
    found = jax.jit(lambda key: evolution.run(key, supernet.space, fitted, table, max_macs))(jax.random.key(0))
    genome = np.asarray(found.genome)
    return {
        "macs": table.exact(genome),
        "params": macs.params_table(supernet).exact(genome),
        "predicted_accuracy": float(found.fitness),
        "genome": supernet.space.to_json(genome),
        "arch": supernet.arch.file(genome),
    }
