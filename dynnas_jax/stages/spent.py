"""What a training takes, beside what it leaves: seconds and joules, measured or reckoned while it runs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import jax

from dynnas_jax import processes
from dynnas_jax.costs import energy, training_energy
from dynnas_jax.workdir import read_json

FILE = training_energy.FILE
_SUMS = ("seconds", "energy_j")
_CORES = f"CPU of {os.cpu_count() or 1} cores"


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
    count, kind = (jax.process_count(), _CORES) if name == "cpu" else (jax.device_count(), name)
    return training_energy.source(name, power_w, **together)._replace(devices=f"{count} x {kind}")


def check(power_w: float | None, needed: bool = False) -> None:
    """Raises ValueError for a power of nothing, or none where energy is `needed` and nothing tells what the devices draw."""
    found = _source(power_w)
    if needed and found.spent(0.0) is None:
        raise ValueError(f"grow: energy and carbon of training: {found.name}, in grow.power_w")


def told(folder: Path, grid_g_per_kwh: float, further: Path | None = None) -> dict:
    """seconds, energy_j, carbon_g of a training in this folder, the source of the energy, and the devices that trained.

    Args:
      further: folder of a training that went on from there; it is part of the sum, and stands by itself under `further`.
    """
    content = _read(folder)
    more = {key: 0.0 for key in _SUMS} if further is None else {key: _read(further)[key] for key in _SUMS}
    content |= {key: content[key] + more[key] for key in _SUMS}
    parts = {**content, "further": more}
    for part in (parts, more):
        part["carbon_g"] = energy.carbon_g(part["energy_j"], grid_g_per_kwh)
    return parts


def _read(folder: Path) -> dict:
    return read_json(folder / FILE, "pass --redo with the stage that trains")
