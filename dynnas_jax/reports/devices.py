"""What exported files do on devices: the rows of a table, from this machine's measurements and from those taken in."""

from dynnas_jax.export import bench
from dynnas_jax.export.functions import SINGLE
from dynnas_jax.reports import tables
from dynnas_jax.reports.artifacts import Artifacts

OWN = "this run"
_EXITS = tuple(f"exit{number}" for number in range(1, 6))  # each from where the one before it left
_NETWORKS = (SINGLE, "little", "big", *_EXITS, "dynamic")
_ONNX = "_onnx"  # behind the precision of what onnxruntime runs

COLUMNS = (
    tables.Column("run", "run", tables.plain("run"), numeric=False),
    tables.Column("target", "target", tables.plain("target"), numeric=False),
    tables.Column("where", "measured on", tables.plain("where"), numeric=False),
    tables.Column("engine", "by", tables.plain("engine"), numeric=False),
    tables.Column("precision", "precision", tables.plain("precision"), numeric=False),
    tables.Column("network", "network", tables.plain("network"), numeric=False),
    tables.Column("accuracy", "accuracy", tables.percent("accuracy")),
    tables.Column("latency_ms", "median (ms)", tables.number("latency_ms", 3)),
    tables.Column("latency_p95_ms", "95th percentile (ms)", tables.number("latency_p95_ms", 3)),
    tables.Column("throughput_per_s", "images a second", tables.number("throughput_per_s", 1)),
    tables.Column("peak_memory_bytes", "peak memory (MiB)", tables.number("peak_memory_bytes", 1, 2**20)),
    tables.Column("energy_mj", "energy (mJ)", tables.number("energy_mj", 3)),
    tables.Column("energy_source", "energy by", tables.plain("energy_source"), numeric=False),
    tables.Column("size_bytes", "files (KiB)", tables.number("size_bytes", 1, 1024)),
    tables.Column("delegate", "delegate", tables.plain("delegate"), numeric=False),
)


def rows(artifacts: Artifacts) -> list[dict]:
    """One row for each place where an exported net, or dynamic, was measured, engine and precision: here, or on a board.

    First those of the run itself, then those of its baselines. None is what was not measured there.
    """
    runs = {OWN: {"exports": artifacts.exports, "benches": artifacts.benches}, **artifacts.baselines}
    found = [row for name, measured in runs.items() for row in _of_run(name, measured["exports"], measured["benches"])]
    order, keys = list(runs), ("target", "precision", "engine", "where")
    return sorted(
        found, key=lambda row: (*(row[k] for k in keys), order.index(row["run"]), _NETWORKS.index(row["network"]))
    )


def _of_run(run: str, exports: dict[str, dict], benches: dict[str, dict]) -> list[dict]:
    found = []
    for target, export in exports.items():
        for name, file in export["files"].items():
            network, key = _named(name)
            if network in _NETWORKS:
                found.append(_row(run, target, "this machine", network, key, export, file))
        for key, cascade in export.get("cascade", {}).items():
            if len(cascade.get("exit_rate") or "..") > 1:  # a single net has been told already
                found.append(_row(run, target, "this machine", "dynamic", key, export, cascade))
    for name, content in benches.items():
        model = content["model"]
        key = model["precision"] + (_ONNX if all(file.endswith(".onnx") for file in model["files"]) else "")
        export = exports.get(model["target"], {"files": {}})
        for section, measured in content["sections"].items():
            whole = "dynamic" if len(model["steps"]) > 1 else model["steps"][0]
            network = whole if section == bench.DECISION else section
            if network not in _NETWORKS:
                continue
            latency, energy = measured["latency_ms"], measured.get("energy") or {}
            row = _row(run, model["target"], content["machine"]["board"] or name, network, key, export, {})
            row |= {"latency_ms": latency["median_ms"], "latency_p95_ms": latency["p95_ms"]}
            row |= {"throughput_per_s": measured["throughput_per_s"], "energy_mj": energy.get("energy_mj")}
            row |= {"energy_source": energy.get("source"), "delegate": content["settings"]["delegate"] or ""}
            found.append(row | {"peak_memory_bytes": content["peak_memory_bytes"] if network == whole else ""})
    return found


def _named(name: str) -> tuple[str, str]:
    """(net, precision and format) of a file in `export.json`: "big_after_stem_int8_onnx" -> ("big_after_stem", "int8_onnx")."""
    network, _, precision = name.removesuffix(_ONNX).rpartition("_")
    return network, precision + (_ONNX if name.endswith(_ONNX) else "")


def _row(run: str, target: str, where: str, network: str, key: str, export: dict, measured: dict) -> dict:
    """What an export tells of a net, and what was measured of it."""
    of_export = (
        export.get("cascade", {}).get(key, {}) if network == "dynamic" else export["files"].get(f"{network}_{key}", {})
    )
    second = "big_after_stem" if f"big_after_stem_{key}" in export["files"] else "big"
    exits = tuple(name for name in _EXITS if f"{name}_{key}" in export["files"])
    parts = (exits or ("little", second)) if network == "dynamic" else (network,)
    files = [export["files"].get(f"{part}_{key}", {}) for part in parts]
    sizes = {file["path"]: file["size_bytes"] for file in files if "path" in file}
    mean_ms = measured.get("latency_mean_ms")
    return {
        "run": run,
        "target": target,
        "where": where,
        "engine": "onnxruntime" if key.endswith(_ONNX) else "LiteRT",
        "precision": key.removesuffix(_ONNX),
        "network": network,
        "accuracy": of_export.get("accuracy"),
        "latency_ms": measured.get("latency_ms"),
        "latency_p95_ms": None,
        "throughput_per_s": 1e3 / mean_ms if mean_ms else None,
        "peak_memory_bytes": None,
        "energy_mj": None,
        "energy_source": None,
        "size_bytes": sum(sizes.values()) or None,
        "delegate": "",
    }
