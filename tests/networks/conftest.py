"""The check of a family of networks against the costs that others print, and small nets of every family."""

from decimal import Decimal

import pytest

from dynnas_jax.networks import NETWORKS, chains


@pytest.fixture(scope="session")
def meets_published():
    """meets_published(row): the costs of a row of published_costs.json, to the last printed digit and to our own last one."""

    def check(row):
        net = NETWORKS[row["network"]].from_arch_file(row["arch"])
        found = chains.cost(net)
        assert found == (row["macs"], row["params"])
        for value, name in zip(found, ("published_macs_M", "published_params_M"), strict=True):
            if name in row:
                # Some print the nearest, some cut off.
                unit = 10.0 ** Decimal(str(row[name])).normalize().as_tuple().exponent
                assert abs(value / 1e6 - row[name]) < unit, name
        return net

    return check


SMALL = {
    "branchynet": {"resolution": 16, "classes": 3, "total_stride": 8, "width": 0.35, "exits": 2, "branch": 8},
    "msdnet": {
        "resolution": 32,
        "classes": 3,
        "blocks": 2,
        "base": 2,
        "step": 2,
        "channels": 4,
        "growth": 2,
        "factors": (1, 2),
    },
    "msdnet_cifar": {
        "resolution": 8,
        "classes": 3,
        "blocks": 3,
        "base": 1,
        "step": 1,
        "step_mode": "lin_grow",
        "channels": 4,
        "growth": 2,
        "factors": (1, 2),
        "head_width": 8,
    },
    "multi_exit": {
        "network": "small_images",
        "resolution": 8,
        "classes": 3,
        "exits": 2,
        "stem": 4,
        "stage_widths": (8,),
        "stage_strides": (2,),
        "head": 8,
        "depths": (1, 2),
        "divisor": 4,
    },
    "cifar_resnet": {"resolution": 8, "classes": 3, "depths": (1, 2, 1), "widths": (4, 8, 12)},
    "bottleneck_resnet": {"resolution": 32, "classes": 3, "depths": (2, 1), "widths": (8, 16), "stem": 8},
    "nasnet": {"resolution": 8, "classes": 3, "cells": (1, 1), "filters": 4},
    "nasnet_mobile": {"resolution": 32, "classes": 3, "cells": (1,), "filters": 8, "stem": 4},
    "us_mobilenet_v1": {"resolution": 32, "classes": 3, "width": 0.05},
    "slimmable_resnet50": {"resolution": 32, "classes": 3, "width": 1 / 16, "depths": (1, 1, 1, 1)},
}


@pytest.fixture(scope="session")
def small_families():
    """The names of the families that have a small net."""
    return tuple(SMALL)


@pytest.fixture(params=SMALL)
def small_net(request):
    """A net of each family, small enough to compile in seconds."""
    return NETWORKS[request.param](**SMALL[request.param])


@pytest.fixture(scope="session")
def small():
    """small(name, **options): the small net of a family, with other options."""
    return lambda name, **options: NETWORKS[name](**(SMALL[name] | options))
