"""Runs that were made outside a study, taken into it: a link stands where the study would have its own."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynnas_jax import recipe
from dynnas_jax.study.grid import Grid, flat, plain
from dynnas_jax.study.running import Run
from dynnas_jax.workdir import read_config


def take(study: Grid, folder: Path, given: Sequence[Path]) -> list[Run]:
    """Links each run to where the run of the study with the same config would be; nothing is copied, nor written into it.

    A run may name another one that is taken too, where the study's row names a row.

    Args:
      folder: of the study, which has been claimed.
      given: working directories of finished runs.

    Returns:
      The runs of the study that are linked now.

    Raises:
      ValueError: for a directory that is no run of the study (the least differing row is told), that is not finished, or in
        whose place the study has a run of its own; none is linked then.
    """
    free = [run for run in (Run(row, seed, folder) for row, seed in study.runs()) if not run.taken]
    try:
        return _linked(study, folder, given)
    except ValueError:
        for run in free:
            if run.taken:
                run.path.unlink()
        raise


def _linked(study: Grid, folder: Path, given: Sequence[Path]) -> list[Run]:
    left = {path: flat(plain(read_config(path.expanduser()))) for path in given}
    found, nearest = [], dict.fromkeys(left, (math.inf, ""))
    for row, seed in study.runs():
        run = Run(row, seed, folder)
        differing = {path: _differences(run, config) for path, config in left.items()}
        for path, words in differing.items():
            nearest[path] = min(nearest[path], (len(words), ": ".join([run.words, *words[:1]])))
        if match := next((path for path, words in differing.items() if not words), None):
            del left[match]
            _link(run, match.expanduser().resolve())
            found.append(run)
    if left:
        path = next(iter(left))
        count, near = nearest[path]
        reason = (
            f"is no run of this study; the least differing row is {near}" if count else f"is a second run of {near}"
        )
        raise ValueError(f"--take: {path} {reason}")
    return found


def _link(run: Run, where: Path) -> None:
    if run.path.exists() and (not run.taken or run.path.resolve() != where):
        raise ValueError(
            f"--take: {where} is the run of {run.words}, but the study has its own in {run.path.resolve()}"
        )
    if not run.taken:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        run.path.symlink_to(where, target_is_directory=True)
    check(run)


def check(run: Run) -> None:
    """Raises ValueError where a run that was taken is not finished, or is no longer the run of its row."""
    where = run.path.resolve()
    if found := difference(run, read_config(run.path)):
        raise ValueError(
            f"{where} was taken for {run.words}, but has another config by now, {found}; remove the link {run.path}"
        )
    if missing := run.missing():
        raise ValueError(f"{where} was taken for {run.words}, but {missing}; finish it first")


def difference(run: Run, config: dict) -> str | None:
    """The first key by which a run of this config is not that of the study, in words; None where it is.

    Paths are the same where they lead to the same place.
    """
    return next(iter(_differences(run, flat(plain(config)))), None)


def _differences(run: Run, other: dict) -> list[str]:
    try:
        own = flat(plain(recipe.with_files(run.row.config(run.seed, run.folder))))
    except ValueError as error:  # it names a file of a row that is not there
        return [str(error)] * len(other)
    return [
        f"{key} is {_told(other, key)}, not {_told(own, key)}"
        for key in dict.fromkeys((*own, *other))
        if _settled(own.get(key)) != _settled(other.get(key)) or (key in own) != (key in other)
    ]


def _told(side: dict, key: str) -> str:
    return json.dumps(side[key]) if key in side else "none"


def _settled(value: Any) -> Any:
    """A path that leads somewhere, as what it leads to."""
    if isinstance(value, list):
        return [_settled(one) for one in value]
    if not isinstance(value, str) or "/" not in value:
        return value
    path = Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value
