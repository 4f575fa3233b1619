"""The kinds of runs there are: the section of a config that names each, what else its config holds, and its stages.

Nothing here imports JAX.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from dynnas_jax.workdir import Stage, read_config


class Kind(NamedTuple):
    """One kind of run."""

    name: str  # the section that only its configs have
    words: str  # in a message
    sections: tuple[str, ...]  # of its config, in order
    stages: tuple[Stage, ...]  # in order; the first leaves `data.json`
    own: dict[str, str]  # the module in `stages` of a stage's function, where it is not that of the stage's name
    leaves: str  # the stage that leaves the finished nets

    @property
    def names(self) -> tuple[str, ...]:
        """Its stages' names."""
        return tuple(stage.name for stage in self.stages)

    def module(self, stage: str) -> str:
        """The module of a stage's function."""
        return f"dynnas_jax.stages.{self.own.get(stage, stage)}"

    def function(self, stage: str) -> Callable:
        """The function of a stage: (job, folder, **options) -> the files it leaves."""
        return importlib.import_module(self.module(stage)).run

    def check(self, stage: str) -> Callable | None:
        """What finds out, before anything is done, whether a stage can be: (job, **options); None for one without."""
        return getattr(importlib.import_module(self.module(stage)), "check", None)


_SHARED = ("target", "seed")


# What nets of several exits are made for. Which of them is exported, `dynamic.deployed`, is no part of finding them.
_AIMS = (
    *("dynamic.target_macs", "dynamic.target_macs_fractions", "dynamic.target_latency_ms"),
    *("dynamic.target_latency_fractions", "dynamic.latency_table", "dynamic.omega", "dynamic.score"),
)


def _data(name: str) -> tuple[str, str, str]:
    """What every stage reads."""
    return "data", name, "seed"


SUPERNET = Kind(
    "supernet",
    "a supernet",
    (
        *("data", "supernet", "dynamic", *_SHARED),
        *("train", "collect", "predict", "search", "evaluate", "export", "report"),
    ),
    (
        Stage("train", (*_data("supernet"), "train"), ()),
        Stage("collect", (*_data("supernet"), "collect", "dynamic.score"), ("train",)),
        Stage("predict", (*_data("supernet"), "predict"), ("collect",)),
        Stage("search", (*_data("supernet"), "search", "dynamic"), ("train", "predict")),
        Stage("evaluate", (*_data("supernet"), "evaluate"), ("search",)),
        Stage("export", (*_data("supernet"), "export", "target"), ("evaluate",)),
        Stage("report", (*_data("supernet"), "report"), ("collect", "predict", "search", "evaluate", "export")),
    ),
    {},
    "search",
)
NETWORK = Kind(
    "network",
    "one fixed network",
    ("data", "network", *_SHARED, "train", "evaluate", "export", "report"),
    (
        Stage("train", (*_data("network"), "train"), ()),
        Stage("evaluate", (*_data("network"), "evaluate"), ("train",)),
        Stage("export", (*_data("network"), "export", "target"), ("evaluate",)),
        Stage("report", (*_data("network"), "report"), ("train", "evaluate", "export")),
    ),
    {"train": "network_train", "evaluate": "network_evaluate"},
    "train",
)
CASCADE = Kind(
    "cascade",
    "a cascade of two runs",
    ("data", "cascade", "dynamic", *_SHARED, "evaluate", "export", "report"),
    (
        Stage("search", (*_data("cascade"), "dynamic"), ()),
        Stage("evaluate", (*_data("cascade"), "evaluate"), ("search",)),
        Stage("export", (*_data("cascade"), "export", "target"), ("evaluate",)),
        Stage("report", (*_data("cascade"), "report"), ("search", "evaluate", "export")),
    ),
    {"search": "cascade_search"},
    "search",
)
MULTI_EXIT = Kind(
    "multi_exit",
    "a supernet of nets of several exits",
    (
        *("data", "multi_exit", "dynamic", *_SHARED),
        *("train", "collect", "predict", "search", "evaluate", "export", "report"),
    ),
    (
        Stage("train", (*_data("multi_exit"), "train"), ()),
        Stage("collect", (*_data("multi_exit"), "collect", "dynamic.score"), ("train",)),
        Stage("predict", (*_data("multi_exit"), "predict", *_AIMS), ("collect",)),
        Stage("search", (*_data("multi_exit"), "search", *_AIMS), ("train", "predict")),
        Stage("evaluate", (*_data("multi_exit"), "evaluate", "dynamic.deployed"), ("search",)),
        Stage("export", (*_data("multi_exit"), "export", "dynamic.deployed", "target"), ("evaluate",)),
        Stage("report", (*_data("multi_exit"), "report"), ("collect", "predict", "search", "evaluate", "export")),
    ),
    {"predict": "exits_predict", "search": "exits_search", "evaluate": "exits_evaluate"},
    "search",
)
EXIT_NETWORK = Kind(
    "exit_network",
    "one fixed network of several exits",
    ("data", "exit_network", "dynamic", *_SHARED, "train", "search", "evaluate", "export", "report"),
    (
        Stage("train", (*_data("exit_network"), "train"), ()),
        Stage("search", (*_data("exit_network"), "search", *_AIMS), ("train",)),
        Stage("evaluate", (*_data("exit_network"), "evaluate", "dynamic.deployed"), ("search",)),
        Stage("export", (*_data("exit_network"), "export", "dynamic.deployed", "target"), ("evaluate",)),
        Stage("report", (*_data("exit_network"), "report"), ("train", "search", "evaluate", "export")),
    ),
    {"train": "network_train", "search": "exit_network_search", "evaluate": "exits_evaluate"},
    "search",
)
EAS = Kind(
    "eas",
    "a supernet of superclasses",
    (
        *("data", "eas", "superclasses", *_SHARED),
        *("teacher", "train", "collect", "predict", "generator", "search", "evaluate", "export", "report"),
    ),
    (
        Stage("teacher", (*_data("eas"), "teacher"), ()),
        Stage("train", (*_data("eas"), "superclasses", "train"), ("teacher",)),
        Stage("collect", (*_data("eas"), "superclasses", "collect"), ("train",)),
        Stage("predict", (*_data("eas"), "superclasses", "predict"), ("collect",)),
        Stage("generator", (*_data("eas"), "superclasses", "generator"), ("train",)),
        Stage("search", (*_data("eas"), "superclasses", "search"), ("generator", "predict")),
        Stage("evaluate", (*_data("eas"), "superclasses", "evaluate"), ("search",)),
        Stage("export", (*_data("eas"), "superclasses", "export", "target"), ("evaluate",)),
        Stage(
            "report", (*_data("eas"), "superclasses", "report"), ("collect", "predict", "search", "evaluate", "export")
        ),
    ),
    {
        **{"teacher": "superclass_teacher", "train": "superclass_train", "predict": "superclass_predict"},
        **{"generator": "superclass_generator", "search": "superclass_search", "evaluate": "superclass_evaluate"},
        "export": "superclass_export",
    },
    "search",
)
SLIMMABLE = Kind(
    "slimmable",
    "a dynamic slimmable network",
    ("data", "slimmable", "dynamic", *_SHARED, "train", "gate", "evaluate", "export", "report"),
    (
        Stage("train", (*_data("slimmable"), "train"), ()),
        Stage("gate", (*_data("slimmable"), "gate", "dynamic"), ("train",)),
        Stage("evaluate", (*_data("slimmable"), "evaluate"), ("gate",)),
        Stage("export", (*_data("slimmable"), "export", "target"), ("evaluate",)),
        Stage("report", (*_data("slimmable"), "report"), ("train", "gate", "evaluate", "export")),
    ),
    {"train": "slimmable_train", "gate": "slimmable_gate", "evaluate": "slimmable_evaluate"},
    "gate",
)
GROWTH = Kind(
    "growth",
    "a network that grows stage by stage",
    ("data", "growth", *_SHARED, "train", "grow", "evaluate", "export", "report"),
    (
        Stage("grow", (*_data("growth"), "train", "grow"), ()),
        Stage("evaluate", (*_data("growth"), "evaluate"), ("grow",)),
        Stage("export", (*_data("growth"), "export", "target"), ("evaluate",)),
        Stage("report", (*_data("growth"), "report"), ("grow", "evaluate", "export")),
    ),
    {"train": "network_train", "evaluate": "growth_evaluate", "export": "growth_export"},
    "grow",
)
OF_EXITS = MULTI_EXIT, EXIT_NETWORK
OF_NET = NETWORK, GROWTH  # whose answer is that of one net
OF_SUBNETS = SUPERNET, EAS  # the section of their name is that of a supernet of single nets
KINDS = {kind.name: kind for kind in (SUPERNET, NETWORK, CASCADE, MULTI_EXIT, EXIT_NETWORK, GROWTH, EAS, SLIMMABLE)}


def of(sections: Iterable[str]) -> Kind:
    """The kind of a run, from the sections that its config has.

    Raises:
      ValueError: for a config without the section of a kind, or with those of two.
    """
    found = [name for name in KINDS if name in sections]
    if not found:
        raise ValueError(f"config: section 'supernet' is missing (or one of {', '.join(list(KINDS)[1:])} in its place)")
    if len(found) > 1:
        raise ValueError(f"config: sections {found[0]!r} and {found[1]!r} are of two kinds of runs; give one of them")
    return KINDS[found[0]]


def of_run(path: Path) -> Kind:
    """The kind of the run in a working directory. Raises ValueError where there is none."""
    return of(read_config(path))


def net_manifest(path: str | Path | None) -> Path | None:
    """What changes when the nets of a run do: the manifest of the stage that leaves them; None where there is no run."""
    folder = Path(str(path)).expanduser()
    if not path or not (folder / "config.json").is_file():
        return None
    return folder / of_run(folder).leaves / "manifest.json"


def data_file(path: Path, kind: Kind) -> Path:
    """Where a run has its classes, the shape of its images, and which images it held out."""
    return path / kind.stages[0].name / "data.json"
