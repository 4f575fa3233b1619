"""The tables of a study, each from the rows that its config puts there: mean and standard deviation over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynnas_jax.reports import growth_study, study_pairs, study_rows
from dynnas_jax.reports.spreads import Spread, Table, numbers, words
from dynnas_jax.reports.study_pairs import LABEL, LATENCY, MACS, TOP1
from dynnas_jax.reports.study_rows import Row

_FIRST_EXIT = numbers("exit_rate", "answered by little, or the first exit (%)", 1, 0.01)


def of_networks(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Spread | str | None]]:
    """By (name of a row, network of it) the spreads of what `study_rows.measured` tells."""
    found = {}
    for row in rows:
        runs = {seed: study_rows.measured(row, seed) for seed in row.runs}
        for network in study_rows.networks(row):
            found[row.asked.name, network] = {
                key: row.spread(lambda seed, key=key, network=network, runs=runs: runs[seed][network][key])
                for key in MEASURES
            }
    return found


MEASURES = (
    "top1",
    "top5",
    "ece",
    "macs",
    "params",
    "latency_ms",
    "memory_bytes",
    "energy_mj",
    "size_bytes",
    "exit_rate",
)


def _main(rows: Sequence[Row]) -> Table:
    networks, listed = of_networks(rows), []
    for row in rows:
        for network, called in study_rows.networks(row).items():
            listed.append({"label": row.asked.tables["main"], "network": called} | networks[row.asked.name, network])
    columns = (
        *(LABEL, words("network", "network"), TOP1, numbers("top5", "top-5 (%)", scale=0.01), MACS),
        numbers("params", "params (k)", 1, 1e3),
        *(LATENCY, numbers("memory_bytes", "memory (MiB)", 1, 2**20), numbers("energy_mj", "energy (mJ)", 4)),
        *(
            numbers("size_bytes", "files (KiB)", 1, 1024),
            _FIRST_EXIT,
            numbers("ece", "calibration error (points)", 2, 0.01),
        ),
    )
    explanation = (
        "Test images. MACs, latency and energy of dynamic are averages over them. Latency, memory, energy and size are those of "
        "the exported files in float32, on the machine of the study."
    )
    notes = (
        "Dynamic's latency is that of the decision itself, over the test images at the chosen threshold; at another one it is "
        "that, and what the files alone take more or less for the images that go on to big. Energies of dynamic are what the "
        "files take alone, by the same share. Memory is the peak of the whole process. Nets that stand in one file have no size "
        "of their own.",
    )
    return Table("main", "Main results", explanation, columns, listed, notes)


# By the name that a row's config gives: what makes the table of the rows which are to stand there.
TABLES: dict[str, Callable[[Sequence[Row]], Table]] = {"main": _main, **study_pairs.TABLES, **growth_study.TABLES}
BEHAVIOUR = "behaviour"  # the rows whose routing is looked at closely, in figures
PLACES = (*TABLES, BEHAVIOUR)  # all that a row may be part of
