"""Groups of processes: those that cannot be; one process alone. Real groups: tests/test_devices.py and others."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from dynnas_jax import processes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", 2, None), "belong together"),
        ((None, None, 0), "belong together"),
        (("localhost:1", 2, 2), "--process=2: must be at least 0 and below --processes=2"),
    ],
)
def test_groups_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.join(*arguments)
    assert jax.process_count() == 1


FAILS = """
import sys, time
from dynnas_jax import processes
processes.SHUTDOWN_TIMEOUT_S = 2
processes.join(sys.argv[1], 2, int(sys.argv[2]))
processes.wait_for_all("begin")
if sys.argv[2] == "1":
    print("fails", flush=True)
    raise SystemExit(3)
time.sleep(120)
"""


def test_a_process_that_fails_does_not_wait_for_the_others_to_end(free_port):
    """Else the launcher would not know of it: JAX makes it wait five minutes."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", FAILS, f"localhost:{free_port}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": environment}
    first, second = started = [subprocess.Popen([*command, str(index)], **pipes) for index in range(2)]
    try:
        assert second.stdout.readline() == "fails\n"
        begin = time.monotonic()
        assert second.wait(100) != 0
        assert time.monotonic() - begin < 60
        assert first.poll() is None or first.returncode != 0
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_one_process_waits_for_no_one():
    assert processes.is_first()
    assert not processes.several()
    processes.wait_for_all("nothing")
    assert processes.part()
