"""Scripts of this folder in processes with PyTorch, which answer line by line: `step.py` and `peers.py` start them."""

import json
import os
import subprocess
from pathlib import Path


class Peer:
    """A script of this folder in a process with PyTorch; a call asks for one timed step: (seconds, processor seconds).

    Raises:
      ValueError: if the script ends without an answer.
    """

    def __init__(self, python: str, script: str, task: dict, threads: int | None = None):
        # Threads that spin at a barrier wait many times a step's length for one that has lost its core to other work.
        settings = {**os.environ, "OMP_NUM_THREADS": str(threads or cores()), "OMP_WAIT_POLICY": "passive"}
        pipe, self.command = subprocess.PIPE, [python, str(Path(__file__).with_name(script))]
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True, env=settings)
        self.facts = self.ask(json.dumps(task))

    def ask(self, line: str):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise ValueError(f"{' '.join(self.command)} ended without an answer; what it said stands above")
        return json.loads(answer)

    def __call__(self) -> tuple[float, float]:
        return tuple(self.ask(""))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def has_torch(python: str) -> bool:
    """Whether an interpreter can import PyTorch."""
    return subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def same_costs(script: str, theirs: dict, ours: dict) -> None:
    """Raises ValueError if a peer's nets have other MACs or params than ours."""
    if theirs != ours:
        raise ValueError(f"benchmarks/{script} builds other nets: {theirs}, ours are {ours}")
