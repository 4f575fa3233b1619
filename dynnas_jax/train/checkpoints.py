"""Checkpoints of the training state through Orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from dynnas_jax.train.state import TrainState


class Store:
    """The checkpoints of one run, in `directory`/checkpoints; the newest three are kept.

    Orbax is imported here and not with the module, since it takes a second.
    """

    def __init__(self, directory: Path, *, every: int = 100):
        import orbax.checkpoint as ocp

        self.directory, self.every = Path(directory).resolve() / "checkpoints", every
        options = ocp.CheckpointManagerOptions(max_to_keep=3, create=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._save, self._restore = ocp.args.StandardSave, ocp.args.StandardRestore

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written at this step."""
        return step % self.every == 0

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step; waits for one that is being written."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def save(self, step: int, current: TrainState) -> None:
        """Writes in the background; a half-written checkpoint is never taken for a whole one."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=self._save(current._asdict()))

    def latest(self, shapes: TrainState, sharding: Any) -> TrainState | None:
        """The newest state, or None if there is none.

        Raises:
          ValueError: if it cannot be read as a state of these shapes.
        """
        step = self.latest_step()
        if step is None:
            return None
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
        try:
            return TrainState(**self._manager.restore(step, args=self._restore(wanted._asdict())))
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = str(error).split("\n")[0][:160]
            raise ValueError(
                f"checkpoint {self.directory / str(step)} is corrupt or of another network ({reason}); "
                "delete that folder to go on from an earlier one, or pass --redo=train"
            ) from error

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()
