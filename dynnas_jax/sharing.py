"""Whether the processes of a run, on whatever hosts, see one working directory and were given one config."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time

import numpy as np

from dynnas_jax import processes
from dynnas_jax.train import agreement
from dynnas_jax.workdir import Workdir, digest

MARK = ".seen_by_all."
# A network file system may say for a minute, from memory, that a folder is not there, or what was in it.
SEEN_WITHIN_S = 90.0
LOOK_S = 0.2
OTHER_FOLDER, OTHER_CONFIG = 1, 2
PROBLEMS = {
    OTHER_FOLDER: "does not see there what process 0 wrote; it must be one folder that all hosts see: a network file system, "
    "or a bucket that is mounted on each",
    OTHER_CONFIG: "was given another config than process 0, or files that the config names differ",
}


def check(workdir: Workdir) -> None:
    """Of several processes, to be called by all. Nothing stays behind.

    Raises:
      ValueError: on all of them, where one sees another working directory than the first, or was given another config.
    """
    if not processes.several():
        return
    from jax.experimental import multihost_utils

    asked = digest({"config": workdir.config, "sources": workdir.sources})
    made = not workdir.path.exists()
    mark, expected = agreement.agreed(lambda: (_mark(workdir), asked))
    problem = OTHER_FOLDER if not _sees(workdir, mark) else OTHER_CONFIG if asked != expected else 0
    processes.wait_for_all("looked")  # an exchange between the devices has no patience
    problems = np.atleast_1d(multihost_utils.process_allgather(np.int32(problem))).tolist()
    if processes.is_first():
        _remove(workdir, made)
    if process := next((index for index, found in enumerate(problems) if found), None):
        raise ValueError(f"--workdir={workdir.path}: process {process} {PROBLEMS[problems[process]]}")


def _mark(workdir: Workdir) -> str:
    """Leaves a file whose name nobody can have seen before; its name."""
    workdir.path.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=MARK, dir=workdir.path)
    os.close(handle)
    return os.path.basename(name)


def _sees(workdir: Workdir, mark: str) -> bool:
    until_s = time.monotonic() + SEEN_WITHIN_S
    while not (workdir.path / mark).exists():
        if time.monotonic() > until_s:
            return False
        time.sleep(LOOK_S)
    return True


def _remove(workdir: Workdir, made: bool) -> None:
    with contextlib.suppress(OSError):
        for path in workdir.path.glob(f"{MARK}*"):  # that of a process which was killed here too
            path.unlink()
        if made:
            workdir.path.rmdir()  # what is wrong with the config is yet to be found
