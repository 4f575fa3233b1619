"""The devices' waiting, against results whose readiness the test decides."""

import threading
import time

import numpy as np
import pytest

from dynnas_jax.train.stopwatch import Stopwatch


class Result:
    """What `jax.block_until_ready` waits for: ready when told."""

    def __init__(self):
        self._event = threading.Event()

    def block_until_ready(self):
        self._event.wait()
        return self

    def finish(self):
        self._event.set()


@pytest.fixture
def watch():
    found = Stopwatch(0)
    yield found
    found.close()


def call(watch, host_s=0.0, *, finished):
    """One call whose result is there before or after the host's next `host_s` seconds of work."""
    watch.begins()
    result = Result()
    watch.dispatched(result)
    if finished:
        result.finish()
        time.sleep(0.02)  # for the thread to notice
    time.sleep(host_s)
    return result


def test_a_host_that_is_slower_lets_the_devices_wait(watch):
    for _ in range(3):
        call(watch, 0.2, finished=True)
    watch.begins()
    speed = watch.look(3)
    assert speed.wait_share > 0.8
    assert 3 / 2 < speed.steps_per_s < 3 / 0.6


def test_a_host_that_is_ahead_does_not(watch):
    for _ in range(3):
        call(watch, 0.05, finished=False).finish()
    assert watch.look(3).wait_share < 0.2


def test_what_is_left_out_does_not_count(watch):
    call(watch, 0.3, finished=True)
    watch.restart(1)
    result = call(watch, finished=False)
    time.sleep(0.05)
    assert watch.look(2).wait_share == 0.0
    result.finish()


def test_it_takes_arrays():
    watch = Stopwatch(0)
    watch.begins()
    watch.dispatched(np.zeros(2))
    watch.close()
    assert watch.look(1).steps_per_s > 0
