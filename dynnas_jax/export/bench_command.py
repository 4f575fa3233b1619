"""The command `bench`: which images, for how long, and what is told of it.

A copy of this module lies in every export folder: `python runtime.py bench` there, `dynnas bench FOLDER` elsewhere.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from dynnas_jax.export import bench, machine, metadata, photos
else:  # lying alone in an export folder
    import bench
    import machine
    import metadata
    import photos

ENERGY_S = 10.0  # long enough for the slowest of the usual logs, one sample a second
MOST_IMAGES = 100
_NOISE_IMAGES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says how to measure."""
    parser.add_argument("--images", metavar="FOLDER", help="photos to decide about; without them it is noise")
    parser.add_argument("--most_images", type=int, default=MOST_IMAGES, help=f"of that folder ({MOST_IMAGES})")
    parser.add_argument("--runs", type=int, default=bench.RUNS, help=f"calls that count ({bench.RUNS})")
    parser.add_argument("--warm_up", type=int, default=bench.WARM_UP, help=f"calls before them ({bench.WARM_UP})")
    parser.add_argument(
        "--energy_s", type=float, help=f"seconds for energy, each ({ENERGY_S:g} with a log or where RAPL can be read)"
    )
    parser.add_argument("--energy_log", metavar="CSV", help="what a meter logged meanwhile")
    parser.add_argument("--energy_log_start", metavar="TIME", help="a date, or seconds since 1970, if it counts from 0")
    parser.add_argument("--energy_column", metavar="NAME", help="of the power, if the log has several")
    parser.add_argument("--output", metavar="JSON", help="where the results go too")


def run(known: argparse.Namespace, open_classifier: Callable[[], Any], energy: Any) -> None:
    """Measures an export, prints what was found, and writes it where `--output` says."""
    _check_output(known.output)
    seconds = known.energy_s
    if seconds is None:
        seconds = ENERGY_S if known.energy_log or energy.rapl() else 0.0
    if not 0 <= seconds < 86_400 or known.most_images < 1:
        raise ValueError(f"--energy_s={seconds:g}, --most_images={known.most_images}: give a time, and at least 1")
    content = _measured(known, open_classifier, energy, seconds)
    try:
        finished = bench.add_energy(content, energy, _log(known, content, energy))
    except ValueError as error:  # of the log; what was measured is not lost
        _tell(known, bench.add_energy(content, energy))
        hint = f"; dynnas bench {known.output} --energy_log=CSV adds it later" if known.output else ""
        raise ValueError(f"no energy of the log: {error}{hint}") from error
    _tell(known, finished)


def _measured(known: argparse.Namespace, open_classifier: Callable[[], Any], energy: Any, energy_s: float) -> dict:
    before_bytes = machine.resident_bytes()
    classifier = open_classifier()
    images, source = _images(classifier, known)
    started, temperatures_c = datetime.datetime.now().astimezone(), [machine.temperature_c()]
    found = bench.measure(classifier, images, energy, runs=known.runs, warm_up=known.warm_up, energy_s=energy_s)
    temperatures_c.append(machine.temperature_c())
    return {
        "version": bench.VERSION,
        "kind": bench.KIND,
        "started": started.isoformat(timespec="seconds"),
        "model": _model(classifier),
        "machine": {**machine.facts(), "governor": machine.governor(), "temperature_c": temperatures_c},
        "versions": machine.versions(),
        "settings": {
            "runs": known.runs,
            "warm_up": known.warm_up,
            "threads": classifier.threads,
            "delegate": classifier.delegate,
            "images": source,
            "image_count": len(images),
        },
        "before_opening_bytes": before_bytes,
        **found,
    }


def import_log(known: argparse.Namespace, path: str | Path, energy: Any) -> None:
    """Adds the energy of a log to results that were written before."""
    if not known.energy_log:
        raise ValueError(f"{path} holds results already: --energy_log=CSV adds the energy of a log to them")
    _check_output(known.output)
    content = bench.read(path)
    _tell(known, bench.add_energy(content, energy, _log(known, content, energy)))


def _log(known: argparse.Namespace, content: dict, energy: Any) -> Any:
    """The log that the arguments name, or None; its dates are those of the machine that was measured."""
    if not known.energy_log:
        return None
    started = datetime.datetime.fromisoformat(content["started"])
    if started.tzinfo is None:
        raise ValueError(f"the results started {content['started']}, of no time zone: measure again")
    offset_s = started.utcoffset().total_seconds()
    begun_s = _moment(known.energy_log_start, offset_s) if known.energy_log_start else None
    return energy.power_log.read_log(
        known.energy_log, start_s=begun_s, utc_offset_s=offset_s, column=known.energy_column
    )


def _tell(known: argparse.Namespace, content: dict) -> None:
    """Prints the results, and writes them where `--output` says."""
    print("\n".join(lines(content)))
    if known.output:
        unfinished = Path(f"{known.output}.unfinished")
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, known.output)


def _moment(text: str, offset_s: float) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        date = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"--energy_log_start={text}: give 2026-01-31T12:00:00 or seconds since 1970") from error
    zone = datetime.timezone(datetime.timedelta(seconds=offset_s))
    return (date if date.tzinfo else date.replace(tzinfo=zone)).timestamp()


def _check_output(output: str | None) -> None:
    """Before anything is measured: only earlier results are written over."""
    if not output:
        return
    path = Path(output).absolute()
    if not path.parent.is_dir():
        raise ValueError(f"--output={output}: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"--output={output} is a folder: give the name of a file")
    if path.exists():
        try:
            bench.read(path)
        except ValueError as error:
            raise ValueError(f"--output={output} exists and is kept, since {error}: give another name") from error


def _images(classifier: Any, known: argparse.Namespace) -> tuple[list[np.ndarray], str]:
    """uint8 images of the nets' size, spread over the folder's, and where they are from."""
    shape = classifier.image_shape
    if known.images is None:
        noise = np.random.default_rng(0).integers(0, 256, (_NOISE_IMAGES, *shape), np.uint8)
        return list(noise), "noise"
    files = sorted(file for file in Path(known.images).rglob("*") if file.suffix.lower() in photos.SUFFIXES)
    if not files:
        raise ValueError(f"--images={known.images}: no images there ({' '.join(photos.SUFFIXES)})")
    chosen = np.linspace(0, len(files) - 1, min(len(files), known.most_images)).round().astype(int)
    share = classifier.metadata.get("central_share", 1.0)
    return [photos.fitted(files[index], shape, share)[0] for index in chosen], str(known.images)


def _model(classifier: Any) -> dict:
    """What was measured; the hashes tell which export it is."""
    told, files = classifier.metadata, {}
    for name, path in classifier.files.items():
        if path.exists():
            file = files.setdefault(path.name, {"sha256": _sha256(path), "size_bytes": path.stat().st_size, "nets": []})
            file["nets"].append(name)
    return {
        "target": told.get("target"),
        "precision": told.get("precision"),
        "steps": [" ".join(way) for way in metadata.choices(told)],
        "whole": told.get("whole", []),
        "thresholds": list(classifier.thresholds),
        "files": files,
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(2**20), b""):
            digest.update(part)
    return digest.hexdigest()


def lines(content: dict) -> list[str]:
    """The results as a table."""
    model, where, settings = content["model"], content["machine"], content["settings"]
    threads = f"{settings['threads']} thread" + ("s" if settings["threads"] > 1 else "")
    extra = [f"delegate {settings['delegate']}"] if settings["delegate"] else []
    extra += [f"governor {where['governor']}"] if where["governor"] else []
    extra += [f"{degrees:.0f} °C" for degrees in where["temperature_c"][-1:] if degrees is not None]
    pictures = f"{settings['image_count']} images of {settings['images']}"
    if settings["images"] == "noise":
        pictures = f"{settings['image_count']} images of noise, so the exits are not those of photos"
    rows = [("", "median ms", "p95 ms", "per s", "energy mJ")]
    for name, own in content["sections"].items():
        spent = f"{own['energy']['energy_mj']:.3g}" if own["energy"] else "-"
        latency = own["latency_ms"]
        rows.append(
            (name, *(f"{latency[key]:.3f}" for key in ("median_ms", "p95_ms")), f"{own['throughput_per_s']:.1f}", spent)
        )
    width = max(len(row[0]) for row in rows)
    found = content["sections"][bench.DECISION]["energy"]
    rates = ", ".join(f"{rate:.1%} {name}" for rate, name in zip(content["exit_rate"], model["steps"]) if rate)  # noqa: B905
    return [
        f"{where['board'] or where['cpu']}, {where['architecture']}, {threads}{''.join(f', {part}' for part in extra)}",
        f"{', '.join(model['files'])} (for {model['target']}, {model['precision']}); {settings['runs']} runs, {pictures}",
        *(f"{row[0]:<{width}}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows),
        f"answered by: {rates}",
        f"peak memory {content['peak_memory_bytes'] / 2**20:.1f} MiB ({content['before_opening_bytes'] / 2**20:.1f} before)",
        f"energy: {found['source']}, {found['detail']}"
        if found
        else "energy: no counter, no log, no figure for this board",
    ]
