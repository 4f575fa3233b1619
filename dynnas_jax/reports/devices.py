"""What the exported files do on devices: the rows of a table, from this machine's measurements and from those taken in."""

from dynnas_jax.export import bench
from dynnas_jax.reports import tables
from dynnas_jax.reports.artifacts import Artifacts

_NETWORKS = ("little", "big", "dynamic")

COLUMNS = (
    tables.Column("target", "target", tables.plain("target"), numeric=False),
    tables.Column("where", "measured on", tables.plain("where"), numeric=False),
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
    """One row for each place where an exported little, big or dynamic was measured, and precision: here, or on a board.

    None is what was not measured there.
    """
    found = []
    for target, export in artifacts.exports.items():
        for name, file in export["files"].items():
            network, _, precision = name.rpartition("_")
            if network in ("little", "big"):
                found.append(_row(target, "this machine", network, precision, export, file))
        for precision, cascade in export.get("cascade", {}).items():
            found.append(_row(target, "this machine", "dynamic", precision, export, cascade))
    for name, content in artifacts.benches.items():
        target, precision = content["model"]["target"], content["model"]["precision"]
        export = artifacts.exports.get(target, {"files": {}})
        for section, measured in content["sections"].items():
            network = "dynamic" if section == bench.DECISION else section
            if network not in _NETWORKS:
                continue
            latency, energy = measured["latency_ms"], measured.get("energy") or {}
            row = _row(target, content["machine"]["board"] or name, network, precision, export, {})
            row |= {"latency_ms": latency["median_ms"], "latency_p95_ms": latency["p95_ms"]}
            row |= {"throughput_per_s": measured["throughput_per_s"], "energy_mj": energy.get("energy_mj")}
            row |= {"energy_source": energy.get("source"), "delegate": content["settings"]["delegate"] or ""}
            found.append(row | {"peak_memory_bytes": content["peak_memory_bytes"] if network == "dynamic" else ""})
    place = lambda row: (row["target"], row["precision"], row["where"], _NETWORKS.index(row["network"]))  # noqa: E731
    return sorted(found, key=place)


def _row(target: str, where: str, network: str, precision: str, export: dict, measured: dict) -> dict:
    """What an export tells of a net, and what was measured of it."""
    of_export = (
        export.get("cascade", {}).get(precision, {})
        if network == "dynamic"
        else export["files"].get(f"{network}_{precision}", {})
    )
    parts = ("little", "big_after_stem") if network == "dynamic" else (network,)
    files = [export["files"].get(f"{part}_{precision}", {}) for part in parts]
    sizes = {file["path"]: file["size_bytes"] for file in files if "path" in file}
    mean_ms = measured.get("latency_mean_ms")
    return {
        "target": target,
        "where": where,
        "precision": precision,
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
