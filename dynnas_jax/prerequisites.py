"""What must hold before stages of a run begin; each raises ValueError, in a plain line, where it does not."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from dynnas_jax import kinds
from dynnas_jax.workdir import Workdir, read_config

if TYPE_CHECKING:
    from dynnas_jax.job import Job

EXPORT_MODULES = ("tensorflow", "ai_edge_litert")
ONNX_MODULES = ("tf2onnx", "onnx", "onnxruntime")


def check_inputs(workdir: Workdir, todo: list[str], doomed: tuple[str, ...] = ()) -> None:
    """All that the stages to be done build on, near and far, must be done by this config or be about to be; else ValueError.

    What is in `doomed` is about to be deleted.
    """
    needed, names = set(todo), kinds.of(workdir.config).names
    for name in reversed(names):
        if name in needed:
            needed |= set(workdir.stages[name].inputs)
    missing = [name for name in names if name in needed and name not in todo]
    missing = [name for name in missing if name in doomed or not workdir.complete(name)]
    if missing:
        raise ValueError(
            f"stage {todo[0]!r} needs {', '.join(missing)}, not done yet; `dynnas run` with them in --stages does them"
        )


def check_kind(workdir: Workdir, kind: kinds.Kind) -> None:
    """A working directory is of one kind of run for good; else ValueError. A config that is damaged is written anew."""
    try:
        found = kinds.of_run(workdir.path)
    except ValueError:
        return
    if found is not kind:
        raise ValueError(
            f"{workdir.path} holds a run of {found.words}, the config is one of {kind.words}; choose another --workdir"
        )


def check_space(workdir: Workdir, job: Job | None, doomed: tuple[str, ...]) -> None:
    """What is trained must be of the run's space, which a target may restrict; else ValueError."""
    if job is None or job.supernet is None or "train" in doomed or not workdir.folder("train").is_dir():
        return
    if not workdir.config_file.exists():
        return
    from dynnas_jax.job import build, facts_of

    before = read_config(workdir.path).get("target")
    trained = build({**workdir.config, "target": before}, facts_of(job.images))
    if trained.space.fingerprint != job.supernet.space.fingerprint:
        raise ValueError(
            f"{workdir.path}: stage 'train' was made for target {before}, whose space is another than {job.target}'s; "
            "pass --redo=train, or another --workdir"
        )


def check_export_modules(config: dict) -> None:
    """Raises ValueError where what the stage `export` of a config needs is not installed."""
    from dynnas_jax.export import targets

    onnx = config["export"].get("onnx") or targets.target(config["target"]).onnx
    needed = (*EXPORT_MODULES, *(ONNX_MODULES if onnx else ()))
    if absent := [name for name in needed if not importlib.util.find_spec(name)]:
        raise ValueError(
            f"stage 'export' needs {absent[0]}: pip install \"dynnas_jax[export]\", or name the other stages in --stages"
        )
