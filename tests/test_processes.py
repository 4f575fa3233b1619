"""Groups of processes: those that cannot be; one process alone. Real groups: tests/test_devices.py and others."""

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


def test_one_process_waits_for_no_one():
    assert processes.is_first()
    assert not processes.several()
    processes.wait_for_all("nothing")
    assert processes.part()
