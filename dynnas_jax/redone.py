"""A `--redo` that was carried out, until its run ends: who starts the same command again must not lose what was saved since.

Launchers, Slurm's own requeue and Kubernetes repeat the whole command, `--redo` included, after a preemption or a kill.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dynnas_jax import processes
from dynnas_jax.workdir import Workdir, digest, read_json, write_json


def file_of(workdir: Workdir) -> Path:
    """Where it stands."""
    return workdir.path / "redo.json"


def note(workdir: Workdir, names: tuple[str, ...], redo: str | None) -> None:
    """To be called by one process, when what is to be redone is deleted. What another command left here ends."""
    if redo is None:
        _forget(workdir)
    else:
        write_json(file_of(workdir), {"redo": redo, "asked": _asked(workdir, names, redo)})


def is_done(workdir: Workdir, names: tuple[str, ...], redo: str) -> bool:
    """Whether an earlier start of the same command, which was preempted or killed, deleted the artifacts already."""
    try:
        return read_json(file_of(workdir)).get("asked") == _asked(workdir, names, redo)
    except ValueError:
        return False


@contextlib.contextmanager
def until_the_end(workdir: Workdir, names: tuple[str, ...], redo: str | None) -> Iterator[None]:
    """Within, a run goes on; after an end that no launcher answers with another start, `--redo` deletes again."""
    try:
        yield
    except (ValueError, OSError, MemoryError, KeyboardInterrupt):  # the user's to mend, or the user's wish
        if redo is not None and is_done(workdir, names, redo):
            _forget(workdir)
        raise
    _forget(workdir)


def _forget(workdir: Workdir) -> None:
    if processes.is_first():
        with contextlib.suppress(OSError):  # there is none, or what ended the run keeps the disk from it
            file_of(workdir).unlink()


def _asked(workdir: Workdir, names: tuple[str, ...], redo: str) -> str:
    return digest({"redo": redo, "names": names, "config": workdir.config, "sources": workdir.sources})
