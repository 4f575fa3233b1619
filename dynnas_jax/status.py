"""How far a run is, from the files it leaves: which stage, how much of it is done, and when it was last heard of."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

from dynnas_jax import progress
from dynnas_jax.workdir import read_config

_DAMAGED = f"{progress.FILE} is damaged"


def lines(path: Path, names: tuple[str, ...], *, now: float | None = None) -> list[str]:
    """One line for each of these stages of a working directory, and for exports to other targets: done, not started, or how far.

    Args:
      now: Unix time; by default that of the clock.

    Raises:
      ValueError: if it is no working directory.
    """
    config, now = read_config(path), time.time() if now is None else now
    names += tuple(f"export/{file.parent.name}" for file in sorted(path.glob("export/*/manifest.json")))
    return [f"{name:10s} {_state(path / name, name, config, now)}" for name in names]


def _state(folder: Path, name: str, config: dict[str, Any], now: float) -> str:
    if (folder / "manifest.json").exists():
        return "done"
    if not (folder / "started.json").exists():
        return "not started"
    far = {"collect": _of_records}.get(name, _of_stage)(folder, config)
    heard_s = max(0.0, now - max(_written(file) for file in folder.rglob("*")))
    return ", ".join(["started", *filter(None, [far]), f"last heard of {progress.duration(heard_s)} ago"])


def _written(file: Path) -> float:
    """When a file was last written; long ago for one that is gone meanwhile."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _of_stage(folder: Path, config: dict[str, Any]) -> str | None:
    """What a stage says of itself, from the file it writes while it runs."""
    try:
        found = progress.read(folder)
    except ValueError:
        return _DAMAGED
    return None if found is None else progress.line(found)


def _of_records(folder: Path, config: dict[str, Any]) -> str | None:
    if told := _of_stage(folder, config):
        return told
    from dynnas_jax import records  # here, since tensorstore takes a while

    asked = (config.get("collect") or {}).get("subnets") or _default_subnets()
    try:
        done = int(records.open(folder / "records.zarr").done().sum())
    except ValueError:  # not created yet, or being created
        done = 0
    return f"{done} of {asked} subnets"


def _default_subnets() -> int:
    from dynnas_jax.stages import collect

    return inspect.signature(collect.run).parameters["subnets"].default
