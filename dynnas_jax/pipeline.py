"""The main job: the stages in order, each skipped when it is complete and resumed when it is not."""

from __future__ import annotations

import os
from pathlib import Path

from dynnas_jax import settings
from dynnas_jax.workdir import Stage, Workdir, read_json, write_json

_DATA = ("data", "supernet", "seed")
STAGES = (
    Stage("train", (*_DATA, "train"), ()),
    Stage("collect", (*_DATA, "collect"), ("train",)),
    Stage("predict", (*_DATA, "predict"), ("collect",)),
    Stage("search", (*_DATA, "search", "dynamic"), ("train", "predict")),
    Stage("evaluate", (*_DATA, "evaluate"), ("search",)),
    Stage("export", (*_DATA, "export", "target"), ("evaluate",)),
    Stage("report", (*_DATA, "report"), ("collect", "predict", "search", "evaluate", "export")),
)
NAMES = tuple(stage.name for stage in STAGES)


def check(config: dict) -> None:
    """Every key of the config must configure something. Raises ValueError naming the unknown key and the nearest."""
    from dynnas_jax import networks, stages
    from dynnas_jax.data import augment, sources
    from dynnas_jax.search import evolution, pairs, predictor
    from dynnas_jax.train import loop, sandwich, state

    data, supernet, train = dict(config["data"]), dict(config["supernet"]), dict(config["train"])
    settings.check_options("data", data, [sources.load], also=("name", "augment"), given=("seed",))
    settings.check_options("data.augment", data.get("augment") or {}, [augment.rule])
    network = networks.network(supernet.pop("network", None))
    settings.check_options("supernet", supernet, [network.resolve()], given=("channels", "classes"))
    filled = ("seed", "augment", "directory", "evaluate", "mesh")
    settings.check_options("train", train, [loop.fit], also=("sandwich_rule",), given=filled)
    settings.check_options("train.optimizer", train.get("optimizer") or {}, [state.optimizer])
    settings.check_options("train.sandwich_rule", train.get("sandwich_rule") or {}, [sandwich.rule])
    settings.check_options("dynamic", config["dynamic"], [pairs.choose_pair], also=("score",))
    settings.check_options("predict", config["predict"], [predictor.fit], given=("key",))
    settings.check_options("search", config["search"], [stages.search, evolution.run])
    for name in ("collect", "evaluate", "export", "report"):
        settings.check_options(name, config[name], [getattr(stages, name)])


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
    if redo:
        _say(f"deleted {', '.join(workdir.redo(redo))}")
    todo = []
    for name in NAMES:
        if name in names and not todo and workdir.complete(name):
            _say(f"{name}: done before")
        elif name in names:
            todo.append(name)
    if todo:
        _do(workdir, config, todo)
    if "report" in names:
        _print_summary(path)


def _do(workdir: Workdir, config: dict, todo: list[str]) -> None:
    check(config)
    _use_compilation_cache()
    from dynnas_jax import stages

    setting = stages.setting(workdir, config)
    write_json(workdir.path / "config.json", config)
    for name in todo:
        for other in workdir.stages[name].inputs:
            if not workdir.complete(other):
                raise ValueError(f"stage {name!r} needs {other!r}, which is not done; add it to --stages")
        if workdir.complete(name):
            _say(f"{name}: done before")
            continue
        _say(f"{name} ...")
        folder = workdir.start(name)
        workdir.finish(name, getattr(stages, name)(setting, folder, **config[name]))


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
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is no working directory of dynnas: it has no config.json")
    rows = []
    for name in NAMES:
        done, begun = (path / name / file for file in ("manifest.json", "started.json"))
        rows.append((name, "done" if done.exists() else "started" if begun.exists() else "not started"))
    return rows


def _say(line: str) -> None:
    print(f"dynnas: {line}", flush=True)
