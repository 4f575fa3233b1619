"""Interleaved timing with a clock of its own: nothing here takes real time or asserts any."""

import json

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from dynnas_jax.export import rounds, tflite


class Clock:
    """A clock that only the timed calls move."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def taking(self, name, seconds):
        """A call that takes so long; an iterable gives the seconds of one call after the other."""
        durations = iter(seconds) if hasattr(seconds, "__iter__") else None

        def run():
            self.calls.append(name)
            self.now += next(durations) if durations else seconds

        return run


def test_a_long_call_is_timed_once_behind_a_warm_up():
    clock = Clock()
    assert rounds.burst(clock.taking("slow", [9.0, 5.0]), clock) == 5000.0
    assert len(clock.calls) == 2


def test_a_burst_is_the_median_of_many_short_calls():
    clock = Clock()
    seconds = [9.0, rounds.BURST_S / 3, 7e-4, 5e-4, 6e-4]  # the warm-up, the one that tells how many, and so many
    assert rounds.burst(clock.taking("short", seconds), clock) == pytest.approx(0.6)
    assert len(clock.calls) == 5


@pytest.mark.parametrize(("seconds", "runs"), [(1e-6, 100), (1e-4, 10), (1.0, 0)])
def test_a_burst_takes_about_a_millisecond(seconds, runs):
    clock = Clock()
    assert rounds.burst(clock.taking("x", seconds), clock) == pytest.approx(seconds * 1e3)
    assert len(clock.calls) == runs + 2


def measured(path, seconds, count, ticks=None):
    clock = Clock()
    runs = [clock.taking(i, s) for i, s in enumerate(seconds)]
    tick = (lambda n: None) if ticks is None else ticks.append
    return rounds.measure(runs, path, rounds=count, clock=clock, tick=tick), clock


def test_every_round_has_all_models_in_another_order(tmp_path):
    found, clock = measured(tmp_path / "rounds.jsonl", (0.25, 0.5, 0.125), 4)
    np.testing.assert_allclose(found, [[250, 500, 125]] * 4)
    firsts = clock.calls[::2]  # one for each burst
    orders = [tuple(firsts[i : i + 3]) for i in range(0, 12, 3)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(set(orders)) > 1


def test_an_interrupted_measurement_goes_on(tmp_path):
    """Two rounds done and a third cut off in the middle of its line."""
    path = tmp_path / "rounds.jsonl"
    measured(path, (0.25, 0.5), 2)
    path.write_text(path.read_text() + "[250.0, 5")
    ticks = []
    found, clock = measured(path, (0.125, 1.0), 3, ticks)
    np.testing.assert_allclose(found, [[250, 500], [250, 500], [125, 1000]])
    assert len(clock.calls) == 2 * 2
    assert ticks[0] == 4
    assert sum(ticks) == 6
    assert [json.loads(line) for line in path.read_text().splitlines()] == found.tolist()


def test_rounds_of_other_models(tmp_path):
    path = tmp_path / "rounds.jsonl"
    measured(path, (0.25, 0.5), 1)
    with pytest.raises(ValueError, match="holds rounds of other models"):
        measured(path, (0.25,), 2)


def test_disturbed_rounds_move_nothing():
    """Six of ten rounds, each far slower."""
    samples = np.tile([2.0, 3.0], (10, 1))
    samples[[0, 2, 4, 5, 7, 9]] *= 50
    assert rounds.typical(samples)[0].tolist() == [2.0, 3.0]
    normal = np.random.default_rng(0).normal(5, 0.5, (20_000, 1))
    low, spread = rounds.typical(normal)
    np.testing.assert_allclose([low[0], spread[0]], [5 - 0.6745 * 0.5, 0.5], rtol=0.03)


@pytest.fixture(scope="module")
def two_in_one(tmp_path_factory):
    """A file of two signatures that share weights, and what they compute."""
    path = tmp_path_factory.mktemp("two") / "two.tflite"
    weights = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    functions = {"second": lambda x: {"y": (x @ weights) @ weights}, "first": lambda x: {"y": x @ weights}}
    signatures = {
        name: tflite.Signature(lambda arrays, f=f: f(arrays["x"]), {"x": (1, 8)}) for name, f in functions.items()
    }
    with tflite.saved(signatures) as traced:
        traced.write(path)
    return path, functions


def test_signatures_cut_out_of_a_file_answer_as_they_did(two_in_one):
    path, functions = two_in_one
    cut = rounds.cut(path.read_bytes())
    assert set(cut) == set(functions)
    x = np.linspace(-1, 1, 8, dtype=np.float32)[None]
    for name, content in cut.items():
        found = Interpreter(model_content=content).get_signature_runner(name)(x=x)["y"]
        np.testing.assert_allclose(found, functions[name](x)["y"], rtol=1e-5)
        rounds.Invocation(content).run()  # and is ready to be timed
    assert len(cut["first"]) < path.stat().st_size
