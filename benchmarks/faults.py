"""Kills a run at random moments of all its stages: does the same command, given again, end where an unbroken run does?

    python benchmarks/faults.py --output=runs/faults --moments=20
    python benchmarks/faults.py --output=runs/faults_two --moments=10 --processes=2 --devices=4

Prints a row of a table for each kill, then everything as JSON. Every other moment is in training, at a drawn step; the others are
in the other stages in turn: after a drawn number of records, else anywhere in the time that the stage took in an unbroken run. A
kill that comes when its stage is over is compared like the others, and another follows, earlier in that stage. What follows other
options, such as --config.train.steps=60, goes to `dynnas run`. Equal means the same bytes of weights and arrays and the same
JSON, but for times and what is measured by the clock. Of several processes one that is alive is killed, drawn like the moment;
the others must end by themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import result

from dynnas_jax import records
from dynnas_jax.pipeline import NAMES

ROOT = Path(__file__).resolve().parents[1]
CONFIG = (
    f"--config={ROOT / 'configs' / 'digits.py'}:tiny",
    *("--config.train.steps=60", "--config.train.checkpoint_every=5", "--config.train.log_every=5"),
    *("--config.train.evaluate_every=20", "--config.collect.subnets=64", "--config.collect.chunk=4"),
)
BY_THE_CLOCK = ("time_s", "images_per_s", "wait_share")
LOOK_S = 0.005
MOST_KILLS = 4  # for a moment whose stage was over when the kill came
ENDS_WITHIN_S = 60  # the others and their launcher, after one is killed: the launcher's grace of 30 s is the most


class Moment(NamedTuple):
    """When to kill: so long after the run said that it begins this stage, and has saved so much of it."""

    stage: str
    delay_s: float
    victim: int = 0  # which of the processes
    saved: int = 0  # of a training a checkpoint of this step or a later one, of collecting so many records

    def earlier(self) -> Moment:
        """Half as far into the stage."""
        return self._replace(delay_s=self.delay_s / 2, saved=self.saved // 2)


class Ended(NamedTuple):
    """How one start of the command ended."""

    code: int
    said_at_s: dict[str, float]  # stage -> when it began, since the start
    killed_in: str | None  # the stage, None if the run was over before the moment came
    killed_at_s: float | None  # since that stage began
    alive: tuple[int, ...]  # the numbers of the processes that ran when one of them was killed
    process: int | None  # the number of the one that was killed
    ended_after_s: float | None  # from the kill until all processes, and their launcher, had ended
    tail: str  # the last lines of its output


def command(workdir: Path, config: tuple[str, ...], processes: int = 1, devices: int = 1) -> list[str]:
    """`dynnas run`, in one process or several."""
    run = ["run", f"--workdir={workdir}", *config]
    if processes == 1:
        return [sys.executable, "-m", "dynnas_jax", *run]
    local = [str(ROOT / "launch" / "local.py"), f"--processes={processes}", f"--devices={devices}"]
    return [sys.executable, *local, "--", *run]


class _Output(threading.Thread):
    """Reads what a command says, and notes when it said that a stage begins."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.start_s, self.lines = stream, time.monotonic(), []
        self.said_at_s, self.told = {}, threading.Condition()
        self.start()

    def run(self):
        for line in self.stream:
            self.lines.append(line)
            if begins := re.search(r"dynnas: (\w+) \.\.\.", line):
                with self.told:
                    self.said_at_s[begins[1]] = time.monotonic() - self.start_s
                    self.told.notify_all()
        with self.told:
            self.lines.append("")
            self.stream = None
            self.told.notify_all()

    def wait_for(self, stage: str) -> bool:
        """Whether the stage began, or a later one, before the output ended."""
        later = NAMES[NAMES.index(stage) :]
        with self.told:
            self.told.wait_for(lambda: self.stream is None or any(name in self.said_at_s for name in later))
            return any(name in self.said_at_s for name in later)


def start(
    asked: list[str], moment: Moment | None, environment: dict[str, str] | None = None, workdir: Path | None = None
) -> Ended:
    """Starts the command and kills it at a moment of its working directory, or lets it run to its end."""
    settings = {**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=settings, start_new_session=True
    )
    output = _Output(process.stdout)
    killed, alive, victim = None, (), None
    try:
        if moment is not None and output.wait_for(moment.stage):
            while process.poll() is None and saved(workdir, moment.stage) < moment.saved:
                time.sleep(LOOK_S)
            time.sleep(moment.delay_s)
            if process.poll() is None:
                killed = list(output.said_at_s)[-1]
                killed_at_s = time.monotonic() - output.start_s - output.said_at_s[killed]
                alive, victim = kill_one(process.pid, moment.victim)
                killed_s = time.monotonic()
        process.wait(None if killed is None else ENDS_WITHIN_S)
        ended_after_s = time.monotonic() - killed_s if killed else None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    output.join()
    process.stdout.close()
    tail = "".join(output.lines[-12:])
    at_s = killed_at_s if killed else None
    return Ended(process.returncode, output.said_at_s, killed, at_s, alive, victim, ended_after_s, tail)


def children(pid: int) -> dict[int, int]:
    """The processes of `dynnas` that a launcher started and that run: number -> process id."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    running = {}
    for child in found.read_text().split() if found.exists() else ():
        line = ""  # as of one that has ended and still has its number
        with contextlib.suppress(FileNotFoundError):
            line = Path(f"/proc/{child}/cmdline").read_bytes().decode()
        if number := re.search(r"dynnas_jax\0.*--process=(\d+)", line):
            running[int(number[1])] = int(child)
    return dict(sorted(running.items()))


def kill_one(pid: int, victim: int) -> tuple[tuple[int, ...], int]:
    """Kills a process, or of a launcher's children that of this number if it runs: (those that ran, the one)."""
    running = children(pid) or {0: pid}
    number = victim if victim in running else min(running)
    os.kill(running[number], signal.SIGKILL)
    return tuple(running), number


def state_of(workdir: Path) -> str:
    """What there is to go on from: stages that are done, checkpoints, records."""
    done = [name for name in NAMES if (workdir / name / "manifest.json").exists()]
    left = next((name for name in NAMES if name not in done), None)
    found = {"train": "checkpoint of step {}", "collect": "{} records"}.get(left)
    so_far = saved(workdir, left) if found else 0
    return (
        ", ".join(filter(None, [f"{done[-1]} done" if done else "", found.format(so_far) if so_far else ""]))
        or "nothing"
    )


def saved(workdir: Path, stage: str) -> float:
    """The step of the newest checkpoint, or the number of records; none is missing of a stage that is done."""
    if (workdir / stage / "manifest.json").exists():
        return math.inf
    if stage == "train":
        checkpoints = [int(path.name) for path in (workdir / "train" / "checkpoints").glob("*") if path.name.isdigit()]
        return max(checkpoints, default=0)
    try:
        return int(records.open(workdir / "collect" / "records.zarr").done().sum()) if stage == "collect" else 0
    except ValueError:
        return 0


def content(workdir: Path, stages: tuple[str, ...] = NAMES) -> dict[str, object]:
    """What must be the same in two runs, by file: bytes, arrays as bytes, JSON without times."""
    found = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        if name.split("/")[0] not in stages or "records.zarr" in name:
            continue
        if path.suffix in (".msgpack", ".tflite"):
            found[name] = path.read_bytes()
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: (arrays[key].dtype.str, arrays[key].tobytes()) for key in arrays.files}
        elif name == "train/metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: repr(v) for k, v in row.items() if k not in BY_THE_CLOCK} for row in rows]
        elif name in ("train/data.json", "predict/predictor.json", "search/found.json", "evaluate/evaluation.json"):
            found[name] = json.loads(path.read_text())
    if "collect" in stages:
        store = records.open(workdir / "collect" / "records.zarr")
        found["collect/records.zarr"] = {key: store.read(key).tobytes() for key in store.arrays}
    return found


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """The names of what two runs do not have in common."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def broken(asked: list[str], workdir: Path, moments: list[Moment], environment: dict[str, str] | None = None) -> list:
    """A run that is killed at each of the moments, and then left to end: (how it ended, what was there then) of each kill.

    Raises:
      RuntimeError: if the last start does not end well.
    """
    kills = []
    for moment in moments:
        ended = start(asked, moment, environment, workdir)
        kills.append((ended, state_of(workdir)))
    last = start(asked, None, environment)
    if last.code != 0:
        raise RuntimeError(f"the run did not go on, exit code {last.code}:\n{last.tail}")
    return kills


def draw(
    seed: int, count: int, took_s: dict[str, float], processes: int, parts: dict[str, int], only: tuple[str, ...] = ()
) -> list[Moment]:
    """Moments of training and the other stages in turn, or of `only` these; anywhere in them and their `parts`."""
    drawn = random.Random(seed)
    others = [name for name in NAMES if name in took_s and name != "train"]
    found = []
    for number in range(count):
        stage = only[number % len(only)] if only else others[number // 2 % len(others)] if number % 2 else "train"
        of = parts.get(stage, 1)
        delay_s, victim, saved = drawn.random() * took_s[stage] / of, drawn.randrange(processes), drawn.randrange(of)
        found.append(Moment(stage, delay_s, victim, saved))
    return found


def parts_of(workdir: Path) -> dict[str, int]:
    """The steps of a run's training, and its records."""
    steps = int(json.loads((workdir / "train" / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    return {"train": steps, "collect": len(records.open(workdir / "collect" / "records.zarr").done())}


def durations(ended: Ended, total_s: float) -> dict[str, float]:
    """Seconds of each stage of an unbroken run."""
    begun = [*ended.said_at_s.values(), total_s]
    return {stage: after - at for stage, at, after in zip(ended.said_at_s, begun, begun[1:], strict=False)}


def arguments() -> tuple[argparse.Namespace, tuple[str, ...]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True, help="a new folder for the runs")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=(), help="moments in these stages in turn")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1, help="of each process, where there are several")
    parser.add_argument("--keep", action="store_true", help="keep the runs that ended alike, too")
    known, rest = parser.parse_known_args()
    if known.output.exists():
        parser.error(f"--output={known.output} is there already")
    config = [argument for argument in rest if argument.startswith("--config=")]
    return known, (*([] if config else CONFIG), *rest)


def killed(run: Callable, workdir: Path, moment: Moment, expected: dict, keep: bool) -> dict:
    """The row of one kill in a fresh run, which then goes on to its end and is compared; printed."""
    ((ended, resumed_from),) = broken(run(workdir.name), workdir, [moment])
    differs = differences(content(workdir), expected)
    row = {"stage": ended.killed_in or "over before", "killed_after_s": round(ended.killed_at_s or 0, 2)}
    row |= {"process": ended.process, "alive": ended.alive, "ended_after_s": round(ended.ended_after_s or 0, 2)}
    row |= {"resumed_from": resumed_from, "identical": not differs, "differs": differs}
    cells = [row["stage"], row["killed_after_s"], row["process"], " ".join(map(str, ended.alive))]
    cells += [row["ended_after_s"], resumed_from, "yes" if not differs else f"no: {', '.join(differs)}"]
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if not differs and not keep:
        shutil.rmtree(workdir)
    return row


def main() -> None:
    known, config = arguments()
    run = lambda name: command(known.output / name, config, known.processes, known.devices)  # noqa: E731
    # The first run compiles, and is itself compared with the second.
    for name in ("compiling", "unbroken"):
        begin_s = time.monotonic()
        whole = start(run(name), None)
        if whole.code != 0:
            sys.exit(f"the unbroken run ended with exit code {whole.code}:\n{whole.tail}")
    took_s = durations(whole, time.monotonic() - begin_s)
    expected = content(known.output / "unbroken")
    alike = differences(content(known.output / "compiling"), expected)
    print("| stage | killed after s | process | of | all ended s later | resumed from | identical |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    table = []
    parts = parts_of(known.output / "unbroken")
    for moment in draw(known.seed, known.moments, took_s, known.processes, parts, known.only):
        for _ in range(MOST_KILLS):
            table.append(killed(run, known.output / f"kill_{len(table)}", moment, expected, known.keep))
            if table[-1]["stage"] == moment.stage:
                break
            moment = moment.earlier()
    what = f"a run in {known.processes} processes of {known.devices} devices, killed at {known.moments} moments"
    facts = {"unbroken_differs": alike, "stage_s": {name: round(value, 2) for name, value in took_s.items()}}
    identical = sum(row["identical"] for row in table)
    ends = [row["ended_after_s"] for row in table if len(row["alive"]) > 1]
    facts |= {"of_several": len(ends), "all_of_several_ended": result.times(ends, "s", 2)} if ends else {}
    facts |= {"kills": sum(bool(row["alive"]) for row in table), "starts": len(table), "identical": identical}
    result.show(what, {**facts, "rows": table})
    sys.exit(0 if identical == len(table) and not alike else 1)


if __name__ == "__main__":
    main()
