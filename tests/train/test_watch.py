"""Signs of life of a training by a clock that the test sets."""

import pytest

from dynnas_jax.train import watch
from dynnas_jax.train.stopwatch import Speed


@pytest.fixture
def clock(monkeypatch):
    """Seconds, to be set."""
    now = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    return now


def test_a_speed_is_that_of_about_the_last_minute(clock):
    heart = watch.Heartbeat(100, 1000, 32, every_s=60)
    unknown = dict.fromkeys(("images_per_s", "wait_share", "loss", "time_left_s"))
    assert heart.facts() == {"step": 100, "steps": 1000, **unknown}
    clock[0] += 40
    heart.beat(200, Speed(2.5, 0.1), 3.0)  # 40 s for 100 steps
    first = {"images_per_s": 80.0, "wait_share": 0.1, "time_left_s": 320.0}
    assert heart.facts() == {"step": 200, "steps": 1000, "loss": 3.0, **first}
    clock[0] += 50
    heart.beat(300, Speed(2.0, 0.2), 2.5)  # and 50 s: 200 steps in 90 s, of which 14 s were waited for
    assert heart.facts() == {
        "step": 300,
        "steps": 1000,
        "images_per_s": pytest.approx(32 * 200 / 90, abs=0.1),
        "wait_share": pytest.approx(14 / 90, abs=1e-3),
        "loss": 2.5,
        "time_left_s": pytest.approx(700 * 90 / 200, abs=0.1),
    }
    heart.beat(310, Speed(10.0, 0.0), 2.25)
    found = heart.facts()
    assert (found["step"], found["loss"]) == (310, 2.25)
    assert found["images_per_s"] == pytest.approx(32 * 200 / 90, abs=0.1)
    heart.beat(1000, Speed(10.0, 0.0), float("nan"))
    end = {"images_per_s": 320.0, "wait_share": 0.0, "loss": None, "time_left_s": 0.0}
    assert heart.facts() == {"step": 1000, "steps": 1000, **end}
