"""Results of `dynnas bench` beside a run: those of its own exported files, and of these as they are now."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax.export import bench, metadata
from dynnas_jax.workdir import DIGITS, file_digest, write_json

FOLDER = "bench"  # of a working directory
OF = "of"  # the key under which results that are read tell what they are of


class Benches(NamedTuple):
    """What was taken into a run, by the names of the files."""

    found: dict[str, dict]  # results, with `OF`: the `export`'s name, and whether at its `own_thresholds`
    stale: tuple[str, ...]  # results of files that are not there any more: exported anew since


def export_name(workdir: Path, path: Path) -> str:
    """Whose file this is: the target, and what of a run's several exports it is."""
    return "_".join(path.parent.relative_to(workdir / "export").parts)


def read(workdir: Path) -> Benches:
    """The results that were taken in.

    Raises:
      ValueError: a file among them is damaged.
    """
    contents = {path.stem: _results(path) for path in sorted((workdir / FOLDER).glob("*.json"))}
    known = _exported(workdir) if contents else {}
    found = {name: told for name, content in contents.items() if (told := _matched(workdir, content, known))}
    return Benches(found, tuple(name for name in contents if name not in found))


def checked(workdir: Path, paths: Sequence[Path]) -> dict[str, dict]:
    """Results that may be taken into a run, by the names that they get; nothing is written.

    Raises:
      ValueError: for no such results, results of files that are not the run's, or a name that other results have.
    """
    known, there, taken = _exported(workdir), read(workdir).found, {}
    for path in paths:
        content, name = _results(path), path.stem
        if _matched(workdir, content, known) is None:
            raise ValueError(f"{path} was measured on other files than those in {workdir / 'export'}")
        if name in taken:
            raise ValueError(f"--bench: {path} is the second that is called {name!r}; rename one of them")
        if name in there and _measured(there[name]) != _measured(content):
            raise ValueError(
                f"--bench: {path}: {workdir / FOLDER / name}.json is another measurement ({_words(there[name])}); rename one"
            )
        taken[name] = content
    return taken


def keep(folder: Path, contents: dict[str, dict]) -> None:
    """Writes each under its name into a folder, in the place of what is called the same."""
    for name, content in contents.items():
        write_json(folder / f"{name}.json", content)


def take_in(workdir: Path, *paths: Path) -> None:
    """Copies results of a run's exported files, from whatever board, beside its artifacts; all of them, or none.

    The same measurement, done again, takes the place of the earlier one of its name.

    Raises:
      ValueError: as `checked`.
    """
    keep(workdir / FOLDER, checked(workdir, paths))


def _results(path: Path) -> dict:
    """Those in a file. Raises ValueError if there are none, or of no precision: every exported file says which it has."""
    content = bench.read(path)
    if (precision := content["model"]["precision"]) not in metadata.PRECISIONS:
        raise ValueError(f"{path} is of precision {precision!r}, which no exported file has: measure again")
    return content


def _exported(workdir: Path) -> dict[str, Path]:
    return {file_digest(path): path for path in sorted((workdir / "export").rglob("*")) if path.is_file()}


def _matched(workdir: Path, content: dict, known: dict[str, Path]) -> dict | None:
    """The results with what they are of; None where a file of theirs is not among the exported ones, by their digests."""
    paths = [known.get(file["sha256"][:DIGITS]) for file in content["model"]["files"].values()]
    if not paths or None in paths:
        return None
    own = metadata.find(paths[0], None, None)[0]["thresholds"]
    used = content["model"].get("thresholds", own)
    same = np.array_equal(np.asarray(used, np.float32), np.asarray(own, np.float32))  # as the runtime compares them
    return {**content, OF: {"export": export_name(workdir, paths[0]), "own_thresholds": same}}


def _measured(content: dict) -> tuple:
    """What was measured on what: results that agree in it are the same measurement, done again."""
    model, machine, settings = content["model"], content["machine"], content["settings"]
    on = (machine["board"], machine["cpu"], settings["threads"], settings["delegate"])
    return model["target"], sorted(model["files"]), model.get("thresholds"), *on


def _words(content: dict) -> str:
    model, machine = content["model"], content["machine"]
    where = machine["board"] or machine["cpu"] or "an unknown machine"
    return f"{', '.join(model['files'])} for {model['target']}, on {where}, threads: {content['settings']['threads']}"
