"""The main job: the stages in order, each skipped when it is complete and resumed when it is not."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any

from dynnas_jax import settings
from dynnas_jax.workdir import Stage, Workdir, read_config, read_json

_DATA = ("data", "supernet", "seed")
STAGES = (
    Stage("train", (*_DATA, "train"), ()),
    Stage("collect", (*_DATA, "collect", "dynamic.score"), ("train",)),
    Stage("predict", (*_DATA, "predict"), ("collect",)),
    Stage("search", (*_DATA, "search", "dynamic"), ("train", "predict")),
    Stage("evaluate", (*_DATA, "evaluate"), ("search",)),
    Stage("export", (*_DATA, "export", "target"), ("evaluate",)),
    Stage("report", (*_DATA, "report"), ("collect", "predict", "search", "evaluate", "export")),
)
NAMES = tuple(stage.name for stage in STAGES)
TARGETS = ("x86",)  # what is exported runs elsewhere too, but is checked and measured here


# The least value of options that would else be found wrong only when their stage begins, maybe hours later.
_LEAST = {
    "train": {"steps": 1, "batch_size": 1, "checkpoint_every": 1, "log_every": 1, "evaluate_every": 0, "ema_decay": 0},
    "collect": {"subnets": 10, "calibration_images": 1, "chunk": 1},
    "predict": {"epochs": 1, "batch_size": 1},
    "search": {"budgets": 1, "population": 2, "generations": 1, "tournament": 1, "calibration_images": 1},
    "export": {"calibration_images": 1, "threads": 1, "runs": 1, "warm_up": 0},
    "dynamic": {"max_macs_fraction": 0, "max_accuracy_loss": 0},
}


def check(config: dict) -> None:
    """Every key of the config must configure something, and no value be impossible.

    Raises:
      ValueError: naming the unknown key and the nearest, or the value and what it must be.
    """
    from dynnas_jax import networks, stages
    from dynnas_jax.data import augment, mixing, sources
    from dynnas_jax.search import evolution, pairs, predictor
    from dynnas_jax.train import loop, sandwich, state

    data, supernet, train = dict(config["data"]), dict(config["supernet"]), dict(config["train"])
    settings.check_options("data", data, [sources.load], also=("name", "augment"), given=("seed",))
    settings.check_options("data.augment", data.get("augment") or {}, [augment.rule])
    network = networks.network(supernet.pop("network", None))
    if not network.has_space:
        raise ValueError(f"supernet.network is {network.function!r}, a fixed network; choose one with a space")
    settings.check_options("supernet", supernet, [network.resolve()], given=("channels", "classes"))
    filled = ("seed", "augment", "mix", "directory", "evaluate", "mesh")
    settings.check_options("train", train, [loop.fit], also=("sandwich_rule", "mixing"), given=filled)
    settings.check_options("train.mixing", train.get("mixing") or {}, [mixing.rule])
    settings.check_options("train.optimizer", train.get("optimizer") or {}, [state.optimizer])
    settings.check_options("train.sandwich_rule", train.get("sandwich_rule") or {}, [sandwich.rule])
    settings.check_options("dynamic", config["dynamic"], [pairs.choose_pair], also=("score",))
    settings.check_options("predict", config["predict"], [predictor.fit], given=("key",))
    settings.check_options("search", config["search"], [stages.search, evolution.run])
    for name in ("collect", "evaluate", "export", "report"):
        settings.check_options(name, config[name], [getattr(stages, name)])
    _check_values(config)
    _build(config)


def _check_values(config: dict) -> None:
    from dynnas_jax.confidence import SCORES
    from dynnas_jax.export.tflite import PRECISIONS
    from dynnas_jax.search.pairs import BIG_NETS

    settings.check_least("", config, {"seed": 0})
    for section, least in _LEAST.items():
        settings.check_least(f"{section}.", config[section], least)
    dynamic = config["dynamic"]
    if (dynamic.get("max_macs_fraction") is None) == (dynamic.get("max_accuracy_loss") is None):
        raise ValueError("dynamic: give exactly one of max_macs_fraction and max_accuracy_loss")
    score, precisions = dynamic.get("score", "max_softmax"), config["export"].get("precisions", PRECISIONS)
    if score not in SCORES:
        raise ValueError(f"dynamic.score is {score!r}, choose from {list(SCORES)}")
    if dynamic.get("big_net", BIG_NETS[0]) not in BIG_NETS:
        raise ValueError(f"dynamic.big_net is {dynamic['big_net']!r}, choose from {list(BIG_NETS)}")
    if not precisions or not set(precisions) <= set(PRECISIONS):
        raise ValueError(f"export.precisions is {tuple(precisions)!r}, choose from {PRECISIONS}")
    if config["target"] not in TARGETS:
        raise ValueError(f"target is {config['target']!r}, choose from {list(TARGETS)}")


def _build(config: dict) -> None:
    """Builds what training is made of, so that a value none of it accepts is found before the first step."""
    from dynnas_jax.data import augment, mixing
    from dynnas_jax.train import sandwich, state

    train = config["train"]
    parts = [
        ("data.augment", augment.rule, config["data"].get("augment")),
        ("train.optimizer", functools.partial(state.optimizer, train.get("steps", 1)), train.get("optimizer")),
        ("train.sandwich_rule", sandwich.rule, train.get("sandwich_rule")),
    ]
    if train.get("mixing"):
        parts.append(("train.mixing", mixing.rule, train["mixing"]))
    for section, function, options in parts:
        try:
            function(**(options or {}))
        except TypeError as error:
            raise ValueError(f"{section}: {options} holds a value of another type ({error})") from error


def run(config: dict, path: Path, *, names: tuple[str, ...] = NAMES, redo: str | None = None) -> None:
    """Does the named stages in order, in `path`.

    A finished stage is left alone; `redo` deletes one stage's artifacts, and those built on them, first.

    Raises:
      ValueError: for an unknown stage or key, a workdir of another config, a damaged artifact, or data that are missing.
    """
    for name in (*names, *([redo] if redo else [])):
        if name not in NAMES:
            raise ValueError(f"unknown stage {name!r}, choose from {', '.join(NAMES)}")
    workdir = Workdir(path, STAGES, config)
    # What is wrong with the config or the data must come to light before anything is deleted.
    job = _prepare(workdir, config) if redo else None
    if redo and (deleted := workdir.redo(redo)):
        _say(f"deleted {', '.join(deleted)}")
    todo = []
    for name in NAMES:
        if name in names and not todo and workdir.complete(name):
            _say(f"{name}: done before")
        elif name in names:
            todo.append(name)
    if todo:
        _check_inputs(workdir, todo)
        _do(workdir, job or _prepare(workdir, config), todo)
    if "report" in names:
        _print_summary(path)


def keep_memory() -> None:
    """Lets glibc keep freed memory; works only before JAX starts its threads.

    XLA's CPU backend allocates its temporaries anew every step: mapped and zeroed by the kernel each time, they cost a third of
    a small net's step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # M_ARENA_MAX (beyond 64 MiB only one shared arena keeps memory), M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        for parameter, value in ((-8, 1), (-3, 2**31 - 1), (-1, 2**31 - 1)):
            mallopt(parameter, value)


def _prepare(workdir: Workdir, config: dict) -> Any:
    keep_memory()
    check(config)
    _use_compilation_cache()
    from dynnas_jax import job

    return job.prepare(workdir, config)


def _check_inputs(workdir: Workdir, todo: list[str]) -> None:
    """All that the stages build on, near and far, must be done by this config or be about to be."""
    needed = set(todo)
    for name in reversed(NAMES):
        if name in needed:
            needed |= set(workdir.stages[name].inputs)
    missing = [name for name in NAMES if name in needed and name not in todo and not workdir.complete(name)]
    if missing:
        raise ValueError(f"stage {todo[0]!r} needs {', '.join(missing)}, not done yet; add to --stages")


def _do(workdir: Workdir, job: Any, todo: list[str]) -> None:
    from dynnas_jax import stages

    workdir.claim()
    for name in todo:
        if workdir.complete(name):
            _say(f"{name}: done before")
            continue
        _say(f"{name} ...")
        folder = workdir.start(name)
        workdir.finish(name, getattr(stages, name)(job, folder, **workdir.config[name]))


def _use_compilation_cache() -> None:
    """Compiled programs are kept between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dynnas_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _print_summary(path: Path) -> None:
    from dynnas_jax.reports import artifacts, tables

    print(tables.text(tables.summary(artifacts.read(path))))
    found = read_json(path / "search" / "found.json")
    if not found["pair"]["feasible"]:
        target, costs = found["pair"]["target"], (found["smallest_macs"], found["largest_macs"])
        _say(f"no pair meets the target {target}; the nearest is shown. Subnets cost {costs[0]} to {costs[1]} MACs")
    print(f"report: {path / 'report.html'}")


def status(path: Path) -> list[tuple[str, str]]:
    """(stage, "done", "started" or "not started") of a working directory. Raises ValueError if it is none."""
    read_config(path)
    rows = []
    for name in NAMES:
        done, begun = (path / name / file for file in ("manifest.json", "started.json"))
        rows.append((name, "done" if done.exists() else "started" if begun.exists() else "not started"))
    return rows


def _say(line: str) -> None:
    print(f"dynnas: {line}", flush=True)
