"""Other finished runs beside a run in its table of devices: what they measured, copied, so that they are needed once only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynnas_jax import kinds
from dynnas_jax.reports import artifacts, benches
from dynnas_jax.workdir import read_config, read_json


def take_in(workdir: Path, runs: Sequence[Path]) -> None:
    """Copies what these finished runs measured on devices beside the artifacts of a run; all of them, or none.

    A run of the same name takes the place of an earlier one.

    Raises:
      ValueError: as `checked`.
    """
    benches.keep(workdir / artifacts.BASELINES, checked(workdir, runs))


def checked(workdir: Path, runs: Sequence[Path]) -> dict[str, dict]:
    """What finished runs measured, by the names of their folders; nothing is written.

    Raises:
      ValueError: for a directory that is no finished run, two of one name, or a run that was tested on other images.
    """
    taken: dict[str, dict] = {}
    for run in runs:
        path = run.expanduser()
        name = path.resolve().name
        if path.resolve() == workdir.resolve() or name in taken:
            raise ValueError(f"--baselines: {run} is this run itself, or the second of that name; rename the folder")
        _check_finished(path)
        _check_same_test(workdir, path)
        found = artifacts.read(path)
        taken[name] = {"evaluation": found.evaluation, "exports": found.exports, "benches": found.benches}
    return taken


def _check_finished(path: Path) -> None:
    kind = kinds.of(read_config(path))
    for name in kind.names:
        if name != "report" and not (path / name / "manifest.json").is_file():
            raise ValueError(
                f"--baselines: {path} is not finished, its stage {name!r} is not done; `dynnas run` does it"
            )


def _check_same_test(workdir: Path, path: Path) -> None:
    """The same test images, of whatever size, in the same order, and the same classes; else ValueError."""
    mine, other = _tested(workdir), _tested(path)
    for what, value in mine.items():
        if value != other[what]:
            raise ValueError(f"--baselines: {path} was tested on other data than {workdir}; {what} differ")


def _tested(path: Path) -> dict:
    kind = kinds.of(read_config(path))
    manifest = read_json(path / "evaluate" / "manifest.json")
    outputs = artifacts.arrays(path / "evaluate" / "outputs.npz", ("image_id", "label"))
    return {
        "the sources": (manifest.get("sources") or {}).get("data.name"),
        "the classes": list(read_json(kinds.data_file(path, kind))["classes"]),
        "the test images": np.asarray(outputs["image_id"]).tolist(),
        "the labels": np.asarray(outputs["label"]).tolist(),
    }
