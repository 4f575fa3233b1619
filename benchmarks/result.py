"""What each benchmark's JSON says beside its figures: what was measured, on which machine, with which versions; and how often.

Times are told as the median with [least, most], ratios of turns as the median with [10th, 90th percentile], each with its n.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence

import jax
import numpy as np

from dynnas_jax.export import machine

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def show(what: str, figures: dict, *, packages: Sequence[str] = ()) -> None:
    """Prints one JSON object: `about`, and the figures."""
    print(json.dumps(about(what, packages=packages) | figures, indent=1))


def about(what: str, *, packages: Sequence[str] = ()) -> dict:
    """What was measured and on what; `packages` beside JAX's had a part in it."""
    return {"what": what, "machine": at_hand(), "versions": versions(packages), "load": load()}


def at_hand() -> dict:
    """The processor and the cores that this process may use, and the devices that JAX computes on: a GPU by its name."""
    found, devices = machine.facts(), jax.devices()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    accelerator = {} if jax.default_backend() == "cpu" else {"accelerator": devices[0].device_kind}
    return {
        **{name: found[name] for name in ("cpu", "architecture", "system")},
        "cores": usable,
        "backend": jax.default_backend(),
        "devices": len(devices),
        **accelerator,
    }


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Of Python and of the packages that are installed; on a GPU of what drives it, as JAX tells it."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *packages):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if jax.default_backend() != "cpu":
        found["platform"] = " ".join(jax.devices()[0].client.platform_version.split())
    return found


def load() -> list:
    """Figures that depend on the clock are to be read with it."""
    return [round(os.getloadavg()[0], 1), "processes that run or wait, of the last minute"]


def times(values: Sequence[float], unit: str, digits: int = 3) -> dict:
    """The median of times in a unit, such as "ms", their spread and their number."""
    rounded = [round(float(value), digits) for value in (np.median(values), np.min(values), np.max(values))]
    return {f"median_{unit}": rounded[0], f"spread_{unit}": rounded[1:], "n": len(values)}


def ratios(values: Sequence[float], digits: int = 3) -> dict:
    """The median of ratios or speeds, their spread and their number."""
    median, *spread = (round(float(np.quantile(values, q)), digits) for q in (0.5, 0.1, 0.9))
    return {"median": median, "spread": spread, "n": len(values)}
