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
from flax import serialization

from dynnas_jax import elastic, networks, records
from dynnas_jax.costs import macs
from dynnas_jax.data import augment, sources
from dynnas_jax.dynamic import protocol, thresholds
from dynnas_jax.networks import big_little
from dynnas_jax.search import collect as collecting
from dynnas_jax.search import evolution, predictor
from dynnas_jax.search.pairs import choose_pair
from dynnas_jax.train import calibration, loop, sandwich
from dynnas_jax.workdir import Workdir, read_arrays, read_config, read_json, write_bytes, write_json


class Setting(NamedTuple):
    """What all stages share, built from the config's `data`, `supernet`, `dynamic` and `seed`."""

    workdir: Workdir
    images: sources.Dataset
    supernet: elastic.Supernet
    dynamic: dict
    augment: Any
    target: str
    seed: int

    def calibration(self, count: int) -> np.ndarray:
        """uint8[n, h, w, c]: training images for statistics, the same ones in every stage."""
        order = np.random.default_rng([self.seed, 1]).permutation(len(self.images.train))
        return self.images.train.images[order[:count]]


def setting(workdir: Workdir, config: dict) -> Setting:
    """Loads the data and builds the supernet to fit them.

    Raises:
      ValueError: for data that are missing, or images the network cannot read.
    """
    data = dict(config["data"])
    augmented = data.pop("augment", None)
    images = sources.load(seed=config["seed"], **data)
    supernet = _build_supernet(config["supernet"], _facts(images))
    rule = augment.rule(**augmented) if augmented is not None else None
    return Setting(workdir, images, supernet, config["dynamic"], rule, config["target"], config["seed"])


def _facts(images: sources.Dataset) -> dict:
    """What a network must know of its data; JSON-able."""
    shape = list(images.train.images.shape[1:])
    return {"image_shape": shape, "classes": list(images.classes), "mean": list(images.mean), "std": list(images.std)}


def _build_supernet(section: dict, facts: dict) -> elastic.Supernet:
    """The supernet of a config's section for images of these facts. Raises ValueError where they do not fit."""
    height, width, channels = facts["image_shape"]
    if height != width:
        raise ValueError(f"data: images are {height}x{width}, must be square; give data.image_size")
    options = dict(section)
    loader = networks.network(options.pop("network", None))
    if options.get("depthwise", "auto") == "auto":
        options["depthwise"] = "shifts" if jax.default_backend() == "cpu" else "conv"
    if loader.function == "small_images":
        options.setdefault("image_size", height)
    moments = {"mean": tuple(facts["mean"]), "std": tuple(facts["std"])}
    supernet = loader(channels=channels, classes=len(facts["classes"]), **moments, **options)
    resolution = supernet.arch(supernet.space.largest).resolution
    if resolution != height:
        raise ValueError(f"data: images are {height}x{width}, but the supernet reads {resolution}x{resolution}")
    return supernet


def _evaluator(setting: Setting, calibration_images: int, chunk: int) -> collecting.Evaluator:
    score = setting.dynamic.get("score", "max_softmax")
    split = setting.images.holdout
    if not len(split):
        raise ValueError("data: holdout is 0, but search and thresholds need held-out images")
    return collecting.Evaluator(
        setting.supernet, setting.calibration(calibration_images), split, score=score, chunk=chunk
    )


def _save_variables(path: Path, variables: dict) -> None:
    write_bytes(path, serialization.msgpack_serialize(jax.tree.map(np.asarray, variables)))


def _load_variables(path: Path) -> dict:
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:  # msgpack and NumPy raise what a damaged byte leads them to
        raise ValueError(f"{path} is missing or corrupt ({error}); pass --redo={path.parent.name}") from error


def train(setting: Setting, folder: Path, *, sandwich_rule: dict | None = None, **options) -> tuple[str, ...]:
    """The supernet, by the sandwich rule; leaves checkpoints, metrics, and the averaged variables."""
    evaluate = _evaluator(setting, 1024, 2)
    ends = np.stack([setting.supernet.space.smallest, setting.supernet.space.largest])

    def held_out(variables):
        smallest, largest = evaluate(variables, ends).correct.mean(axis=1)
        return {"holdout_accuracy_smallest": float(smallest), "holdout_accuracy_largest": float(largest)}

    final = loop.fit(
        setting.supernet,
        setting.images.train,
        sandwich.rule(**(sandwich_rule or {})),
        seed=setting.seed,
        augment=setting.augment,
        directory=folder,
        evaluate=held_out,
        **options,
    )
    _save_variables(folder / "supernet.msgpack", jax.device_get(loop.averaged(final)))
    write_json(folder / "data.json", _facts(setting.images))
    return "supernet.msgpack", "metrics.jsonl", "data.json"


def _supernet_variables(setting: Setting) -> dict:
    return _load_variables(setting.workdir.folder("train") / "supernet.msgpack")


def collect(
    setting: Setting, folder: Path, *, subnets: int = 1000, calibration_images: int = 1024, chunk: int = 16
) -> tuple[str, ...]:
    """Records of sampled subnets on the held-out images."""
    genomes = collecting.distinct(setting.supernet.space, jax.random.key(setting.seed + 1), subnets)
    evaluate = _evaluator(setting, calibration_images, chunk)
    cost = macs.table(setting.supernet).exact
    collecting.run(evaluate, _supernet_variables(setting), genomes, cost, folder / "records.zarr")
    return ("records.zarr/zarr.json",)


def predict(setting: Setting, folder: Path, **options) -> tuple[str, ...]:
    """The accuracy predictor, fitted on the records."""
    store = records.open(setting.workdir.folder("collect") / "records.zarr", setting.supernet.space.fingerprint)
    genomes, accuracy = store.read("genome"), store.accuracy()[:, 0]
    fitted = predictor.fit(setting.supernet.space, genomes, accuracy, key=jax.random.key(setting.seed + 2), **options)
    predictor.save(fitted, folder)
    return "predictor.json", "params.npz"


def search(
    setting: Setting, folder: Path, *, budgets: int = 16, calibration_images: int = 1024, **options
) -> tuple[str, ...]:
    """The best subnet for each budget, all budgets at once; then the pair, chosen on held-out images.

    Candidates are the subnets found, the smallest and the largest; each is evaluated, not only predicted.
    """
    supernet = setting.supernet
    table, fitted = macs.table(supernet), predictor.load(setting.workdir.folder("predict"), supernet.space)
    ends = table.exact(supernet.space.smallest), table.exact(supernet.space.largest)
    limits = np.geomspace(*ends, budgets + 2)[1:-1].astype(np.float32)
    keys = jax.random.split(jax.random.key(setting.seed + 3), budgets)
    run = functools.partial(evolution.run, space=supernet.space, fitness=fitted, cost=table, **options)
    found = jax.jit(jax.vmap(lambda key, budget: run(key, budget=budget)))(keys, jnp.asarray(limits))
    genomes = np.concatenate([[supernet.space.smallest], np.asarray(found.genome), [supernet.space.largest]])
    evaluate = _evaluator(setting, calibration_images, len(genomes))
    variables = _supernet_variables(setting)
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
    pair = _pair(setting, folder, variables, genomes, answers, calibration_images)
    space = {"space": supernet.space.fingerprint, "smallest_macs": ends[0], "largest_macs": ends[1]}
    write_json(folder / "found.json", {**space, "front": front, "pair": pair})
    return "found.json", "pair.msgpack"


def _pair(setting, folder, variables, genomes, answers, calibration_images) -> dict:
    """Chooses the pair, extracts both nets with their own statistics, and describes it as `found.json` does."""
    supernet, dynamic = setting.supernet, dict(setting.dynamic)
    score = dynamic.pop("score", "max_softmax")
    costs = np.asarray([macs.table(supernet).exact(genome) for genome in genomes])
    stem = big_little.cost(big_little.build(supernet, genomes[0], genomes[0])).stem
    chosen = choose_pair(answers.score, answers.correct, costs, stem, **dynamic)
    images = calibration.batches(setting.calibration(calibration_images), min(128, calibration_images))
    own, described = {}, {}
    for which, index in (("little", chosen.little), ("big", chosen.big)):
        net, own[which] = calibration.extract_calibrated(supernet, variables, genomes[index], images)
        described[which] = {
            "genome": supernet.space.to_json(genomes[index]),
            "arch": supernet.arch.file(genomes[index]),
            "macs": int(costs[index]),
            "params": macs.params(own[which]),
        }
    pair = big_little.build(supernet, genomes[chosen.little], genomes[chosen.big])
    cost = big_little.cost(pair)
    _save_variables(folder / "pair.msgpack", own)
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


def _found_pair(setting: Setting) -> _FoundPair:
    """The searched pair and its variables."""
    folder = setting.workdir.folder("search")
    found = read_json(folder / "found.json")["pair"]
    genomes = (setting.supernet.space.from_json(found[which]["genome"]) for which in ("little", "big"))
    return _FoundPair(found, big_little.build(setting.supernet, *genomes), _load_variables(folder / "pair.msgpack"))


def evaluate(setting: Setting, folder: Path) -> tuple[str, ...]:
    """Little, big and dynamic on the test split, which nothing before has seen."""
    found, pair, variables = _found_pair(setting)
    split = setting.images.test
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
    setting: Setting,
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

    found, pair, variables = _found_pair(setting)
    saved = read_arrays(setting.workdir.folder("evaluate") / "outputs.npz")
    predicted = saved["prediction"][np.arange(len(saved["choice"])), saved["choice"]]
    pair = big_little.in_form(pair, "conv")
    cost = big_little.cost(pair)

    def little(images):
        stem = big_little.run_stem(pair, variables, images)
        return big_little.after_stem(pair, "little", variables, stem), stem

    def big(images):
        return big_little.after_stem(pair, "big", variables, big_little.run_stem(pair, variables, images))

    test = setting.images.test
    where = folder / setting.target
    files = exporting.export_pair(
        little,
        functools.partial(big_little.after_stem, pair, "big", variables),
        big,
        image_shape=test.images.shape[1:],
        folder=where,
        calibration=setting.calibration(calibration_images),
        metadata={
            "labels": list(setting.images.classes),
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
    return (f"{setting.target}/export.json", *(f"{setting.target}/{file['path']}" for file in files.values()))


def report(setting: Setting, folder: Path, *, title: str | None = None) -> tuple[str, ...]:
    """Tables, figures and the page, from the artifacts alone."""
    from dynnas_jax.reports import page

    page.write(setting.workdir.path, images=setting.images.test.images, classes=setting.images.classes, title=title)
    made = (path for path in sorted(folder.rglob("*")) if path.suffix in (".csv", ".png"))
    return "../report.html", *(str(path.relative_to(folder)) for path in made)


def best_subnet(path: Path, max_macs: float) -> dict:
    """The subnet of a trained run with the best predicted accuracy within a budget, as a genome and as an arch file.

    Raises:
      ValueError: for a budget that is none, if the run has not come to its predictor, or if no subnet is that cheap (the smallest cost is named).
    """
    if not max_macs > 0:
        raise ValueError(f"max_macs is {max_macs}, must be above 0")
    config = read_config(path)
    for name in ("train", "predict"):
        if not (path / name / "manifest.json").is_file():
            raise ValueError(f"{path}: stage {name!r} is not done; `dynnas run` must come to it first")
    supernet = _build_supernet(config["supernet"], read_json(path / "train" / "data.json"))
    table, fitted = macs.table(supernet), predictor.load(path / "predict", supernet.space)
    found = jax.jit(lambda key: evolution.run(key, supernet.space, fitted, table, max_macs))(jax.random.key(0))
    genome = np.asarray(found.genome)
    cost = table.exact(genome)
    if cost > max_macs:
        least = table.exact(supernet.space.smallest)
        raise ValueError(f"no subnet of this space costs {max_macs:.0f} MACs or less; the smallest costs {least}")
    return {
        "macs": cost,
        "params": macs.params_table(supernet).exact(genome),
        "predicted_accuracy": float(found.fitness),
        "genome": supernet.space.to_json(genome),
        "arch": supernet.arch.file(genome),
    }
