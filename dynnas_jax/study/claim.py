"""Whether a working directory may serve a study: `study.json` says which grid its runs are of, and every new row is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynnas_jax import kinds, recipe
from dynnas_jax.study.grid import Grid, Row, flat, plain
from dynnas_jax.workdir import digest, read_json, write_json

FILE = "study.json"
SCHEMA = 1


def claim(grid: Grid, folder: Path) -> list[str]:
    """Takes the directory for this grid, which may have more rows and seeds than the one it was made for.

    Returns:
      The names of rows that are new to a directory that had others.

    Raises:
      ValueError: for a row that was changed or taken out since, a row that `dynnas run` would refuse, or a directory that
        something else made; nothing is written then.
    """
    rows, before = compare(grid, folder)
    new = [row for row in grid.rows if row.name not in before]
    _check_configs(new, folder)
    write_json(folder / FILE, {"schema": SCHEMA, "rows": rows})
    return [row.name for row in new] if before else []


def compare(grid: Grid, folder: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """What a grid says of each of its rows, and what the directory says; the latter is {} of a new one.

    Raises:
      ValueError: as `claim`, but that no config is checked.
    """
    before, rows = _read(folder), described(grid, folder)
    for name, old in before.items():
        _check_row(folder, name, old, rows.get(name))
    return rows, before


def described(grid: Grid, folder: Path) -> dict[str, dict]:
    """What makes each row's runs its own: the config but for the seed, the stages, and the seeds there are."""
    found = {}
    for row in grid.rows:
        # The same wherever the study is, and whatever its first seed.
        config = row.config(0, Path("STUDY"))
        names = row.stage_names(config)
        config.pop("seed")
        found[row.name] = {"config": plain(config), "stages": list(names), "seeds": list(row.seeds)}
    return found


def _read(folder: Path) -> dict[str, dict]:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--workdir: {folder} is a file, must be a directory")
    if not (folder / FILE).exists():
        if (folder / "config.json").exists() or (folder / "runs").exists():
            raise ValueError(f"{folder} was not made by `dynnas study`; choose another --workdir")
        return {}
    found = read_json(folder / FILE, "the study's runs cannot be told apart without it; choose another --workdir")
    if found.get("schema") != SCHEMA or not isinstance(found.get("rows"), dict):
        raise ValueError(f"{folder / FILE} is of another version of dynnas; choose another --workdir")
    return found["rows"]


def _check_row(folder: Path, name: str, old: dict, new: dict | None) -> None:
    way_out = "put it back, or choose another --workdir"
    if new is None:
        raise ValueError(f"{folder}: the study there has a row {name!r}, which this config has not; {way_out}")
    before, after = (flat({key: side[key] for key in ("config", "stages")}) for side in (old, new))
    for key in (*before, *after):
        if before.get(key) != after.get(key):
            values = " to ".join(json.dumps(side[key]) if key in side else "none" for side in (before, after))
            words = f"{key.removeprefix('config.')} went from {values}"
            raise ValueError(f"{folder}: row {name!r} has changed since its runs, {words}; {way_out}")
    if gone := [seed for seed in old["seeds"] if seed not in new["seeds"]]:
        raise ValueError(f"{folder}: row {name!r} has lost seed {gone[0]} since its runs; {way_out}")


def _check_configs(rows: list[Row], folder: Path) -> None:
    """Each row's config is checked as its run would do it, but for what needs other runs to be finished."""
    ready: dict[str, Any] = {}
    for row in rows:
        config = row.config(row.seeds[0], folder)
        try:
            recipe.check(config)
            if not row.needs:
                _check_stages(row.stage_names(config), config, folder, ready)
        except ValueError as error:
            raise ValueError(f"row {row.name!r}: {error}") from error


def _check_stages(names: tuple[str, ...], config: dict, folder: Path, ready: dict[str, Any]) -> None:
    """Args: ready: jobs made so far, since rows of the same images need not read them again."""
    import jax

    from dynnas_jax import job, pipeline, prerequisites
    from dynnas_jax.data import augment

    jax.config.update("jax_platforms", "cpu")  # the runs need the accelerator; a TPU serves one process only
    if "export" in names:
        prerequisites.check_export_modules(config)
    images = {key: value for key, value in config["data"].items() if key != "augment"}
    key = digest([images, config["seed"]])
    if key not in ready:
        ready[key] = job.prepare(pipeline.opened(config, folder), config)
    prepared = ready[key]._replace(
        workdir=pipeline.opened(config, folder),
        supernet=job.build(config, job.facts_of(ready[key].images)),
        dynamic=config.get("dynamic", {}),
        augment=None if config["data"].get("augment") is None else augment.rule(**config["data"]["augment"]),
        target=config["target"],
    )
    for name in names:
        if check := kinds.of(config).check(name):
            check(prepared, **config.get(name, {}))
