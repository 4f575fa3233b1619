"""What the machine at hand is, and how it stands: board, clock governor, temperature, memory of this process, versions.

A copy of this module lies in every export folder. Standard library only; what cannot be read is None.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path


def facts(root: Path = Path("/")) -> dict:
    """What it is: board and cpu in their own words, cores, architecture, system."""
    board = _text(root / "proc/device-tree/model")
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return {
        "board": board.strip("\0 ") if board else None,
        "cpu": models[0] if models else platform.processor() or None,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Of what runs the files."""
    found = {"python": platform.python_version()}
    for package in ("numpy", "ai-edge-litert", "onnxruntime"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def governor(root: Path = Path("/")) -> str | None:
    """How the cores choose their clock, such as ondemand; None where that cannot be read."""
    files = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    found = {text.strip() for text in map(_text, files) if text}
    return ", ".join(sorted(found)) or None


def temperature_c(root: Path = Path("/")) -> float | None:
    """The hottest of the machine's thermal zones; None where none can be read."""
    found = []
    for file in sorted((root / "sys/class/thermal").glob("thermal_zone*/temp")):
        text = (_text(file) or "").strip()
        if text.lstrip("-").isdigit():
            found.append(int(text) / 1e3)
    return max(found) if found else None


def peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int:
    """The most that this process has had resident."""
    return resident_bytes("VmHWM", status)


def resident_bytes(key: str = "VmRSS", status: Path = Path("/proc/self/status")) -> int:
    """What this process has resident now; elsewhere than on Linux the most that it has had."""
    for line in (_text(status) or "").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    import resource  # elsewhere than on Linux

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
