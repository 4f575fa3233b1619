"""metrics.jsonl, and TensorBoard events where its extra is installed."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path


class Log:
    """Appends one JSON object per call; a resumed run drops what was logged after its checkpoint."""

    def __init__(self, directory: Path | None, resumed_step: int = 0):
        self._file, self._events, self._start = None, None, time.perf_counter()
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= resumed_step]
            whole = path.with_suffix(".tmp")
            whole.write_text("".join(f"{line}\n" for line in kept))
            whole.replace(path)
        self._file = path.open("a")
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line: the step, the values, and the seconds since this log was opened."""
        if self._file is None:
            return
        row = {"step": step, **values, "time_s": round(time.perf_counter() - self._start, 3)}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_) -> None:
        if self._file:
            self._file.close()
        if self._events:
            self._events.close()


def _step(line: str) -> float:
    """The step of a logged line; a line cut off by a crash counts as later than everything."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
