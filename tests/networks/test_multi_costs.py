"""What nets of several exits cost: the cheapest first exit, against all of them."""

import itertools

import numpy as np
import pytest

from dynnas_jax.costs import macs
from dynnas_jax.networks import multi_costs, multi_supernet, ofa

SMALL = {
    **{"image_size": 8, "resolutions": (6,), "stem": 8, "stage_widths": (8, 8), "stage_strides": (2, 1), "head": 8},
    **{"classes": 3, "widths": (1.0,), "depths": (1, 2), "kernels": (3, 5), "expands": (2,), "divisor": 4},
}


@pytest.mark.parametrize("unit", ["macs", "latency_ms"])
def test_the_least_that_a_first_exit_costs(unit, made_up_table):
    """Of made-up times the smallest genome's is not the least, of MACs it is."""
    supernet = multi_supernet.build(ofa.small_images(**SMALL), exits=2, ratios=(0.5, 1.0))
    whole = macs.table(supernet) if unit == "macs" else made_up_table(supernet, 0.25).of(supernet)
    table, space = multi_costs.exit_tables(supernet, whole)[0], supernet.space
    own = [n for n, one in enumerate(space.genes) if one.name == "resolution" or one.name.startswith("exit1.")]
    costs, genome = [], np.array(space.largest)
    for choices in itertools.product(*(range(space.sizes[n]) for n in own)):
        genome[own] = choices
        costs.append(table.exact(genome))
    least = multi_costs.least(supernet, table)
    assert least == pytest.approx(min(costs), rel=1e-12)
    assert (least < table.exact(space.smallest)) == (unit == "latency_ms")
    assert isinstance(least, int) == (unit == "macs")


def test_the_least_where_there_is_nothing_to_choose():
    supernet = multi_supernet.build(
        ofa.small_images(**{**SMALL, "resolutions": (), "depths": (1,), "kernels": (3,)}), exits=2, ratios=(1.0,)
    )
    table = multi_costs.exit_tables(supernet)[0]
    assert multi_costs.least(supernet, table) == table.exact(supernet.space.smallest)
