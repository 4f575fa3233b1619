"""The command `dynnas study`: the grid, its runs, and the tables and figures of what there is."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from dynnas_jax import progress
from dynnas_jax.reports import study_page
from dynnas_jax.reports.study_rows import Asked
from dynnas_jax.study import claim, grid, running, taking
from dynnas_jax.study.times import Times
from dynnas_jax.train import preemption


def run(
    arguments: list[str],
    folder: Path,
    *,
    rows: Sequence[str] | None = None,
    max_minutes: float | None = None,
    table: bool = False,
    take: Sequence[Path] = (),
) -> None:
    """Does what is left of a study, and writes its tables.

    Args:
      arguments: `--config=FILE.py[:mode]` and its overrides.
      rows: only these, and those that they need.
      max_minutes: after that time the run under way is ended as by preemption.
      table: nothing is run; the tables are made of what there is.
      take: working directories of finished runs that were made outside the study.

    Raises:
      ValueError: for a wrong config, another grid than the directory's, or runs that failed, once all others are done.
      Preempted: where the time was over before all was done, or SIGTERM came.
    """
    begun, study = time.monotonic(), grid.read(arguments)
    if max_minutes is not None and not max_minutes > 0:
        raise ValueError(f"--max_minutes={max_minutes:g}: must be above 0")
    runs = [running.Run(row, seed, folder) for row, seed in study.runs(rows)]
    if take or not table:
        _claim(study, folder, take)
    elif not claim.compare(study, folder)[1]:
        raise ValueError(f"{folder}: no study has been run there, so there is nothing to tabulate")
    if table:
        return _write(study, folder, arguments)
    with running.locked(folder) as lock:
        done = _done(study, folder)
        todo = [run for run in runs if run not in done]
        print(f"dynnas: {len(runs) - len(todo)} of {len(runs)} runs are done", flush=True)
        times = Times(folder, [(run.row.name, run.seed) for run in done])
        result = running.work(todo, times, lock, until=max_minutes and begun + 60 * max_minutes)
    _write(study, folder, arguments)
    _say_end(result, times)


def _claim(study: grid.Grid, folder: Path, take: Sequence[Path]) -> None:
    """Takes the directory for this study, and takes finished runs in; both or neither."""
    file = folder / claim.FILE
    before = file.read_bytes() if file.exists() else None
    with contextlib.ExitStack() as stack:
        if before is not None:  # where no study has been, none is at work
            stack.enter_context(running.locked(folder))
        new = claim.claim(study, folder)
        if take:
            if before is None:
                stack.enter_context(running.locked(folder))
            _take(study, folder, take, before)
    if new:
        print(f"dynnas: new in this study: {', '.join(new)}", flush=True)


def _take(study: grid.Grid, folder: Path, take: Sequence[Path], before: bytes | None) -> None:
    file = folder / claim.FILE
    try:
        for run in taking.take(study, folder, take):
            print(f"dynnas: {run.words}: taken from {run.path.resolve()}", flush=True)
    except ValueError:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)
        raise


def _done(study: grid.Grid, folder: Path) -> list[running.Run]:
    """The finished runs, those that were taken in checked again."""
    every = [running.Run(row, seed, folder) for row, seed in study.runs()]
    for run in every:
        if run.taken:
            taking.check(run)
    return [run for run in every if run.finished()]


def _say_end(result: running.Result, times: Times) -> None:
    failures = [f"{run.words}: {reason}" for run, reason in result.failed]
    if result.left:
        seconds = times.expected_of([(run.row.name, run.seed) for run in result.left])
        about = "" if seconds is None else f", about {progress.duration(seconds)}"
        also = f"; {len(failures)} failed, the first: {failures[0]}" if failures else ""
        raise preemption.Preempted(
            f"stopped; {len(result.left)} runs are left{about}, the next is {result.left[0].words}; "
            f"the same command goes on{also}"
        )
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise ValueError(f"{len(failures)} runs failed{more}; the first: {failures[0]}")


def _write(study: grid.Grid, folder: Path, arguments: Sequence[str]) -> None:
    settings = {row.name: grid.settings_of(row.config(row.seeds[0], folder)) for row in study.rows}
    asked = []
    for row in study.rows:
        paths = {seed: grid.run_folder(folder, row.name, seed) for seed in row.seeds}
        # A cascade trains nothing: what it is made of was trained by other rows.
        trained = (row.name,) if "train.steps" in settings[row.name] else row.needs
        made_from = tuple(settings[name] for name in trained)
        given = shlex.join(row.arguments(row.seeds[0], folder))
        asked.append(Asked(row.name, row.tables, paths, settings[row.name], made_from, given))
    made_by = shlex.join(["dynnas", "study", *arguments, f"--workdir={folder}"])
    print(f"tables: {study_page.write(folder, study.title, asked, made_by)}")
