"""What a pair spends, router included."""

import numpy as np
import pytest

from dynnas_jax.search import pairs
from dynnas_jax.stages import pair


@pytest.mark.parametrize("before_little", [False, True])
def test_a_router_is_counted_in_every_unit_that_tells_of_it(before_little):
    stem = {"macs": 10, "latency_ms": 0.5, "energy_mj": 1.0}
    units = {
        name: pair.Costs(np.asarray([3 * of, 4 * of]), np.asarray([8 * of]), np.asarray([of]))
        for name, of in stem.items()
    }
    chosen = pairs.ChosenPair(1, 0, None, None, None)
    found = pair.spent(chosen, units, router={"macs": 7, "latency_ms": 0.25}, before_little=before_little)
    own = {"macs": 7, "latency_ms": 0.25, "energy_mj": 0}
    for name, of in stem.items():
        # Behind little, big is spared the stem; in front of it, big runs alone.
        assert found[name] == [4 * of + own[name], (8 if before_little else 4 + 8 - 1) * of + own[name]]
