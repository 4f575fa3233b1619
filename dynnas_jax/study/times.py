"""How long the runs of a study have taken, and what is left of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynnas_jax.workdir import read_json, write_json

FILE = "times.json"


class Times:
    """Seconds that runs took, over all their starts, kept in a study's directory."""

    def __init__(self, folder: Path, finished: Sequence[tuple[str, int]]):
        """`finished`: the runs (row, seed) that are done, whose times tell of others."""
        self._file = folder / FILE
        try:
            self._spent = read_json(self._file) if self._file.exists() else {}
        except ValueError:  # estimates are no result
            self._spent = {}
        self._finished = set(finished)

    def of(self, row: str, seed: int) -> float:
        """Seconds spent on a run so far."""
        return float(self._spent.get(row, {}).get(str(seed), 0.0))

    def add(self, row: str, seed: int, seconds: float, *, finished: bool) -> None:
        """Takes in the time of a start of a run."""
        self._spent.setdefault(row, {})[str(seed)] = round(self.of(row, seed) + seconds, 3)
        if finished:
            self._finished.add((row, seed))
        write_json(self._file, self._spent)

    def expected(self, row: str, seed: int) -> float | None:
        """Seconds that a run will still take: what its row took with other seeds, else the mean of all; None: nobody knows."""
        known = {run: self.of(*run) for run in self._finished if self.of(*run)}
        alike = [seconds for (name, _), seconds in known.items() if name == row]
        if not known:
            return None
        return max(0.0, float(np.mean(alike or list(known.values()))) - self.of(row, seed))

    def expected_of(self, runs: Sequence[tuple[str, int]]) -> float | None:
        """Seconds that runs will take together."""
        each = [self.expected(*run) for run in runs]
        return None if any(seconds is None for seconds in each) else float(sum(each))
