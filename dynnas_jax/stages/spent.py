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
      power_w: that training draws on all devices together, where no meter shall tell.

    Raises:
      ValueError: as `training_energy.of_power`.
    """
    if not processes.is_first():
        return contextlib.nullcontext()
    return training_energy.Meter(_source(power_w), folder / FILE)


def _source(power_w: float | None) -> training_energy.Source:
    device = jax.devices()[0]
    name = "cpu" if device.platform == "cpu" else device.device_kind
    together = {"devices": jax.device_count(), "processes": jax.process_count()}
    return training_energy.source(name, os.cpu_count() or 1, power_w, **together)


def check(power_w: float | None) -> None:
    """Raises ValueError for a power of nothing, or where one has to be given: nothing tells what this machine's devices draw."""
    found = _source(power_w)
    if found.spent(0.0) is None:
        raise ValueError(f"grow: energy and carbon of training: {found.name}, in grow.power_w")


def told(folder: Path, grid_g_per_kwh: float) -> dict:
    """seconds, energy_j, carbon_g and the source of the energy, of a training in this folder."""
    content = read_json(folder / FILE, "pass --redo with the stage that trains")
    return content | {"carbon_g": energy.carbon_g(content["energy_j"], grid_g_per_kwh)}
