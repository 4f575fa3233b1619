"""The artifacts of a run: which stages of a working directory are complete, and of which config.

`STAGE/manifest.json` is written last, by rename: a stage with one is complete. `STAGE/started.json` holds the same hashes
from the start on, so that a half-done stage is resumed by its own config only. Nothing here imports JAX.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

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


def read_json(path: Path) -> Any:
    """The content of an artifact. Raises ValueError naming the file if it is absent or corrupt."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is corrupt ({error}); pass --redo={path.parent.name} to make it anew") from None


def digest(content: Any) -> str:
    """A short hash of JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()[:16]


class Stage(NamedTuple):
    """One stage of a run: what of the config it reads, and which earlier stages."""

    name: str
    reads: tuple[str, ...]  # top-level keys of the config
    inputs: tuple[str, ...]  # stages


class Workdir:
    """The stages of one run in one directory."""

    def __init__(self, path: Path, stages: tuple[Stage, ...], config: dict):
        self.path, self.config = Path(path), config
        self.stages = {stage.name: stage for stage in stages}

    def folder(self, stage: str) -> Path:
        """Where a stage's artifacts are."""
        return self.path / stage

    def hashes(self, name: str) -> dict:
        """What makes a stage's artifacts its own: the config it reads and the manifests it builds on."""
        stage = self.stages[name]
        read = {key: self.config.get(key) for key in stage.reads}
        inputs = {other: digest(self._manifest(other)) for other in stage.inputs}
        return {"schema": SCHEMA, "stage": name, "config": digest(read), "inputs": inputs}

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
        for file, size in (manifest or {}).get("files", {}).items():
            path = self.folder(name) / file
            if not path.is_file() or path.stat().st_size != size:
                raise ValueError(f"{path} is missing or half-written; pass --redo={name} to make it anew")
        return manifest is not None

    def _check_hashes(self, name: str, found: dict) -> None:
        expected = self.hashes(name)
        if found.get("config") != expected["config"]:
            raise ValueError(
                f"{self.path}: stage {name!r} was made with another config "
                f"(it reads {', '.join(self.stages[name].reads)}); pass --redo={name}, or another --workdir"
            )
        if {key: found.get(key) for key in ("schema", "inputs")} != {k: expected[k] for k in ("schema", "inputs")}:
            raise ValueError(f"{self.path}: stage {name!r} was made from other artifacts; pass --redo={name}")

    def start(self, name: str) -> Path:
        """Marks a stage as begun by this config; returns its folder."""
        write_json(self.folder(name) / "started.json", self.hashes(name))
        return self.folder(name)

    def finish(self, name: str, files: tuple[str, ...]) -> None:
        """Marks a stage as complete; the sizes of `files` are kept, so that a damaged one is noticed."""
        folder = self.folder(name)
        sizes = {file: (folder / file).stat().st_size for file in files}
        write_json(folder / "manifest.json", {**self.hashes(name), "files": sizes})

    def redo(self, name: str) -> tuple[str, ...]:
        """Deletes the artifacts of a stage and of all that build on it; returns their names."""
        doomed = [name]
        for stage in self.stages.values():
            if set(stage.inputs) & set(doomed):
                doomed.append(stage.name)
        for stage in doomed:
            shutil.rmtree(self.folder(stage), ignore_errors=True)
        return tuple(doomed)

    def _manifest(self, name: str) -> dict | None:
        path = self.folder(name) / "manifest.json"
        return read_json(path) if path.exists() else None
