"""What a config may ask of nets of several exits."""

import pytest

from dynnas_jax.dynamic import exit_targets


def test_parts_of_the_largest_net_are_macs_of_it():
    found = exit_targets.asked(2000, target_macs_fractions=(0.25, 0.5), omega=0.1, deployed=1)
    assert found == exit_targets.Targets((500.0, 1000.0), 0.1, 1)
    assert exit_targets.asked(2000, target_macs=(500, 1000), omega=0.1, deployed=1) == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "exactly one of target_macs and target_macs_fractions"),
        ({"target_macs": (1,), "target_macs_fractions": (1,)}, "exactly one of"),
        ({"target_macs": (5, 0)}, "dynamic.target_macs: 0.0 must be above 0"),
        ({"target_macs": (5,), "omega": -1}, "omega is -1, must not be negative"),
        ({"target_macs": (5,), "deployed": 1}, "deployed is 1, must be the number of a target, from 0 to 0"),
        ({"target_macs": (5,), "omega": "x"}, "a value has another type"),
        ({"target_macs": 5}, "a value has another type"),
    ],
)
def test_impossible_targets(options, said):
    with pytest.raises(ValueError, match=said):
        exit_targets.check(**options)


def test_a_target_below_the_cheapest_answer():
    exit_targets.check_reachable(exit_targets.Targets((100.0, 90.0), 0.09, 0), 90)
    with pytest.raises(
        ValueError, match="a target of 90 average MACs is below the 91 of the cheapest net's first exit"
    ):
        exit_targets.check_reachable(exit_targets.Targets((100.0, 90.0), 0.09, 0), 91)
