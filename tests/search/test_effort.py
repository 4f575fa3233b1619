"""What a search costs: seconds that compiling takes apart from those it does not, and memory."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dynnas_jax.search import effort


def test_seconds_covered_by_spans_against_a_fine_grid():
    generator = np.random.default_rng(0)
    for _ in range(30):
        starts = generator.integers(0, 100, generator.integers(0, 8))
        spans = [(int(start), int(start + generator.integers(0, 30))) for start in starts]
        covered = {second for start, end in spans for second in range(start, end)}
        assert effort.covered_s(spans) == len(covered)


def test_compiling_is_apart():
    """Tracing sleeps once, and so does the host."""

    def traced(x):
        time.sleep(0.4)
        return jax.jit(lambda y: y * 2)(x)

    program = jax.jit(traced)
    with effort.Meter() as meter:
        jax.block_until_ready(program(jnp.ones(3)))
        time.sleep(0.2)
    told = meter.told()
    assert told["compile_s"] >= 0.4
    assert told["device_s"] >= 0.2
    with effort.Meter() as meter:
        jax.block_until_ready(program(jnp.ones(3)))
    assert meter.told()["compile_s"] == 0
    assert told["devices"] == 8
    assert told["peak_memory_of"] == "process"


PEAKS = """
import numpy as np
from dynnas_jax.search import effort

before = np.ones(2**26)  # 512 MiB, gone before the search
del before
for length in (1, 2**25):
    with effort.Meter() as meter:
        held = np.ones(length)
    print(meter.told()["peak_memory_bytes"])
"""


def test_the_peak_is_that_of_the_search():
    """In a process of its own: one that has run a pipeline keeps what it frees."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large - small > 0.8 * np.ones(2**25).nbytes


def test_nothing_listens_after_an_error():
    program = jax.jit(lambda x: x + 1)
    meter = effort.Meter()
    with pytest.raises(KeyError), meter:
        raise KeyError
    program(jnp.ones(5))
    assert meter.told()["compile_s"] == 0
