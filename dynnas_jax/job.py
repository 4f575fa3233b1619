"""What all stages of a run share: the data, the supernet that fits them, and how variables are kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import serialization

from dynnas_jax import elastic, networks
from dynnas_jax.confidence import DEFAULT_SCORE
from dynnas_jax.data import augment, mixing, sources
from dynnas_jax.dynamic import protocol, routers
from dynnas_jax.export import targets
from dynnas_jax.networks import big_little
from dynnas_jax.networks import coupled as coupling
from dynnas_jax.networks.restricted import restricted
from dynnas_jax.search import collect
from dynnas_jax.train import calibration
from dynnas_jax.workdir import Workdir, read_config, read_json, write_bytes

NO_HELD_OUT = "data: holdout is 0, but search and thresholds need held-out images"


class Job(NamedTuple):
    """What all stages share, built from the config's `data`, `supernet`, `dynamic` and `seed`."""

    workdir: Workdir
    images: sources.Dataset
    supernet: elastic.Supernet
    dynamic: dict
    augment: Any
    target: str
    seed: int

    @property
    def score(self) -> str:
        """The confidence score that routes images."""
        return self.dynamic.get("score", DEFAULT_SCORE)

    def key(self, use: int) -> jax.Array:
        """A key of its own for each use."""
        return jax.random.fold_in(jax.random.key(self.seed), use)

    def calibration(self, count: int) -> np.ndarray:
        """uint8[n, h, w, c]: training images for statistics, the same ones in every stage."""
        order = np.random.default_rng([self.seed, 1, 1]).permutation(len(self.images.train))
        return self.images.train.images[order[:count]]

    def calibration_batches(self, count: int) -> np.ndarray:
        """uint8[batches, b, h, w, c]: the same images in batches of at most 128."""
        images = self.calibration(count)
        return calibration.batches(images, min(128, len(images)))


def prepare(workdir: Workdir, config: dict) -> Job:
    """Loads the data and builds the supernet to fit them.

    Raises:
      ValueError: for data that are missing, or images the network cannot read.
    """
    data = dict(config["data"])
    augmented = data.pop("augment", None)
    images = sources.load(seed=config["seed"], **data)
    supernet = build_supernet(config["supernet"], facts_of(images), config["target"])
    rule = augment.rule(**augmented) if augmented is not None else None
    return Job(workdir, images, supernet, config["dynamic"], rule, config["target"], config["seed"])


def show_augmentations(config: dict, path: Path, *, images: int = 10) -> None:
    """Writes a PNG page of some training images under each augmentation, and under those of the config."""
    from dynnas_jax.reports import augmentations, plots

    data = dict(config["data"])
    augmented, mixed = data.pop("augment", None), config["train"].get("mixing")
    data |= {"holdout": 0, "train_limit": images, "test_limit": 1, "stream": None}
    samples = sources.load(seed=config["seed"], **data).train.images
    rule = augment.rule(**augmented) if augmented is not None else None
    mix = mixing.rule(**mixed) if mixed else None
    write_bytes(path, plots.png(augmentations.page(samples, rule, mix, seed=config["seed"]), dpi=100))


def facts_of(images: sources.Dataset) -> dict:
    """What a network must know of its data; JSON-able."""
    shape = list(images.train.images.shape[1:])
    return {"image_shape": shape, "classes": list(images.classes), "mean": list(images.mean), "std": list(images.std)}


def build_supernet(section: dict, facts: dict, target: str | None = None) -> elastic.Supernet:
    """The supernet of a config's section for images of these facts, restricted to what a target runs well if one is named.

    Raises:
      ValueError: where section and images do not fit each other, for an unknown target, or if it leaves the space no choice.
    """
    height, width, channels = facts["image_shape"]
    if height != width:
        raise ValueError(f"data: images are {height}x{width}, must be square; give data.image_size")
    options = dict(section)
    pairs, router = options.pop("coupled", False), {k: options.pop(k) for k in ("router_units",) if k in options}
    loader = networks.supernet(options.pop("network", None))
    options.setdefault("depthwise", "auto")
    if loader.function == "small_images":
        options.setdefault("image_size", height)
    moments = {"mean": tuple(facts["mean"]), "std": tuple(facts["std"])}
    try:
        supernet = loader(channels=channels, classes=len(facts["classes"]), **moments, **options)
    except TypeError as error:
        raise ValueError(f"supernet: a value has another type ({error})") from error
    resolution = supernet.arch(supernet.space.largest).resolution
    if resolution != height:
        raise ValueError(f"data: images are {height}x{width}, but the supernet reads {resolution}x{resolution}")
    if target is not None:
        supernet = restricted(supernet, targets.target(target))
    if not pairs and router:
        raise ValueError("supernet.router_units does nothing without supernet.coupled=True")
    return coupling.coupled(supernet, **router) if pairs else supernet


def supernet_of_run(path: Path) -> elastic.Supernet:
    """The supernet of a run that has been trained. Raises ValueError for no working directory, or one without training."""
    config = read_config(path)
    return build_supernet(config["supernet"], read_json(path / "train" / "data.json"), config["target"])


def save_variables(path: Path, variables: dict) -> None:
    write_bytes(path, serialization.msgpack_serialize(jax.tree.map(np.asarray, variables)))


def load_variables(path: Path) -> dict:
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:  # msgpack and NumPy raise what a damaged byte leads them to
        raise ValueError(f"{path} is missing or corrupt ({error}); pass --redo={path.parent.name}") from error


def evaluator(job: Job, calibration_images: int, chunk: int, **options: Any) -> collect.Evaluator:
    split = job.images.holdout
    if not len(split):
        raise ValueError(NO_HELD_OUT)
    return collect.Evaluator(
        job.supernet, job.calibration(calibration_images), split, score=job.score, chunk=chunk, **options
    )


def supernet_variables(job: Job) -> dict:
    return load_variables(job.workdir.folder("train") / "supernet.msgpack")


class FoundPair(NamedTuple):
    """What the search chose."""

    found: dict
    pair: big_little.Pair
    variables: dict

    @property
    def router(self) -> routers.Router:
        """What routes the images: little's confidence where nothing else is said."""
        rows = self.found.get("routers")
        return routers.Router.from_json(rows[0]["spec"]) if rows else routers.Router(confidence=self.found["score"])

    def dynamic(self, depthwise: str | None = None) -> protocol.Dynamic:
        """The pair with its router; its convolutions in another form where one is named."""
        pair = big_little.in_form(self.pair, depthwise) if depthwise else self.pair
        return protocol.routed_pair(pair, self.router, self.variables.get("router"), score=self.found["score"])


def found_pair(job: Job) -> FoundPair:
    """The searched pair and its variables."""
    return _read_pair(job.supernet, job.workdir.folder("search"))


def _read_pair(supernet: elastic.Supernet, folder: Path, remedy: str | None = None) -> FoundPair:
    found = read_json(folder / "found.json", remedy)["pair"]
    genomes = (supernet.space.from_json(found[which]["genome"]) for which in ("little", "big"))
    return FoundPair(found, big_little.build(supernet, *genomes), load_variables(folder / "pair.msgpack"))


class FoundDynamic(NamedTuple):
    """A finished run's dynamic network, ready to answer."""

    dynamic: protocol.Dynamic
    variables: dict
    thresholds: tuple[float, ...]  # [S - 1], chosen on the held-out images
    resolution: int  # pixels of the images it reads, height = width


def dynamic_of_run(path: str | Path) -> FoundDynamic:
    """The dynamic network of a run whose search is done, from its working directory alone.

    Raises:
      ValueError: for no working directory, one whose search is not done, or a damaged artifact.
    """
    path = Path(path)
    found = _read_pair(supernet_of_run(path), path / "search", "`dynnas run` with its config makes it")
    return FoundDynamic(
        found.dynamic(), found.variables, tuple(found.found["thresholds"]), found.pair.big.arch.resolution
    )
