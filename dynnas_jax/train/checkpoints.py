"""Checkpoints of the training state through Orbax: whole or not at all, and compared with their digest when they are read.

Of several processes the first writes and reads, since the state is the same on all; the others are told what it found, so
that all go on from the same step or end with the same error. All of them make every call, in the same order.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dynnas_jax import devices, processes
from dynnas_jax.train.agreement import agreed, broadcast
from dynnas_jax.train.state import TrainState

KEPT = 3  # the newest ones, and of those at regular steps
DIGEST = "digest"  # of the leaves, beside what the caller adds

Leaves = Mapping[str, Any]  # path in the state -> array, or its shape and dtype


class Found(NamedTuple):
    """A checkpoint that was read."""

    state: TrainState
    extra: dict  # as it was given to `save`


class Store:
    """The checkpoints of one run, in `directory`/checkpoints.

    The newest three are kept, and the newest three that are `due`: those of a run that is stopped again and again in between
    leave it the ones that it can roll back to.

    Orbax is imported here and not with the module, since it takes a second.
    """

    def __init__(self, directory: Path, *, every: int = 100):
        self.directory, self.every = Path(directory).resolve() / "checkpoints", every
        self._manager = self._open() if processes.is_first() else None

    def _open(self) -> Any:
        import orbax.checkpoint as ocp

        self.directory.mkdir(parents=True, exist_ok=True)
        logging.getLogger("absl").addFilter(_is_news)
        # The first process alone: a failure of Orbax on one of several would leave the others waiting for it.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="dynnas"
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Newest(self.due),
            create=False,
            cleanup_tmp_directories=True,
            multiprocessing_options=alone,
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written at this step."""
        return step % self.every == 0

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step; waits for one that is being written. Raises as `wait`."""
        self.wait()
        return agreed(lambda: self._manager.latest_step())

    def save(self, step: int, current: TrainState, extra: dict | None = None) -> None:
        """Copies the state and writes it in the background; a half-written checkpoint is never taken for a whole one.

        Args:
          extra: JSON-able, such as the best held-out accuracy so far; it comes back with the state.

        Raises:
          OSError: where the disk is full, if only for the checkpoint before, which was written meanwhile.
          ValueError: where it cannot be written for another reason.
        """
        agreed(lambda: self._guarded(lambda: self._save(step, current, extra or {})))

    def _save(self, step: int, current: TrainState, extra: dict) -> None:
        import orbax.checkpoint as ocp

        if step in self._manager.all_steps():
            return
        # Copies: the state is donated to the next step.
        leaves = {path: np.array(leaf) for path, leaf in devices.on_host(_leaves(current)).items()}
        item = {"extra": extra, DIGEST: _digest(leaves, extra)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(leaves), extra=ocp.args.JsonSave(item))
        # force: Orbax has no say in which steps are saved.
        self._manager.save(step, args=args, force=True)

    def latest(self, shapes: TrainState, sharding: Any) -> Found | None:
        """The newest checkpoint that is whole, or None if there is none at all.

        A damaged one before it is moved to `damaged` beside the checkpoints, so that its step can be saved again, and one line
        on standard error says so.

        Raises:
          ValueError: if none of those there are can be read, or if the newest whole one is of another
            network; nothing is moved then.
        """
        return self._restored(shapes, sharding, lambda step: True)

    def roll_back(self, shapes: TrainState, sharding: Any) -> Found | None:
        """The newest whole checkpoint among those that are `due`, as `latest`; any that a stopped run added after it is deleted.

        So a run that was stopped in between rolls back to where an unbroken one does.
        """
        found = self._restored(shapes, sharding, self.due)
        step = 0 if found is None else int(found.state.step)
        agreed(lambda: [self._manager.delete(later) for later in self._manager.all_steps() if later > step] and None)
        return found

    def _restored(self, shapes: TrainState, sharding: Any, wanted: Callable[[int], bool]) -> Found | None:
        self.wait()
        shapes_of, content = _leaves(shapes), {}

        def find() -> dict | None:
            step, item = self._newest(shapes_of, wanted)
            content.update(item.get("leaves", {}))
            return None if step is None else {"extra": item["extra"]}

        found = agreed(find)
        if found is None:
            return None
        leaves = _unpacked(broadcast(_packed(content, shapes_of)), shapes_of)
        place = lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda part: leaf[part])  # noqa: E731
        tree = jax.tree.unflatten(jax.tree.structure(shapes), [place(leaves[path]) for path in shapes_of])
        return Found(tree, found["extra"])

    def _newest(self, shapes: Leaves, wanted: Callable[[int], bool]) -> tuple[int | None, dict]:
        """The step and content of the newest whole checkpoint among the wanted; damaged ones before it are moved away."""
        self._manager.reload()
        damaged = {}
        for step in sorted(filter(wanted, self._manager.all_steps()), reverse=True):
            try:
                item = self._read(step)
            except MemoryError:
                raise
            except Exception as error:  # whatever a damaged byte leads Orbax to
                damaged[step] = _reason(error)
                continue
            if difference := _difference(item["leaves"], shapes):
                raise ValueError(
                    f"checkpoint {self.directory / str(step)} is of another network ({difference}); "
                    "pass --redo=train, or choose another --workdir"
                )
            for other, why in damaged.items():
                self._move_away(other, why, step)
            return step, item
        if damaged:
            reasons = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
            raise ValueError(f"no checkpoint in {self.directory} can be read ({reasons}); pass --redo=train")
        return None, {}

    def _read(self, step: int) -> dict:
        """{"leaves", "extra"} of a checkpoint. Raises anything if it is damaged."""
        folder = self.directory / str(step)
        item = json.loads((folder / "extra" / "metadata").read_text())
        leaves = _read_arrays(folder / "state")
        if item[DIGEST] != _digest(leaves, item["extra"]):
            raise ValueError("its content is not what was saved")
        return {"leaves": leaves, "extra": item["extra"]}

    def _move_away(self, step: int, why: str, good: int) -> None:
        target = self.directory.with_name("damaged") / str(step)
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        (self.directory / str(step)).rename(target)
        self._manager.reload()
        print(
            f"dynnas: the checkpoint of step {step} is damaged ({why}); it is now {target}, training goes on from step {good}",
            file=sys.stderr,
        )

    def wait(self) -> None:
        """Until what is being written is complete. Raises as `save`."""
        agreed(lambda: self._guarded(self._manager.wait_until_finished))

    def _guarded(self, act: Callable[[], Any]) -> None:
        """Does something that may meet an error of the disk, also one that befell the writing in the background."""
        try:
            act()
        except Exception as error:
            for half in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(half, ignore_errors=True)
            if os.strerror(errno.ENOSPC) in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory)) from error
            raise ValueError(
                f"no checkpoint could be written to {self.directory} ({_reason(error)}); the earlier ones are kept"
            ) from error

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            self.wait()
        if self._manager is not None:
            try:
                self._manager.close()
            except Exception:
                # What ended the run is said; of several processes this one may be the only one here.
                if kind is None:
                    raise

    def close(self) -> None:
        """Waits for what is being written. Raises as `save`."""
        self.__exit__(None)


class _Newest(NamedTuple):
    """Which checkpoints Orbax keeps."""

    due: Callable[[int], bool]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Of checkpoints in the order of their steps; part of Orbax's `PreservationPolicy`."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-KEPT:], *[step for step in steps if self.due(step)][-KEPT:]}
        return [step in kept for step in steps]


def _leaves(tree: TrainState) -> dict[str, Any]:
    """Leaves by their path, such as "variables/params/stem/kernel"."""
    with_paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in with_paths}


def _read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of an item that Orbax wrote: a database of tensorstore's with a zarr array for each leaf.

    Not by Orbax itself: where one of many arrays is damaged, it gives up in the midst of the others, whose complaints come
    later and anywhere.
    """
    import tensorstore as ts

    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    keys = [key.decode() for key in ts.KvStore.open(database).result().list().result()]
    paths = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
    specs = ({"driver": "zarr", "kvstore": {**database, "path": f"{path}/"}} for path in paths)
    opened = [ts.open(spec, open=True, read=True) for spec in specs]
    reading = [array.result().read() for array in opened]
    return {path: array.result() for path, array in zip(paths, reading, strict=True)}


def _digest(leaves: Leaves, extra: dict) -> str:
    """SHA-256 of all that a checkpoint holds: the formats below have checksums of their tables, but not of the arrays."""
    found = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for path in sorted(leaves):
        found.update(f"{path} {leaves[path].dtype} {leaves[path].shape}".encode())
        found.update(np.ascontiguousarray(leaves[path]).view(np.uint8) if leaves[path].ndim else leaves[path].tobytes())
    return found.hexdigest()


def _difference(leaves: Leaves, shapes: Leaves) -> str | None:
    """Where two trees differ, by the first leaf that does."""
    for path in [*shapes, *(path for path in leaves if path not in shapes)]:
        found, expected = (
            f"{tree[path].dtype}{list(tree[path].shape)}" if path in tree else "nothing" for tree in (leaves, shapes)
        )
        if found != expected:
            return f"at {path} it has {found}, not {expected}"
    return None


def _is_news(record: logging.LogRecord) -> bool:
    """False for what Orbax logs: pages of what the error that follows says in a line."""
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _packed(leaves: Leaves, shapes: Leaves) -> bytes:
    """The leaves in the order of `shapes`, one after another; nothing where this process has none."""
    return b"".join(leaves[path].tobytes() for path in shapes) if leaves else b""


def _unpacked(content: bytes, shapes: Leaves) -> dict[str, np.ndarray]:
    found, start = {}, 0
    for path, shape in shapes.items():
        count = math.prod(shape.shape)
        found[path] = np.frombuffer(content, shape.dtype, count, start).reshape(shape.shape)
        start += count * np.dtype(shape.dtype).itemsize
    return found
