#!/usr/bin/env python3
"""Several processes of `dynnas` on this machine, as if each were a host of its own.

    python launch/local.py --processes=2 --devices=4 -- run --config=configs/digits.py:tiny --workdir=runs/two

Every process gets what follows `--`, and `--coordinator=HOST:PORT --processes=N --process=I` after it. Each of its lines is
shown behind its number. If one process ends badly, the others are ended and the exit code is its own (128 + n for signal n).
Exit code 75 means "preempted, state saved, start me again"; after that, or after a killed process, --restarts=N starts anew.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from subprocess import DEVNULL, PIPE, STDOUT
from typing import NamedTuple

PREEMPTED = 75
# A terminal that closes is no reason to lose what SIGTERM would have saved.
FORWARDED = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGINT, signal.SIGHUP: signal.SIGTERM}
_OUTPUT_DRAIN_S = 1.0
_line_lock = threading.Lock()


class End(NamedTuple):
    """How a process ended; the code is negative for a signal, as `subprocess` has it."""

    process: int
    code: int

    def __str__(self) -> str:
        if self.code < 0:
            return f"process {self.process} was killed by {signal.Signals(-self.code).name}"
        saved = " (preempted, state saved)" if self.code == PREEMPTED else ""
        return f"process {self.process} exited with code {self.code}{saved}"


class Verdict(NamedTuple):
    """What becomes of the whole job."""

    again: bool  # whether starting the job anew may help
    exit_code: int  # what to exit with otherwise


def verdict(causes: list[End]) -> Verdict:
    """What the processes that ended badly by themselves, in that order, mean for the job.

    The first decides: what follows a killed or preempted process may be its peers' complaint about it.
    """
    if not causes:
        return Verdict(again=False, exit_code=0)
    first = causes[0].code
    return Verdict(first < 0 or first == PREEMPTED, first if first > 0 else 128 - first)


class Attempt:
    """The processes of one start of the job. `events` brings `End`s and, from outside, signals to forward."""

    def __init__(self, events: queue.SimpleQueue, grace_s: float):
        self.causes: list[End] = []
        self.stopped = False
        self._events, self._grace_s = events, grace_s
        self._children: list[subprocess.Popen] = []
        self._printers: list[threading.Thread] = []
        self._running: set[int] = set()
        self._plan: list[tuple[float, signal.Signals]] = []  # when to send what to those still running
        self._told = False  # whether a planned signal was sent: what ends after it is no cause

    def start(self, lines: list[list[str]], own: list[dict[str, str]]) -> None:
        """Starts a process for each command line, with what its environment has beyond this one's."""
        try:
            for line, extra in zip(lines, own, strict=True):
                self._start_one(line, {**os.environ, "PYTHONUNBUFFERED": "1", **extra})
        except OSError:
            self._kill_groups(self._running)
            raise

    def _start_one(self, command: list[str], environment: dict[str, str]) -> None:
        # A session of its own: a terminal's Ctrl-C comes from here alone, and once.
        pipes = {"stdin": DEVNULL, "stdout": PIPE, "stderr": STDOUT, "errors": "replace"}
        child = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        index = len(self._children)
        self._children.append(child)
        self._running.add(index)
        self._printers.append(threading.Thread(target=_print_lines, args=(index, child.stdout), daemon=True))
        self._printers[-1].start()
        # At once, since the order of the ends tells the cause from what it led to.
        threading.Thread(target=lambda: self._events.put(End(index, child.wait())), daemon=True).start()

    def follow(self, report) -> None:
        """Waits until every process ended. Each cause is told to `report(cause, sentence about the others)`."""
        while self._running:
            try:
                event = self._events.get(timeout=max(self._plan[0][0] - time.monotonic(), 0) if self._plan else None)
            except queue.Empty:
                self._told = True
                self._send(self._plan.pop(0)[1])
                continue
            if isinstance(event, signal.Signals):
                self.stopped = True
                say(f"{event.name}: forwarded to {len(self._running)} processes")
                self._send(event)
            else:
                self._note(event, report)
        if self.causes:
            self._kill_groups(range(len(self._children)))

    def _note(self, end: End, report) -> None:
        self._running.discard(end.process)
        # What the ended process left behind may hold the pipe open.
        self._printers[end.process].join(_OUTPUT_DRAIN_S)
        if end.code == 0 or self._told:
            return
        first_failure = end.code != PREEMPTED and all(cause.code == PREEMPTED for cause in self.causes)
        if not self.causes or first_failure:
            # Preempted processes save together; the others may be about to end in the same way.
            wait_s = self._grace_s if end.code == PREEMPTED else 0.0
            start = time.monotonic() + wait_s
            self._plan = [(start, signal.SIGTERM), (start + self._grace_s, signal.SIGKILL)]
        self.causes.append(end)
        report(end, self._sentence(end))

    def _sentence(self, end: End) -> str:
        if not self._running:
            return "no other is running"
        others = ", ".join(str(index) for index in sorted(self._running))
        when = f"in {self._grace_s:g} s" if end.code == PREEMPTED else "now"
        return f"process {others} gets SIGTERM {when} and SIGKILL {self._grace_s:g} s later"

    def _send(self, number: signal.Signals) -> None:
        if number == signal.SIGKILL:
            self._kill_groups(self._running)
        else:
            for index in self._running:
                self._children[index].send_signal(number)

    def _kill_groups(self, indices) -> None:
        """Kills processes with all they started; gone ones are left alone."""
        for index in indices:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._children[index].pid, signal.SIGKILL)


def _print_lines(index: int, stream) -> None:
    for line in stream:
        _write(sys.stdout, f"[{index}] {line.rstrip()}\n")


def say(text: str) -> None:
    """One line of the launcher's own."""
    _write(sys.stderr, f"launch: {text}\n")


def _write(stream, line: str) -> None:
    # A reader or terminal that is gone must not end the job.
    with _line_lock, contextlib.suppress(OSError):
        stream.write(line)
        stream.flush()


def environments(known: argparse.Namespace) -> list[dict[str, str]]:
    """What each process's environment has beyond this one's.

    Raises:
      ValueError: for fewer GPUs than the processes need.
    """
    own: list[dict[str, str]] = [{} for _ in range(known.processes)]
    if known.devices:
        kept = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", "")).split()
        flags = " ".join([*kept, f"--xla_force_host_platform_device_count={known.devices}"])
        own = [{"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} for _ in own]
    elif known.gpus_per_process:
        each, needed = known.gpus_per_process, known.gpus_per_process * known.processes
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = [str(index) for index in range(needed)] if named is None else [gpu for gpu in named.split(",") if gpu]
        if len(gpus) < needed:
            raise ValueError(
                f"{known.processes} processes with --gpus_per_process={each} need {needed} GPUs, "
                f"CUDA_VISIBLE_DEVICES={named} has {len(gpus)}; give fewer --processes"
            )
        own = [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * each : (i + 1) * each])} for i in range(known.processes)]
    return own


def commands(command: list[str], job: list[str], processes: int) -> list[list[str]]:
    """The command of every process, with a coordinator on a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}"]
    return [[*command, *job, *group, f"--process={index}"] for index in range(processes)]


def run(known: argparse.Namespace, job: list[str]) -> int:
    """Runs the job, again if need be; returns the exit code."""
    own = environments(known)
    if known.dry_run:
        for extra, line in zip(own, commands(known.command, job, known.processes), strict=True):
            print(shlex.join([*(["env", *(f"{key}={value}" for key, value in extra.items())] if extra else []), *line]))
        return 0
    if not shutil.which(known.command[0]):
        raise ValueError(
            f"--command={shlex.join(known.command)}: no program {known.command[0]!r}; give one that is there"
        )
    events: queue.SimpleQueue = queue.SimpleQueue()
    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: events.put(FORWARDED[signal.Signals(number)]))
    for restart in range(known.restarts + 1):
        attempt = Attempt(events, known.grace_s)

        def report(end: End, others: str, attempt=attempt, restart=restart) -> None:
            say(f"{end}; {others}; then {_next(attempt, restart, known.restarts)}")

        attempt.start(commands(known.command, job, known.processes), own)
        attempt.follow(report)
        if attempt.stopped or not verdict(attempt.causes).again:
            break
    return verdict(attempt.causes).exit_code


def _next(attempt: Attempt, restart: int, restarts: int) -> str:
    again, code = verdict(attempt.causes)
    if attempt.stopped or not again:
        return f"the launcher exits with {code}"
    if restart < restarts:
        return f"the job starts again (restart {restart + 1} of {restarts})"
    why = "no restart is left" if restarts else "--restarts=N would start the job again"
    return f"the launcher exits with {code} ({why})"


class _Parser(argparse.ArgumentParser):
    """One plain line for a mistake."""

    def error(self, message: str):
        self.exit(2, f"launch: {message} (--help lists all)\n")


def _at_least(lowest: int, kind: type = int):
    def number(text: str):
        if not lowest <= kind(text) < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not at least {lowest}")
        return kind(text)

    return number


def _parser() -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="launch/local.py", description=__doc__, formatter_class=kind, allow_abbrev=False)
    parser.usage = "python launch/local.py --processes=N [options] -- run --config=... --workdir=..."
    parser.add_argument("--processes", type=_at_least(1), required=True, metavar="N", help="how many")
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument("--devices", type=_at_least(1), metavar="N", help="virtual CPU devices of each process")
    devices.add_argument(
        "--gpus_per_process", type=_at_least(1), metavar="N", help="of CUDA_VISIBLE_DEVICES, if that is set"
    )
    parser.add_argument("--restarts", type=_at_least(0), default=0, metavar="N", help="at most so many (0)")
    parser.add_argument(
        "--grace_s", type=_at_least(0, float), default=30.0, metavar="S", help="from SIGTERM to SIGKILL (30)"
    )
    default = [sys.executable, "-m", "dynnas_jax"]
    parser.add_argument("--command", type=shlex.split, default=default, help="run this instead of python -m dynnas_jax")
    parser.add_argument("--dry_run", action="store_true", help="print the command of each process and run nothing")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Runs the job and exits as it ended, with 2 after a mistake of the user's."""
    given = sys.argv[1:] if arguments is None else arguments
    split = given.index("--") if "--" in given else len(given)
    parser = _parser()
    known = parser.parse_args(given[:split])
    if split == len(given):
        parser.error("give the job after --, for example: -- run --config=configs/digits.py --workdir=runs/digits")
    if not known.command:
        parser.error("--command is empty; name a program")
    try:
        sys.exit(run(known, given[split + 1 :]))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
