"""The artifacts of a run: which stages of a working directory are complete, and of which config.

`STAGE/manifest.json` is written last, by rename: a stage with one is complete. `STAGE/started.json` holds the same hashes
from the start on, so that a half-done stage is resumed by its own config only. Nothing here imports JAX.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DIGITS = 16  # of a hash that is kept
SCHEMA = 1


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all; a NaN is an error, since JSON has none."""
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def finite(value: float) -> float | None:
    """A number for JSON, which has neither infinities nor NaN: None in their place."""
    return float(value) if math.isfinite(value) else None


def read_json(path: Path, remedy: str | None = None) -> dict:
    """The object an artifact holds. Raises ValueError naming the file and a remedy (redo its stage) if it is damaged."""
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
        reason = "it holds no object"
    except FileNotFoundError:
        reason = None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        reason = str(error)
    problem = f"is corrupt ({reason})" if reason else "is missing"
    raise ValueError(f"{path} {problem}; {remedy or f'pass --redo={path.parent.name} to make it anew'}")


def read_config(path: Path) -> dict:
    """The config of the newest run in a working directory. Raises ValueError if it is none, or if the file is damaged."""
    file = path / "config.json"
    if not file.is_file():
        raise ValueError(f"{path} is no working directory of dynnas: it has no config.json")
    return read_json(file, "`dynnas run` with its config writes it anew")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` artifact. Raises ValueError naming the file if it is absent or corrupt."""
    remedy = f"pass --redo={path.parent.name}"
    if not path.is_file():
        raise ValueError(f"{path} is missing; {remedy}")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no .npz file")
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is corrupt ({reason}); {remedy}") from error


def digest(content: Any) -> str:
    """A short hash of JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()[:DIGITS]


def file_digest(path: Path) -> str:
    """A short hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def _link(source: str, target: str) -> None:
    """A second name for a file; a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def cache_folder() -> Path:
    """Where what other runs can use again is kept: `dynnas_jax` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dynnas_jax"


class Stage(NamedTuple):
    """One stage of a run: what of the config it reads, and which earlier stages."""

    name: str
    reads: tuple[str, ...]  # sections of the config, or single keys as "dynamic.score"
    inputs: tuple[str, ...]  # stages


class Workdir:
    """The stages of one run in one directory."""

    def __init__(
        self, path: Path, stages: tuple[Stage, ...], config: dict, sources: dict[str, str | None] | None = None
    ):
        """`sources` has a hash of each thing outside the directory that a run is made from; None: not compared."""
        self.path, self.config, self.sources = Path(path), config, sources or {}
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--workdir: {self.path} is a file, must be a directory")
        self.stages = {stage.name: stage for stage in stages}

    @property
    def config_file(self) -> Path:
        """Where the config of the newest run is; its presence makes a directory a working directory."""
        return self.path / "config.json"

    def folder(self, stage: str) -> Path:
        """Where a stage's artifacts are."""
        return self.path / stage

    def hashes(self, name: str) -> dict:
        """What makes a stage's artifacts its own: the config it reads and the manifests it builds on."""
        stage = self.stages[name]
        read = {key: self._read(key) for key in stage.reads}
        inputs = {other: digest(self._manifest(other)) for other in stage.inputs}
        # What a later stage's section names is no part of what stands before it.
        mine = ("train", *stage.reads) if "data" in stage.reads else ()
        sources = {key: found for key, found in self.sources.items() if {key, key.partition(".")[0]} & set(mine)}
        return {"schema": SCHEMA, "stage": name, "config": digest(read), "sources": sources, "inputs": inputs}

    def complete(self, name: str) -> bool:
        """Whether the stage is done, by this config and from these inputs.

        Raises:
          ValueError: if it was made by another config or from other inputs, or if a file of it is missing or damaged.
        """
        started = self.folder(name) / "started.json"
        manifest = self._manifest(name)
        if manifest is None and not started.exists():
            return False
        self._check_hashes(name, manifest or read_json(started))
        for file, expected in (manifest or {}).get("files", {}).items():
            path = self.folder(name) / file
            if not path.is_file() or file_digest(path) != expected:
                raise ValueError(f"{path} is missing or damaged; pass --redo={name} to make it anew")
        return manifest is not None

    def _check_hashes(self, name: str, found: dict) -> None:
        expected = self.hashes(name)
        if found.get("config") != expected["config"]:
            raise ValueError(
                f"{self.path}: stage {name!r} was made with another config "
                f"(it reads {', '.join(self.stages[name].reads)}); pass --redo={name}, or another --workdir"
            )
        for source, hashed in expected["sources"].items():
            if None not in (hashed, before := (found.get("sources") or {}).get(source)) and hashed != before:
                raise ValueError(
                    f"{self.path}: what {source} names has changed since stage {name!r} was made from it; "
                    f"pass --redo={name}, or another --workdir"
                )
        if {key: found.get(key) for key in ("schema", "inputs")} != {k: expected[k] for k in ("schema", "inputs")}:
            raise ValueError(f"{self.path}: stage {name!r} was made from other artifacts; pass --redo={name}")

    def knows_config(self) -> bool:
        """Whether the directory says which config it is of, and rightly."""
        try:
            return digest(read_json(self.config_file)) == digest(self.config)
        except ValueError:
            return False

    def claim(self) -> None:
        """Takes the directory for this config.

        Raises:
          ValueError: if something that no run made stands where a run's artifacts would.
        """
        begun = any(self._made(name) for name in self.stages)
        if not begun and self.config_file.exists():
            if not set(self.config) <= set(read_json(self.config_file)):
                raise ValueError(f"{self.config_file} was not made by dynnas; choose another --workdir")
        elif not begun:
            for name in ("report.html", *self.stages):
                if (self.path / name).exists():
                    raise ValueError(f"{self.path / name} was not made by dynnas; choose another --workdir")
        write_json(self.config_file, self.config)

    def start(self, name: str) -> Path:
        """Marks a stage as begun by this config; returns its folder. Raises ValueError if the folder is not a run's."""
        folder = self.folder(name)
        if folder.exists() and any(folder.iterdir()) and not self._made(name):
            raise ValueError(f"{folder} was not made by dynnas; choose another --workdir")
        write_json(self.folder(name) / "started.json", self.hashes(name))
        return self.folder(name)

    def finish(self, name: str, files: tuple[str, ...]) -> None:
        """Marks a stage as complete; the hashes of `files` are kept, so that a damaged one is noticed."""
        folder = self.folder(name)
        digests = {file: file_digest(folder / file) for file in files}
        write_json(folder / "manifest.json", {**self.hashes(name), "files": digests})

    def take_over(self, name: str, other: Path) -> bool:
        """Takes a finished stage of another run in the place of doing it, where that would make the same: its manifest says so.

        Files are linked where the disk can, else copied: what a finished stage left is never written into.

        Args:
          other: working directory of a run with the same target, since targets restrict what is trained.

        Returns:
          Whether it was taken over: not, if this run has begun the stage, or the other one's is unfinished, damaged, or of
          another config or other inputs.
        """
        if self.folder(name).exists() or not (other / name / "manifest.json").is_file():
            return False
        if digest(read_config(other).get("target")) != digest(self.config.get("target")):
            return False
        try:
            if not Workdir(other, tuple(self.stages.values()), self.config, self.sources).complete(name):
                return False
        except ValueError:
            return False
        own, manifest = self.hashes(name), read_json(other / name / "manifest.json")
        if {key: manifest.get(key) for key in own} != own:
            return False
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path, prefix=f".{name}.") as made:
            copied = Path(made) / name
            shutil.copytree(other / name, copied, symlinks=True, copy_function=_link)
            copied.rename(self.folder(name))
        return True

    def built_on(self, name: str) -> tuple[str, ...]:
        """A stage and all that build on it."""
        found = [name]
        for stage in self.stages.values():
            if set(stage.inputs) & set(found):
                found.append(stage.name)
        return tuple(found)

    def delete(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Deletes the artifacts of stages; returns the names of those there were.

        A folder called `report`, say, that something else made is left alone.
        """
        found = tuple(name for name in names if self._made(name))
        for name in found:
            shutil.rmtree(self.folder(name))
        return found

    def _made(self, name: str) -> bool:
        """Whether a stage's folder is a run's."""
        return any((self.folder(name) / file).exists() for file in ("started.json", "manifest.json"))

    def _read(self, key: str) -> Any:
        """A section of the config, or with a dot one key of it."""
        section, _, inner = key.partition(".")
        content = self.config.get(section)
        return (content or {}).get(inner) if inner else content

    def _manifest(self, name: str) -> dict | None:
        path = self.folder(name) / "manifest.json"
        return read_json(path) if path.exists() else None
