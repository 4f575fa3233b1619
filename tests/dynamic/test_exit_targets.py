"""What a config may ask of nets of several exits."""

import pytest

from dynnas_jax.dynamic import exit_targets


def test_parts_of_the_largest_net_are_macs_of_it():
    most = {"macs": 2000}
    found = exit_targets.asked(most, target_macs_fractions=(0.25, 0.5), omega=0.1, deployed=1)
    assert found == exit_targets.Targets((500.0, 1000.0), 0.1, "macs")
    assert exit_targets.asked(most, target_macs=(500, 1000), omega=0.1, deployed=1) == found


def test_parts_of_the_largest_net_are_milliseconds_of_it():
    most = {"macs": 2000, "latency_ms": 8.0}
    found = exit_targets.asked(most, target_latency_fractions=(0.25,), latency_table="table.json", omega=0)
    assert found == exit_targets.Targets((2.0,), 0.0, "latency_ms")
    assert exit_targets.asked(most, target_latency_ms=(2,), latency_table="table.json", omega=0) == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "exactly one of target_macs, target_macs_fractions, target_latency_ms, target_latency_fractions"),
        ({"target_macs": (1,), "target_macs_fractions": (1,)}, "exactly one of"),
        ({"target_macs": (5, 0)}, "dynamic.target_macs: 0 must be a finite number above 0"),
        ({"target_macs": (5, float("inf"))}, "dynamic.target_macs: inf must be a finite number above 0"),
        ({"target_macs_fractions": ("a",)}, "dynamic.target_macs_fractions: 'a' must be a finite number above 0"),
        ({"target_macs": "123"}, "dynamic.target_macs is '123', must be a list of targets"),
        ({"target_macs": (1,), "target_latency_ms": (1,), "latency_table": "x"}, "exactly one of"),
        ({"target_latency_ms": (5,)}, "dynamic.target_latency_ms needs dynamic.latency_table; `dynnas table`"),
        ({"target_macs": (5,), "omega": -1}, "omega is -1, must be a finite number of at least 0"),
        ({"target_macs": (5,), "omega": float("inf")}, "omega is inf, must be a finite number of at least 0"),
        ({"target_macs": (5,), "deployed": 1}, "deployed is 1, must be the number of a target, from 0 to 0"),
        ({"target_macs": (5,), "omega": "x"}, "omega is 'x', must be a finite number of at least 0"),
        ({"target_macs": (5,), "deployed": "x"}, "a value has another type"),
        ({"target_macs": 5}, "dynamic.target_macs is 5, must be a list of targets"),
    ],
)
def test_impossible_targets(options, said):
    with pytest.raises(ValueError, match=said):
        exit_targets.check(**options)


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("macs", "a target of 90 MACs on average is below the 91 MACs of the cheapest net's first exit"),
        ("latency_ms", "a target of 90 ms on average is below the 91 ms of the cheapest net's first exit"),
    ],
)
def test_a_target_below_the_cheapest_answer(unit, said):
    exit_targets.check_reachable(exit_targets.Targets((100.0, 90.0), 0.09, unit), 90)
    with pytest.raises(ValueError, match=said):
        exit_targets.check_reachable(exit_targets.Targets((100.0, 90.0), 0.09, unit), 91)
