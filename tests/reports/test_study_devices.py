"""Nets of a study on devices: what the runs of several seeds have taken in, as mean and deviation."""

import pytest

from dynnas_jax.reports import artifacts, benches, study_devices
from dynnas_jax.reports.study_rows import Asked, Row


def bench_of(board, median_ms, target="x86"):
    """Results of a pair as they are read."""
    latency = {key: median_ms for key in ("median_ms", "p10_ms", "p90_ms", "p95_ms", "mean_ms")}
    section = {"latency_ms": latency, "throughput_per_s": 1e3 / median_ms, "window": None, "energy": {"energy_mj": 3.0}}
    model = {
        "target": target,
        "precision": "fp32",
        "steps": ["little", "big_after_stem"],
        "files": {"model_fp32.tflite": {}},
    }
    return {
        "model": {**model, "thresholds": [0.8]},
        "machine": {"board": board, "cpu": "a cpu"},
        "settings": {"images": "photos", "threads": 1, "delegate": None},
        "sections": {"decision": section, "little": section},
        "peak_memory_bytes": 2**20,
        benches.OF: {"export": target, "own_thresholds": True},
    }


@pytest.fixture
def row(tiny_run):
    """row(name, *taken): runs of as many seeds as results are given, None for a run that nothing was taken into."""
    found = artifacts.read(tiny_run.workdir)

    def made(name, *taken):
        runs = {seed: found._replace(benches={"here": one} if one else {}) for seed, one in enumerate(taken)}
        paths = dict.fromkeys(runs, tiny_run.workdir)
        return Row(Asked(name, {"main": name}, paths, {}, (), ""), runs, {})

    return made


def test_a_line_for_each_place_row_and_network(row):
    rows = [
        row("ours", bench_of("a board", 2.0), bench_of("a board", 4.0)),
        row("theirs", bench_of("b board", 1.0, "pi4"), None),
    ]
    table = study_devices.table(rows)
    told = {(line["where"], line["label"], line["network"]): line for line in table.rows}
    assert list(told) == [
        *(("a board", "ours", name) for name in ("little", "dynamic")),
        *(("b board", "theirs", name) for name in ("little", "dynamic")),
    ]
    ours, little = (told["a board", "ours", name] for name in ("dynamic", "little"))
    assert (ours["latency_ms"].mean, ours["latency_ms"].deviation) == (3.0, pytest.approx(2**0.5))
    assert ours["throughput_per_s"].mean == 375
    assert ours["peak_memory_bytes"].mean == 2**20
    assert little["peak_memory_bytes"] == ""
    assert "1.0000 (1 of 2 seeds)" in table.markdown()
    (note,) = table.notes
    assert "Coral" in note
    assert "Raspberry Pi 4" not in note
    assert "x86" not in note


def test_noise_tells_nothing_of_a_decision(row):
    noise = bench_of("a board", 2.0)
    noise["settings"]["images"] = "noise"
    little, dynamic = study_devices.table([row("ours", noise)]).rows
    assert little["latency_ms"].mean == 2.0
    assert (dynamic["latency_ms"], dynamic["throughput_per_s"], dynamic["peak_memory_bytes"].mean) == ("", "", 2**20)


def test_nothing_was_measured(row):
    table = study_devices.table([row("ours", None)])
    assert table.rows == []
    assert "Raspberry Pi 4" in table.notes[0]
