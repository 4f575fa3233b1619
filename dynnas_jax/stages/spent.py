"""What a training takes, beside what it leaves: seconds and joules, measured or reckoned while it runs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import jax

from dynnas_jax import processes
from dynnas_jax.costs import energy, training_energy
from dynnas_jax.workdir import read_json

FILE = "energy.json"  # in the folder of a training


def metered(folder: Path, power_w: float | None = None) -> contextlib.AbstractContextManager:
    """with metered(folder): what runs inside is added to the folder's file, by the first process alone.

    Args:
      power_w: that training draws, where no meter shall tell.

    Raises:
      ValueError: as `training_energy.of_power`.
    """
    if not processes.is_first():
        return contextlib.nullcontext()
    device = jax.devices()[0]
    name = "cpu" if device.platform == "cpu" else device.device_kind
    return training_energy.Meter(training_energy.source(name, os.cpu_count() or 1, power_w), folder / FILE)


def told(folder: Path, grid_g_per_kwh: float) -> dict:
    """seconds, energy_j, carbon_g and the source of the energy, of a training in this folder."""
    content = read_json(folder / FILE, "pass --redo with the stage that trains")
    return content | {"carbon_g": energy.carbon_g(content["energy_j"], grid_g_per_kwh)}
