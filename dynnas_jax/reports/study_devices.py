"""The table of what a study's exported nets do on devices, by the results of `dynnas bench` that its runs have taken in."""

from __future__ import annotations

from collections.abc import Sequence

from dynnas_jax.export import targets
from dynnas_jax.export.functions import SINGLE
from dynnas_jax.reports import devices
from dynnas_jax.reports.spreads import Table, numbers, words
from dynnas_jax.reports.study_rows import Row

# What tells one measurement of a row's nets from another.
_PLACE = ("where", "target", "engine", "threads", "precision", "delegate")
_WHOLE = (SINGLE, "dynamic")  # whose memory is that of the process
_MEASURES = ("accuracy", "latency_ms", "latency_p95_ms", "throughput_per_s", "peak_memory_bytes", "energy_mj")
_COLUMNS = (
    *(
        words("where", "measured on"),
        words("engine", "by"),
        words("threads", "threads"),
        words("precision", "precision"),
        words("delegate", "delegate"),
    ),
    *(words("label", "row"), words("network", "network"), numbers("accuracy", "top-1 (%)", scale=0.01)),
    *(numbers("latency_ms", "median (ms)", 4), numbers("latency_p95_ms", "95th percentile (ms)", 4)),
    *(numbers("throughput_per_s", "images a second", 0), numbers("peak_memory_bytes", "peak memory (MiB)", 1, 2**20)),
    numbers("energy_mj", "energy (mJ)", 3),
)


def table(rows: Sequence[Row]) -> Table:
    """One line for each place, row and network that was measured there, place by place; a note names the boards that are not."""
    listed, seen = [], set()
    for row in rows:
        known = {seed: _measured(found) for seed, found in row.runs.items()}
        for key in dict.fromkeys(key for measured in known.values() for key in measured):
            place, network = dict(zip(_PLACE, key, strict=False)), key[-1]
            spreads = {
                measure: row.spread(lambda seed, key=key, of=measure, known=known: known[seed].get(key, {}).get(of))
                for measure in _MEASURES
            }
            listed.append({**place, "label": row.asked.tables["main"], "network": network, **spreads})
            seen.add(place["target"])
    order = list(dict.fromkeys(line["where"] for line in listed))
    listed.sort(key=lambda line: order.index(line["where"]))
    explanation = (
        "Exported nets by `dynnas bench`, or on a board by their own `runtime.py bench`: single images in turn. A decision is "
        "timed on photos alone (`--images`), not on noise; its time on this machine, over the test images, is in the main table."
    )
    return Table("devices", "On devices", explanation, _COLUMNS, listed, _absent(seen))


def _measured(found) -> dict[tuple, dict]:
    """What was measured of a run's own nets, by place and network."""
    own = [row for row in devices.rows(found) if row["run"] == devices.OWN]
    elsewhere = [row for row in own if row["where"] not in (None, devices.HERE)]
    return {(*(row[key] for key in _PLACE), row["network"]): _with_gaps(row) for row in elsewhere}


def _with_gaps(row: dict) -> dict:
    """The same with "" for what a measurement cannot tell: memory of one net of several, and, on noise, times of a decision."""
    untold = [] if row["network"] in _WHOLE else ["peak_memory_bytes"]
    if row["network"] == "dynamic" and row["latency_ms"] is None:
        untold += ["latency_ms", "latency_p95_ms", "throughput_per_s", "energy_mj"]
    return row | dict.fromkeys(untold, "")


def _absent(seen: set[str]) -> tuple[str, ...]:
    """Which targets nothing was measured on, and how that is done."""
    known = {devices.target_of(name) for name in seen}
    if not (left := [target.device for name, target in targets.TARGETS.items() if name not in known]):
        return ()
    return (
        f"Not run on: {', '.join(left)}. dynnas export --workdir=RUN --target=TARGET makes the files of a run, python runtime.py "
        "bench --output=NAME.json in their folder on the board measures them, dynnas report --workdir=RUN --bench=NAME.json "
        "takes the result in, and the study's own command with --table makes this table anew.",
    )
