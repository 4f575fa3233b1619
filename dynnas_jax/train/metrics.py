"""metrics.jsonl, and the trackers that follow it: TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from dynnas_jax.workdir import write_bytes

WANDB_MODES = ("online", "offline", "disabled")

Write = Callable[[int, dict[str, float]], None]  # write(step, values)


class Begun(NamedTuple):
    """What a tracker is told when a run starts, or goes on."""

    directory: Path  # the files of the tracker go below it
    resumed_step: int  # 0 for a new run
    past: Sequence[tuple[int, dict[str, float]]] = ()  # what was logged up to that step
    config: dict | None = None  # of the whole run


class Log:
    """Appends one JSON object per call; a resumed run drops what was logged after its checkpoint.

    Of several processes only the first writes; without a directory none does.
    """

    def __init__(
        self,
        directory: Path | None,
        resumed_step: int = 0,
        *,
        trackers: Sequence[str] = (),
        wandb: dict | None = None,
        config: dict | None = None,
    ):
        """`trackers` as `chosen` gives them; `wandb` are keyword arguments of `weights_and_biases`."""
        self._file, self._tell, self._start = None, [], time.perf_counter()
        self._open = contextlib.ExitStack()
        if directory is None or jax.process_index() != 0:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        begun = Begun(directory, resumed_step, _keep(path, resumed_step), config)
        with self._open as opened:  # what is open already is closed again if a tracker cannot be opened
            self._file = opened.enter_context(path.open("a"))
            for name in trackers:
                options = (wandb or {}) if name == "wandb" else {}
                self._tell.append(opened.enter_context(TRACKERS[name].follow(begun, **options)))
            self._open = opened.pop_all()

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line: the step, the values, and the seconds since this log was opened."""
        if self._file is None:
            return
        row = {"step": step, **values, "time_s": round(time.perf_counter() - self._start, 3)}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for tell in self._tell:
            tell(step, values)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error) -> None:
        self._open.__exit__(*error)


@contextlib.contextmanager
def tensorboard(begun: Begun) -> Iterator[Write]:
    """Event files in `tensorboard`; what came after the step resumed from is marked as gone."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(begun.directory / "tensorboard"), purge_step=begun.resumed_step + 1) as events:

        def write(step, values):
            for name, value in values.items():
                events.add_scalar(name, value, step)

        yield write


@contextlib.contextmanager
def weights_and_biases(
    begun: Begun,
    *,
    project: str | None = None,
    entity: str | None = None,
    name: str | None = None,
    mode: str | None = None,
) -> Iterator[Write]:
    """A run of Weights & Biases with its files in `wandb`; a resumed run goes on in the same one.

    It is first told of the past what it does not know: offline everything, since each start has a file of its own and a
    killed process leaves its file without the newest rows; online what had not been sent.

    Args:
      project: by default WANDB_PROJECT, or dynnas_jax.
      entity, name: by default those W&B chooses.
      mode: one of WANDB_MODES; by default WANDB_MODE, or online.

    Raises:
      ValueError: if W&B does not take the run.
    """
    import wandb

    project = project or os.environ.get("WANDB_PROJECT", "dynnas_jax")
    options = {"project": project, "entity": entity, "name": name, "mode": mode, "id": _run_id(begun.directory)}
    # Its copy of the terminal would be mostly progress bars.
    settings = wandb.Settings(console="off")
    try:
        # What the run does after training may change with its config; the id stays.
        run = wandb.init(
            dir=begun.directory,
            config=begun.config,
            resume="allow",
            allow_val_change=True,
            settings=settings,
            **options,
        )
    except wandb.Error as error:
        raise _unreachable(error) from error
    with run:

        def write(step, values):
            if step >= run.starting_step:  # earlier ones are known, and W&B takes no step twice
                run.log(values, step=step)

        for step, values in begun.past:
            write(step, values)
        yield write


class _Tracker(NamedTuple):
    module: str  # that its extra installs
    follow: Callable[..., contextlib.AbstractContextManager[Write]]  # (begun, **options)


# The name of each is that of its extra too.
TRACKERS = {"tensorboard": _Tracker("tensorboardX", tensorboard), "wandb": _Tracker("wandb", weights_and_biases)}


def chosen(trackers: Sequence[str] | None, wandb: dict | None) -> tuple[str, ...]:
    """The trackers that are asked for; by default (None) TensorBoard, where its extra is installed.

    Raises:
      ValueError: for an unknown tracker (the nearest is named), one that is not installed, or `wandb` without that tracker.
    """
    if trackers is not None and not isinstance(trackers, (tuple, list)):
        raise ValueError(f"train.trackers is {trackers!r}, must be a tuple such as {tuple(TRACKERS)}")
    for name in trackers or ():
        if name not in TRACKERS:
            near = difflib.get_close_matches(str(name), TRACKERS, n=1, cutoff=0.0)
            raise ValueError(f"train.trackers: unknown tracker {name!r}, did you mean {near[0]!r}?")
    if wandb and "wandb" not in (trackers or ()):
        raise ValueError("train.wandb is given, but train.trackers does not name 'wandb'")
    installed = [name for name in TRACKERS if importlib.util.find_spec(TRACKERS[name].module)]
    if trackers is None:
        return tuple(name for name in ("tensorboard",) if name in installed)
    for name in trackers:
        if name not in installed:
            raise ValueError(f'train.trackers: {name!r} is not installed: pip install "dynnas_jax[{name}]"')
    return tuple(dict.fromkeys(trackers))


def check(trackers: Sequence[str] | None, wandb: dict | None) -> None:
    """Raises ValueError for what `chosen` refuses, options that W&B does not take, or no account where one is needed.

    At a terminal W&B asks for the account.
    """
    if "wandb" not in chosen(trackers, wandb):
        return
    import wandb as package

    given = {key: value for key, value in (wandb or {}).items() if value is not None}
    if (mode := given.get("mode")) not in (None, *WANDB_MODES):
        raise ValueError(f"train.wandb.mode is {mode!r}, choose from {list(WANDB_MODES)}")
    for key, value in given.items():
        if not isinstance(value, str) or not value:
            raise ValueError(f"train.wandb.{key} is {value!r}, must be a name")
    try:
        package.Settings(project=given.get("project"))
    except package.Error as error:
        raise ValueError(f"train.wandb.project: {error}") from error
    try:
        if (mode or package.setup().settings.mode) == "online":
            package.login()
    except package.Error as error:
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> ValueError:
    return ValueError(f"train.wandb: {error} (mode='offline' needs neither an account nor a network)")


def _run_id(directory: Path) -> str:
    """W&B's name for the run of this directory, the same at every start."""
    file = directory / "wandb_run_id"
    if not file.exists():
        write_bytes(file, secrets.token_hex(6).encode())
    return file.read_text()


def _keep(path: Path, resumed_step: int) -> list[tuple[int, dict[str, float]]]:
    """Drops the lines after a step from the file, if there is one; (step, values) of those kept."""
    if not path.exists():
        return []
    kept = [line for line in path.read_text().splitlines() if _step(line) <= resumed_step]
    whole = path.with_suffix(".tmp")
    whole.write_text("".join(f"{line}\n" for line in kept))
    whole.replace(path)
    rows = map(json.loads, kept)
    return [(row["step"], {k: v for k, v in row.items() if k not in ("step", "time_s")}) for row in rows]


def _step(line: str) -> float:
    """The step of a logged line; a line cut off by a crash counts as later than everything."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
