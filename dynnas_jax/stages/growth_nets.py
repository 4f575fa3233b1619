"""The nets of a stage-wise growth: each trained, or read off a deeper one, in a folder of its own, and scored stage by stage."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax import kinds, processes
from dynnas_jax.costs import energy
from dynnas_jax.data import splits
from dynnas_jax.dynamic import protocol, single
from dynnas_jax.elastic import Supernet
from dynnas_jax.job import (
    Job,
    described,
    facts_of,
    growth_found,
    load_variables,
    save_variables,
    supernet_of_run,
    trained_file,
)
from dynnas_jax.networks import elastic_resnet, growing
from dynnas_jax.search import stage_features, stage_growth, stage_importance
from dynnas_jax.stages import network_train, spent
from dynnas_jax.workdir import read_config, read_json, write_json

RANDOM = "random"  # in place of a criterion: a coin for each stage
FACTS, SCORED, FINAL = "net.json", "scored.msgpack", "network.msgpack"  # in the folder of a net
FURTHER = "further"  # folder in that of a net: of its further training
SCORING = "scoring"  # folder beside those of the nets: what the importances took by which they are compared
_KEPT = 2  # nets whose features are kept at a time: those that are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The section `grow` of a config: how a network grows. The defaults are the paper's where it says them.

    Args:
      iterations: each adds a temporary net and a candidate to the initial one.
      initial_modules: of every stage at first; None: the paper's, 6 blocks or 2 cells.
      growth: modules that a stage grows by; None: the paper's, 2 blocks or 1 cell.
      criterion: of `stage_importance.CRITERIA`, or "random" for coins.
      criterion_options: its keyword arguments.
      choose: one of its arguments with the values to choose from, once, by the held-out accuracy of the first candidate; of
        values that are worth the same, the first.
      samples: training images whose features are looked at, at most.
      pooled_side: pixels that a stage's maps are pooled to, at most.
      further: keyword arguments of the section `train` that are others in a further training of the candidates; None: none.
      source: a run's directory; nets begin with the modules of its net, or of its supernet, which must be as deep and have
        every depth that growing may ask for.
      read_off: nets are compared as they stand in the source; nothing is trained but what `further` says.
      uniform: whether a net of the same depth in all stages, of about the last candidate's MACs, is trained for comparison.
      power_w: that training draws on all devices together, where no meter shall tell, and where neither a meter nor a table does.
      grid_g_per_kwh: CO2-equivalents of the electricity.
    """

    iterations: int = 5
    initial_modules: int | None = None
    growth: int | None = None
    criterion: str = "pls"
    criterion_options: dict | None = None
    choose: dict | None = None
    samples: int = 2000
    pooled_side: int = 2
    further: dict | None = None
    source: str | None = None
    read_off: bool = False
    uniform: bool = False
    power_w: float | None = None
    grid_g_per_kwh: float = energy.GRID_G_PER_KWH["world"]


class Net(NamedTuple):
    """One net of a growth."""

    name: str  # of its folder
    supernet: Supernet  # without genes
    facts: dict  # JSON-able: depths, costs, accuracy, energy


class Nets:
    """Makes nets by role, iteration and depths, one after another; one that is in its folder is read."""

    def __init__(self, job: Job, folder: Path, options: Options):
        """`options.source` is read here, once for all nets."""
        self.job, self.folder, self.options, self._features = job, folder, options, {}
        self._source = None if options.source is None else source_variables(options.source)
        labels = job.images.train.labels
        generator = np.random.default_rng([job.seed, 5])
        count = min(options.samples, len(labels))
        # In random order, so that fewer of them are a fair sample too.
        self.chosen = generator.permutation(np.flatnonzero(splits.stratified(labels, count, generator)))

    def make(self, role: str, iteration: int, depths: tuple[int, ...]) -> Net:
        """The net, trained where it is not yet."""
        name = f"{role}{iteration or ''}_{'_'.join(map(str, depths))}"
        config = self.job.workdir.config
        supernet = growing.built(config["growth"], depths, facts_of(self.job.images))
        job, folder = self.job._replace(supernet=supernet), self.folder / name
        if not (folder / FACTS).exists():
            self._make(job, folder, {"name": name, "role": role, "iteration": iteration, "depths": list(depths)})
        processes.wait_for_all(f"made {name}")
        return Net(name, supernet, read_json(folder / FACTS, "pass --redo=grow"))

    def _make(self, job: Job, folder: Path, facts: dict) -> None:
        asked, train, net = self.options, job.workdir.config["train"], job.supernet.largest_net()
        initial = None if self._source is None else growing.transferred(self._source, net)
        # Every net draws its own start and its own batches.
        seed = zlib.crc32(f"{job.seed} {facts['name']}".encode()) >> 1
        with spent.metered(folder, asked.power_w):
            if asked.read_off:
                count = train.get("calibration_images", network_train.CALIBRATION_IMAGES)
                scored = network_train.recalibrated(job, count)(initial)
            else:
                scored = network_train.fitted(job, folder, initial=initial, seed=seed, **train)
            final, accuracy = scored, dict.fromkeys(("scored", "final"), held_out(job, scored))
        # What a search takes is told without what makes its nets better afterwards.
        more = None if asked.further is None or facts["role"] == stage_growth.TEMPORARY else folder / FURTHER
        if more is not None:
            with spent.metered(more, asked.power_w):
                options = {**train, **asked.further}
                final = network_train.fitted(job, more, initial=scored, seed=seed + 1, **options)
                accuracy["final"] = held_out(job, final)
        if not processes.is_first():
            return
        save_variables(folder / SCORED, scored)
        save_variables(folder / FINAL, final)
        name = job.workdir.config["growth"]["name"]
        facts |= {
            "network": growing.section(job.workdir.config["growth"], tuple(facts["depths"])),
            "variables": str((folder / FINAL).relative_to(job.workdir.path)),
            **growing.costs(name, net)._asdict(),
            "holdout_accuracy": accuracy,
            "training": spent.told(folder, asked.grid_g_per_kwh, more),
        }
        write_json(folder / FACTS, facts)

    def importances(self, net: Net, options: dict | None) -> tuple[stage_importance.Importance, ...]:
        """What the criterion says of each stage of a net. Raises ValueError, naming the stage, where it can say nothing."""
        stages = range(len(self.features(net).stages))
        return tuple(self._importance(net, number, options) for number in stages)

    def _importance(self, net: Net, stage: int, options: dict | None) -> stage_importance.Importance:
        collected = self.features(net)
        features = collected.stages[stage]
        labels = collected.labels[: len(features)]
        try:
            return stage_importance.of_stage(features, labels, criterion=self.options.criterion, **(options or {}))
        except ValueError as error:
            raise ValueError(f"grow: stage {stage + 1} of {net.name}: {error}") from error

    def told(self, net: Net, options: dict | None) -> list[dict]:
        """`importances` for JSON, of a net that nothing is compared with: where they cannot be, no score, and the reason."""
        found = []
        for number, features in enumerate(self.features(net).stages):
            try:
                found.append(self._importance(net, number, options)._asdict())
            except ValueError as error:
                constant = int((features == features[0]).all(axis=0).sum())
                absent = {"score": None, "features": features.shape[1], "constant": constant}
                found.append({**absent, "reason": str(error)})
        return found

    def score(self, net: Net, options: dict | None) -> tuple[float, ...]:
        """The importance of each stage of a net; where coins are thrown, above 1/2 as often as below for a temporary net."""
        if self.options.criterion == RANDOM:
            seed = zlib.crc32(f"{self.job.seed} {net.name}".encode())
            coins = np.random.default_rng(seed).uniform(size=len(net.facts["depths"]))
            return tuple(coins) if net.facts["role"] == stage_growth.TEMPORARY else (0.5,) * len(coins)
        with spent.metered(self.folder / SCORING, self.options.power_w):
            return tuple(one.score for one in self.importances(net, options))

    def features(self, net: Net) -> stage_features.Collected:
        """Those of each stage, of as many images as memory allows, by the variables that it was trained equally long to."""
        if net.name not in self._features:
            while len(self._features) >= _KEPT:
                del self._features[next(iter(self._features))]
            maps, variables = (
                growing.stage_maps(net.supernet.largest_net()),
                load_variables(self.folder / net.name / SCORED),
            )
            self._features[net.name] = stage_features.collected(
                maps, variables, self.job.images.train, self.chosen, self.bounds(net)
            )
        return self._features[net.name]

    def bounds(self, net: Net) -> tuple[stage_importance.Bounds, ...]:
        """How much of each stage's features is looked at."""
        asked = {"samples": len(self.chosen), "side": self.options.pooled_side}
        shapes = growing.stage_shapes(net.supernet.largest_net())
        return tuple(stage_importance.bounds(channels, height, **asked) for height, _, channels in shapes)


def held_out(job: Job, variables: dict) -> float | None:
    """The accuracy of a job's fixed net on the held-out images; None where there are none."""
    if not len(job.images.holdout):
        return None
    answer = protocol.answering(functools.partial(single.outputs, job.supernet.largest_net()))
    return float(answer(variables, job.images.holdout).correct.mean())


def source_variables(path: str) -> dict:
    """The variables that a run left of its fixed net, of its last candidate, or of its supernet.

    Raises:
      ValueError: for a directory that is no finished training of one.
    """
    folder = Path(path).expanduser()
    kind = _kind(folder)
    if kind is kinds.GROWTH:
        return load_variables(folder / growth_found(folder)["candidates"][-1]["variables"])
    if kind not in (kinds.NETWORK, kinds.SUPERNET):
        raise ValueError(f"grow.source: {folder} is {kind.words}; give a run of a network or of a supernet")
    return load_variables(folder / "train" / trained_file(kind))


def source_depths(path: str) -> tuple[tuple[int, ...], ...] | None:
    """The depths of each stage that a supernet's nets have, as it was trained; None of a run of another kind."""
    folder = Path(path).expanduser()
    if _kind(folder) is not kinds.SUPERNET:
        return None
    supernet = supernet_of_run(folder)
    genes = {gene.name: tuple(map(int, gene.choices)) for gene in supernet.space.genes}
    deepest = growing.depths(supernet.largest_net())
    return tuple(genes.get(elastic_resnet.gene_name(stage), (depth,)) for stage, depth in enumerate(deepest, 1))


def check_images(path: str, job: Job, *, as_it_stands: bool) -> None:
    """Whether a source has not seen the images that this run holds out, as far as it tells.

    Args:
      as_it_stands: its nets are compared without training, so that it must know the same classes.

    Raises:
      ValueError: for one that was trained on some of them, or one of other classes.
    """
    folder = Path(path).expanduser()
    config, mine = read_config(folder), described(job.images)
    data = read_json(kinds.data_file(folder, kinds.of(config)), "`dynnas run` with its config makes it")
    if as_it_stands and data["classes"] != mine["classes"]:
        raise ValueError(
            f"grow.source: {folder} tells other classes than this run's images have, so nothing can be read off it; "
            "leave out grow.read_off"
        )
    held_out = data.get("splits", {}).get("holdout")  # runs from before fingerprints were kept do not tell
    other = config["data"]["name"] != job.workdir.config["data"]["name"] or not len(job.images.holdout)
    if not other and held_out not in (None, mine["splits"]["holdout"]):
        raise ValueError(
            f"grow.source: {folder} held out other images than this run does, so it was trained on some of these; "
            "give both the same section data and the same seed"
        )


def _kind(folder: Path) -> kinds.Kind:
    try:
        kind = kinds.of_run(folder)
    except ValueError as error:
        raise ValueError(f"grow.source: {error}") from error
    first = kind.stages[0].name
    if not (folder / first / "manifest.json").is_file():
        raise ValueError(f"grow.source: {folder}: its stage {first!r} is not done; `dynnas run` does it")
    return kind


def worth(net: Net) -> float:
    """What a candidate is judged by where the criterion's parameters are chosen."""
    return net.facts["holdout_accuracy"]["scored"]
