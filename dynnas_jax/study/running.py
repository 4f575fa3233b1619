"""Doing the runs of a study, each in a process of its own, one after the other; what they have in common is done once."""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from dynnas_jax import pipeline, progress
from dynnas_jax.reports import benches
from dynnas_jax.study.grid import Row, run_folder
from dynnas_jax.study.times import Times
from dynnas_jax.train import preemption
from dynnas_jax.workdir import Workdir, read_config

LOCK = "study.lock"
POLL_S = 0.5
_OWN = "report"  # the stage that every run does itself: its page lies beside its folder, and it takes seconds
COMMAND = (sys.executable, "-m", "dynnas_jax")


class Run(NamedTuple):
    """One run of a study."""

    row: Row
    seed: int
    folder: Path  # of the study

    @property
    def path(self) -> Path:
        """Its working directory."""
        return run_folder(self.folder, self.row.name, self.seed)

    @property
    def log(self) -> Path:
        """What its processes say."""
        return self.folder / "logs" / f"{self.row.name}_seed{self.seed}.log"

    @property
    def words(self) -> str:
        """Its name in a line."""
        return f"{self.row.name}, seed {self.seed}"

    @property
    def bench(self) -> Path:
        """What `dynnas bench` measured of its export."""
        return self.path / benches.FOLDER / "here.json"

    @property
    def taken(self) -> bool:
        """Whether it was made outside the study, and is linked to."""
        return self.path.is_symlink()

    def opened(self) -> Workdir:
        """Its working directory, by the config it is to have; a run that was taken may name the same paths otherwise."""
        config = read_config(self.path) if self.taken else self.row.config(self.seed, self.folder)
        return pipeline.opened(config, self.path)

    def commands(self) -> list[list[str]]:
        """What is to be done, as arguments of `dynnas`.

        Where a strategy searches, what comes before it is a process of its own: a search tells the peak of its process's memory,
        which a training would have raised.
        """
        run = ["run", *self.row.arguments(self.seed, self.folder), f"--workdir={self.path}"]
        whole = [*run, *([f"--stages={','.join(self.row.stages)}"] if self.row.stages is not None else [])]
        workdir = self.opened()
        names = self.row.stage_names(workdir.config)
        metered = "search" in names and "strategy" in workdir.config.get("search", {})  # then it tells what it takes
        before = names[: names.index("search")] if metered else ()
        left = [name for name in before if not workdir.complete(name)]
        return [[*run, f"--stages={','.join(left)}"], whole] if left else [whole]

    def finished(self) -> bool:
        """Whether all its stages are done, and its export is measured if it is to be."""
        if not (self.path / "config.json").is_file():
            return False
        try:
            return self.missing() is None
        except ValueError:  # `dynnas run` says what is wrong
            return False

    def missing(self) -> str | None:
        """What is left to be done, in words. Raises ValueError for a stage that is damaged, or of another config."""
        workdir = self.opened()
        for name in self.row.stage_names(workdir.config):
            if not workdir.complete(name):
                return f"its stage {name!r} is not done"
        return "`dynnas bench` has not measured its export" if self.row.bench and not self.bench.is_file() else None


class Result(NamedTuple):
    """What came of the runs."""

    failed: list[tuple[Run, str]]  # and why
    left: list[Run]  # not begun or not finished, since the time was over or the machine was wanted


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Only one study works in a directory at a time, with its runs: they keep the lock if it is killed.

    Raises:
      ValueError: where another one does.
    """
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: a study, or a run that one began, is at work there; wait for it") from error
        yield file.fileno()


def work(runs: Sequence[Run], times: Times, lock: int, *, until: float | None = None) -> Result:
    """Does the runs in order; finished ones must not be among them.

    A run that fails does not end the study; those that need it are not begun. SIGTERM, and the time `until`, end the run that is
    under way as preemption does, so that it goes on later.

    Args:
      until: of `time.monotonic`; None: no limit.
    """
    failed: list[tuple[Run, str]] = []
    with _asked_to_stop() as asked, tqdm(total=len(runs), desc="study", unit="run", disable=None) as bar:
        stop = lambda: asked() or (until is not None and time.monotonic() >= until)  # noqa: E731
        for place, run in enumerate(runs):
            if stop():
                return Result(failed, list(runs[place:]))
            failures = [other.row.name for other, _ in failed if other.seed == run.seed]
            if lost := [name for name in run.row.needs if name in failures]:
                failed.append((run, f"it needs row {lost[0]!r}, whose run failed"))
                bar.update()
                continue
            tell = _Teller(bar, times, run, runs[place + 1 :])
            reason = _one(run, runs_of_seed(run), lock, stop, tell)
            times.add(run.row.name, run.seed, tell.elapsed_s, finished=reason is None)
            if reason is None:
                tell.say(f"{run.words}: done in {progress.duration(times.of(run.row.name, run.seed))}")
            elif reason == _STOPPED:
                return Result(failed, list(runs[place:]))
            else:
                failed.append((run, reason))
                tell.say(f"{run.words}: failed, {reason}")
            bar.update()
    return Result(failed, [])


_STOPPED = "stopped"


def runs_of_seed(run: Run) -> list[Path]:
    """The working directories of all other rows' runs with the same seed that there are."""
    found = sorted((run.folder / "runs").glob(f"*/seed{run.seed}"))
    return [path for path in found if path != run.path and (path / "config.json").is_file()]


def share(run: Run, others: Sequence[Path]) -> dict[str, str]:
    """Takes over the stages that other runs have done and this one would do alike.

    Returns:
      The stages taken over, each with the name of the row it is from.
    """
    workdir, found = run.opened(), {}
    for name in run.row.stage_names(workdir.config):
        if name == _OWN:
            continue
        for other in others:
            if workdir.take_over(name, other):
                found[name] = other.parent.name
                break
    if found:
        workdir.claim()
    return found


def _one(run: Run, others: list[Path], lock: int, stop: Callable[[], bool], tell: _Teller) -> str | None:
    """Why a run failed, or `_STOPPED`; None where it is finished."""
    run.log.parent.mkdir(exist_ok=True)
    try:
        shared, commands = share(run, others), run.commands()
    except ValueError as error:
        return str(error)
    with run.log.open("a") as log:
        for name, row in shared.items():
            print(f"dynnas: {name}: taken over from {row}", file=log, flush=True)
        tell.say(f"{run.words}: begun{tell.left()}")
        for command in commands:
            code = _process(command, log, lock, stop, tell)
            if code == preemption.EXIT_CODE:
                return _STOPPED
            if code:
                return f"{_last_line(run.log)} (exit code {code}, all of it: {run.log})"
        return _measured(run, log, lock, stop, tell) if run.row.bench and not run.bench.is_file() else None


def _measured(run: Run, log, lock: int, stop: Callable[[], bool], tell: _Teller) -> str | None:
    """Has `dynnas bench` measure memory and energy of the files in float32, and takes the results in."""
    made = run.folder / "logs" / "here.json"
    where = run.path / "export" / run.opened().config["target"]
    code = _process(["bench", str(where), "--precision=fp32", f"--output={made}"], log, lock, stop, tell)
    if code == preemption.EXIT_CODE:
        return _STOPPED
    if code:
        return f"dynnas bench: {_last_line(run.log)} (exit code {code}, all of it: {run.log})"
    benches.take_in(run.path, made)
    made.unlink()
    return None


def _process(command: list[str], log, lock: int, stop: Callable[[], bool], tell: _Teller) -> int:
    """The exit code of a `dynnas` command; asked to stop, it is ended by SIGTERM, and its code is that of preemption."""
    print(f"$ dynnas {shlex.join(command)}", file=log, flush=True)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
    child, told = subprocess.Popen([*COMMAND, *command], pass_fds=(lock,), **pipes), False
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(timeout=POLL_S)
                return preemption.EXIT_CODE if told and code else code
            tell.refresh()
            if stop() and not told:
                child.send_signal(signal.SIGTERM)
                told = True
    except BaseException:  # Ctrl-C: the child has got it too; whatever else, it must not go on alone
        child.terminate()
        child.wait()
        raise


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("dynnas: ")]
    return (own or lines or ["it said nothing"])[-1].removeprefix("dynnas: ")


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """SIGTERM is noted, and asked for between the looks at a run."""
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda *_: noted.append(1))
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGTERM, before)


class _Teller:
    """Says how far a study is: in the bar of a terminal, else by lines."""

    def __init__(self, bar: tqdm, times: Times, run: Run, later: Sequence[Run]):
        self._bar, self._start = bar, time.monotonic()
        names = [(each.row.name, each.seed) for each in later]
        self._own_s, self._later_s = times.expected(run.row.name, run.seed), times.expected_of(names)

    @property
    def elapsed_s(self) -> float:
        """Since the run was begun."""
        return time.monotonic() - self._start

    def left(self) -> str:
        """How long all runs will take from now, in words; none where nothing has been measured."""
        if self._own_s is None or self._later_s is None:
            return ""
        return f", about {progress.duration(max(0.0, self._own_s - self.elapsed_s) + self._later_s)} left"

    def refresh(self) -> None:
        """Brings the bar up to date."""
        self._bar.set_postfix_str(self.left().removeprefix(", "))

    def say(self, line: str) -> None:
        """One line, above the bar."""
        self._bar.write(f"dynnas: {line}", file=sys.stdout)
        sys.stdout.flush()
