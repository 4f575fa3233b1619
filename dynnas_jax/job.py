"""What all stages of a run share: the data, the supernet that fits them, and how variables are kept in files."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import serialization

from dynnas_jax import elastic, kinds, networks, processes
from dynnas_jax.confidence import DEFAULT_SCORE
from dynnas_jax.data import augment, mixing, sources, splits, superclasses
from dynnas_jax.export import targets
from dynnas_jax.networks import coupled as coupling
from dynnas_jax.networks import ds_net, fixed, growing, multi_supernet
from dynnas_jax.networks.restricted import restricted
from dynnas_jax.search import collect
from dynnas_jax.train import calibration
from dynnas_jax.workdir import Workdir, read_config, read_json, write_bytes

NO_HELD_OUT = "data: holdout is 0, but search and thresholds need held-out images"

_OF_EXITS = (
    "exits",
    "ratios",
    "reuse",
)  # in a config's section `multi_exit`, beside what makes its supernet of single nets

NOT_SQUARE = "data: images are {}x{}, must be square; give data.image_size"


class Job(NamedTuple):
    """What all stages share, built from the config's `data`, the section of its kind, `dynamic` and `seed`."""

    workdir: Workdir
    images: sources.Dataset
    supernet: elastic.Supernet | None  # of a fixed network one without genes, of a cascade None
    dynamic: dict
    augment: Any
    target: str
    seed: int
    superclasses: superclasses.Superclasses | None = None  # where a run has them

    @property
    def kind(self) -> kinds.Kind:
        """The kind of this run."""
        return kinds.of(self.workdir.config)

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
    """Loads the data and builds the supernet to fit them; of several processes, the first alone has the test images.

    Raises:
      ValueError: for data that are missing, images the network cannot read, or superclasses without images.
    """
    data = dict(config["data"])
    augmented = data.pop("augment", None)
    # What reads the test images is the first's alone, and each process of a host would hold them again.
    images = sources.load(seed=config["seed"], **data, with_test=processes.is_first())
    supernet = build(config, facts_of(images))
    rule = augment.rule(**augmented) if augmented is not None else None
    groups = superclasses.of(images.classes, **config["superclasses"]) if "superclasses" in config else None
    if groups:
        groups.check_images(np.asarray(images.holdout.labels), "held-out (data.holdout)")
        if images.test is not None:
            groups.check_images(np.asarray(images.test.labels), "test (data.test_limit)")
    return Job(workdir, images, supernet, config.get("dynamic", {}), rule, config["target"], config["seed"], groups)


def show_augmentations(config: dict, path: Path, *, images: int = 10) -> None:
    """Writes a PNG page of some training images under each augmentation, and under those of the config."""
    from dynnas_jax.reports import augmentations, plots

    data = dict(config["data"])
    augmented, mixed = data.pop("augment", None), config.get("train", {}).get("mixing")
    data |= {"holdout": 0, "train_limit": images, "test_limit": 1, "stream": None}
    samples = sources.load(seed=config["seed"], **data).train.images
    rule = augment.rule(**augmented) if augmented is not None else None
    mix = mixing.rule(**mixed) if mixed else None
    write_bytes(path, plots.png(augmentations.page(samples, rule, mix, seed=config["seed"]), dpi=100))


def facts_of(images: sources.Dataset) -> dict:
    """What a network must know of its data; JSON-able."""
    shape = list(images.train.images.shape[1:])
    return {"image_shape": shape, "classes": list(images.classes), "mean": list(images.mean), "std": list(images.std)}


def described(images: sources.Dataset) -> dict:
    """What a run leaves of its data in `data.json`: `facts_of`, and the fingerprints of the splits that are not trained on."""
    kept = {name: getattr(images, name) for name in ("holdout", "test")}
    return facts_of(images) | {"splits": {name: splits.fingerprint(split) for name, split in kept.items()}}


def build(config: dict, facts: dict) -> elastic.Supernet | None:
    """What a run of this config trains: a supernet, or a fixed network as one without genes; None where it trains nothing.

    Raises:
      ValueError: as `build_supernet` and `fixed.build`.
    """
    if (kind := kinds.of(config)) in kinds.OF_SUBNETS:
        return build_supernet(config[kind.name], facts, config["target"])
    if kind is kinds.MULTI_EXIT:
        own = {name: value for name, value in config["multi_exit"].items() if name in _OF_EXITS}
        base = base_of(config, facts)
        try:
            return multi_supernet.build(base, **own)
        except TypeError as error:
            raise ValueError(f"multi_exit: a value has another type ({error})") from error
    height, width, _ = facts["image_shape"]
    if height != width:
        raise ValueError(NOT_SQUARE.format(height, width))
    if kind is kinds.GROWTH:
        return growing.built(config["growth"], growing.initial(config), facts)
    if kind is kinds.SLIMMABLE:
        return ds_net.of_section(config["slimmable"], facts)
    return None if kind is kinds.CASCADE else fixed.build(config[kind.name], facts)


def base_of(config: dict, facts: dict) -> elastic.Supernet:
    """The supernet of single nets that the one of nets of several exits is made on."""
    section = {name: value for name, value in config["multi_exit"].items() if name not in _OF_EXITS}
    return build_supernet(section, facts, config["target"])


def build_supernet(section: dict, facts: dict, target: str | None = None) -> elastic.Supernet:
    """The supernet of a config's section for images of these facts, restricted to what a target runs well if one is named.

    Raises:
      ValueError: where section and images do not fit each other, for an unknown target, or if it leaves the space no choice.
    """
    height, width, channels = facts["image_shape"]
    if height != width:
        raise ValueError(NOT_SQUARE.format(height, width))
    options = dict(section)
    pairs, router = options.pop("coupled", False), {k: options.pop(k) for k in ("router_units",) if k in options}
    loader = networks.supernet(options.pop("network", None))
    options.setdefault("depthwise", "auto")
    if "image_size" in inspect.signature(loader.resolve()).parameters:
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
    if pairs and not hasattr(supernet.arch, "template"):
        raise ValueError(
            f"supernet.coupled: {section['network']!r} cannot be coupled; choose another network, or leave it out"
        )
    if not pairs and router:
        raise ValueError("supernet.router_units does nothing without supernet.coupled=True")
    return coupling.coupled(supernet, **router) if pairs else supernet


def supernet_of_run(path: Path) -> elastic.Supernet:
    """The supernet of a run that has been trained, of a fixed network one without genes.

    Raises:
      ValueError: for no working directory, or one without training.
    """
    config = read_config(path)
    if (kind := kinds.of(config)) is kinds.CASCADE:
        raise ValueError(f"{path} is {kind.words}: it has no supernet of its own")
    facts = read_json(kinds.data_file(path, kind))
    if kind is kinds.GROWTH:
        return fixed.build(growth_found(path)["candidates"][-1]["network"], facts)
    return build(config, facts)


def trained_file(kind: kinds.Kind) -> str:
    """Where a training's variables are, in its stage's folder."""
    return f"{kind.name}.msgpack"


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
    if job.superclasses:
        options["kept"] = job.superclasses.apart
    return collect.Evaluator(
        job.supernet, job.calibration(calibration_images), split, score=job.score, chunk=chunk, **options
    )


def supernet_variables(job: Job) -> dict:
    """The trained variables of a run that trains: of a fixed network with statistics of its own."""
    return load_variables(job.workdir.folder("train") / trained_file(job.kind))


def trained_net(job: Job) -> tuple[nn.Module, dict]:
    """The net of a run of a fixed network, or the last that grew, and its variables with their own statistics."""
    if job.kind is kinds.GROWTH:
        last = growth_found(job.workdir.path)["candidates"][-1]
        return grown_net(last, facts_of(job.images)), load_variables(job.workdir.path / last["variables"])
    return job.supernet.largest_net(), supernet_variables(job)


def growth_found(path: Path) -> dict:
    """What a run that grew found: its iterations, and its nets with their depths, costs and accuracy."""
    return read_json(path / "grow" / "growth.json")


def grown_net(entry: dict, facts: dict) -> nn.Module:
    """The net of an entry of `growth.json`."""
    return fixed.build(entry["network"], facts).largest_net()
