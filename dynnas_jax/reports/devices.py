"""What exported files do on devices: the rows of a table, from this machine's measurements and from those taken in."""

import re
from collections import Counter

from dynnas_jax import kinds
from dynnas_jax.export import bench, targets
from dynnas_jax.export.functions import SINGLE
from dynnas_jax.reports import benches as measurements
from dynnas_jax.reports import tables
from dynnas_jax.reports.artifacts import Artifacts

OWN = "this run"
HERE = "this machine"
_DESKTOP = "x86"  # the target that the machine of an export is taken for
_EXIT = re.compile(r"exit([1-9]\d{0,3})")  # by number, from 1; each from where the one before it left
_NETWORKS = (SINGLE, "little", "big", _EXIT, "dynamic")
_ONNX = "_onnx"  # behind the precision of what onnxruntime runs

COLUMNS = (
    tables.Column("run", "run", tables.plain("run"), numeric=False),
    tables.Column("target", "target", tables.plain("target"), numeric=False),
    tables.Column("where", "measured on", tables.plain("where"), numeric=False),
    tables.Column("engine", "by", tables.plain("engine"), numeric=False),
    tables.Column("threads", "threads", tables.number("threads")),
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

    First those of the run itself, then those of its baselines. None is what was not measured there. What one of these runs was
    exported for, and another was not, or was measured on no board for, has rows without a place.
    """
    runs, wanted, found = _runs(artifacts), _wanted(artifacts), []
    for name, measured in runs.items():
        own = [*_here(name, measured["exports"]), *_elsewhere(name, measured["exports"], measured["benches"])]
        found += [*own, *_nowhere(name, measured, own, wanted)]
    order, keys = list(runs), ("target", "precision", "engine")
    return sorted(found, key=lambda row: (*(row[k] for k in keys), *_place(row, order)))


def _runs(artifacts: Artifacts) -> dict[str, dict]:
    """`exports` and `benches` of the run itself and of its baselines."""
    return {OWN: {"exports": artifacts.exports, "benches": artifacts.benches}, **artifacts.baselines}


def _wanted(artifacts: Artifacts) -> set[str]:
    """The targets that any of these runs was exported for."""
    return {target_of(name) for measured in _runs(artifacts).values() for name in measured["exports"]} - {None}


def _place(row: dict, order: list[str]) -> tuple:
    """Behind its target, precision and engine: where it was measured, nowhere last."""
    where = row["where"] is None, row["where"] or "", row["threads"] or 0
    return *where, order.index(row["run"]), _order(row["network"])


def _order(network: str) -> tuple[int, int] | None:
    """The place of a network's row among those of a run; None for what has no row."""
    if found := _EXIT.fullmatch(network):
        return _NETWORKS.index(_EXIT), int(found[1])
    return (_NETWORKS.index(network), 0) if network in _NETWORKS else None


def notes(artifacts: Artifacts) -> list[str]:
    """What the table does not tell, or tells nothing of, and how that is put right: one sentence or two each."""
    told = [_note_of(name, content) for name, content in artifacts.benches.items()]
    if artifacts.stale_benches:
        stale = ", ".join(artifacts.stale_benches)
        told.append(f"Left out: {stale}, measured on files that have been exported anew since. Measure these again.")
    found = rows(artifacts)
    if any(row["where"] == HERE for row in found) and not _benched_here(artifacts):
        told.append(
            "An export measures neither memory nor energy. On this machine dynnas bench W/export/TARGET --output=NAME.json does, "
            "and dynnas report --workdir=W --bench NAME.json adds its rows."
        )
    told.append(_unmeasured(found, _wanted(artifacts)))
    if not artifacts.baselines and artifacts.kind not in (*kinds.OF_NET, kinds.CASCADE):
        told.append(
            "No static networks stand beside these, such as MobileNetV3-Small, -Large and their cascade: configs/baselines.py "
            "trains them, and dynnas report --workdir=W --baselines=SMALL,LARGE,CASCADE, with the working directories of "
            "their finished runs, adds their rows."
        )
    return [note for note in told if note]


def _unmeasured(found: list[dict], wanted: set[str]) -> str | None:
    """What has rows without figures, or no rows at all, and how it gets them."""
    missing = ["each row without a place"] if any(row["where"] is None for row in found) else []
    if never := [name for name in targets.TARGETS if name not in wanted]:
        missing.append(f"{', '.join(never)}, for which nothing was exported")
    if not missing:
        return None
    return (
        f"Not measured: {'; '.join(missing)}. To measure there: dynnas export --workdir=W --target=TARGET, where the run has no "
        "such files; then python runtime.py bench --output=NAME.json in their folder on the device, and dynnas report "
        "--workdir=W --bench NAME.json."
    )


def _benched_here(artifacts: Artifacts) -> bool:
    """Whether `dynnas bench` ran on a machine that wrote one of the run's exports."""
    wrote = [export.get("machine") or {} for export in artifacts.exports.values()]
    names = {(machine.get("board"), machine.get("cpu")) for machine in wrote}
    return any((on["machine"]["board"], on["machine"]["cpu"]) in names for on in artifacts.benches.values())


def _note_of(name: str, content: dict) -> str | None:
    """What results of a dynamic network do not tell."""
    if len(content["model"]["steps"]) < 2:
        return None
    said = []
    if _on_noise(content):
        said.append("noise instead of photos, whose whole decision takes another time")
    if not _own_thresholds(content):
        used = ", ".join(f"{value:.6g}" for value in content["model"]["thresholds"])
        said.append(f"the threshold {used} instead of the run's own, whose accuracy is another")
    return f"{name} was measured with {' and '.join(said)}: that is left out." if said else None


def _on_noise(content: dict) -> bool:
    return content["settings"]["images"] == "noise"


def _own_thresholds(content: dict) -> bool:
    return content.get(measurements.OF, {}).get("own_thresholds", True)


def target_of(name: str) -> str | None:
    """The target of an export's name, which may tell behind it what of the run was exported."""
    return next((known for known in targets.TARGETS if name == known or name.startswith(f"{known}_")), None)


def _here(run: str, exports: dict[str, dict]) -> list[dict]:
    """What was measured as the files were written."""
    found = []
    for target, export in exports.items():
        for name, file in export["files"].items():
            network, key = _named(name)
            if _order(network):
                found.append(_row(run, target, HERE, network, key, export, file))
        for key, cascade in export.get("cascade", {}).items():
            if len(cascade.get("exit_rate") or "..") > 1:  # a single net has been told already
                found.append(_row(run, target, HERE, "dynamic", key, export, cascade))
    return found


def _elsewhere(run: str, exports: dict[str, dict], benches: dict[str, dict]) -> list[dict]:
    """What `dynnas bench` measured; of several results of a board each with its name."""
    found, boards = [], Counter(content["machine"]["board"] for content in benches.values())
    for name, content in benches.items():
        model, settings, board = content["model"], content["settings"], content["machine"]["board"]
        key = model["precision"] + (_ONNX if all(file.endswith(".onnx") for file in model["files"]) else "")
        target = content.get(measurements.OF, {}).get("export", model["target"])
        export = exports.get(target, {"files": {}})
        where = f"{board} ({name})" if board and boards[board] > 1 else board or name
        whole = "dynamic" if len(model["steps"]) > 1 else model["steps"][0]
        for section, measured in content["sections"].items():
            network = whole if section == bench.DECISION else section
            if not _order(network):
                continue
            row = _row(run, target, where, network, key, export, {}) | {"threads": settings["threads"]}
            row |= {"delegate": settings["delegate"] or ""}
            row |= {"peak_memory_bytes": content["peak_memory_bytes"] if network == whole else None}
            if network != "dynamic" or not _on_noise(content):
                row |= _taken(measured)
            found.append(row | ({} if network != "dynamic" or _own_thresholds(content) else {"accuracy": None}))
    return found


def _taken(measured: dict) -> dict:
    """The time and energy of a section."""
    latency, energy = measured["latency_ms"], measured.get("energy") or {}
    row = {"latency_ms": latency["median_ms"], "latency_p95_ms": latency["p95_ms"]}
    row |= {"throughput_per_s": measured["throughput_per_s"]}
    return row | {"energy_mj": energy.get("energy_mj"), "energy_source": energy.get("source")}


def _nowhere(run: str, measured: dict, known: list[dict], wanted: set[str]) -> list[dict]:
    """Rows of a run's networks for the targets that it was not exported for, or not measured on, in what they run best."""
    networks = sorted({row["network"] for row in known}, key=_order)
    on_boards = {content["model"]["target"] for content in measured["benches"].values()}
    found = []
    for target in sorted(wanted - on_boards):
        names = [name for name in measured["exports"] if target_of(name) == target]
        if names and target == _DESKTOP:
            continue
        best = targets.TARGETS[target]
        key = best.precisions[-1] + (_ONNX if best.onnx else "")
        for name in names or [target]:
            export = measured["exports"].get(name, {"files": {}})
            found += [_row(run, name, None, network, key, export, {}) for network in networks]
    return found


def _named(name: str) -> tuple[str, str]:
    """(net, precision and format) of a file in `export.json`: "big_after_stem_int8_onnx" -> ("big_after_stem", "int8_onnx")."""
    network, _, precision = name.removesuffix(_ONNX).rpartition("_")
    return network, precision + (_ONNX if name.endswith(_ONNX) else "")


def _in_turn(export: dict, key: str) -> list[str]:
    """What makes a whole decision: all that was exported, but for nets that only stand beside their part behind the stem."""
    found = [name for name, of in map(_named, export["files"]) if of == key]
    return [name for name in found if f"{name}_after_stem" not in found]


def _row(run: str, target: str, where: str | None, network: str, key: str, export: dict, measured: dict) -> dict:
    """What an export tells of a net, and what was measured of it."""
    of_export = (
        export.get("cascade", {}).get(key, {}) if network == "dynamic" else export["files"].get(f"{network}_{key}", {})
    )
    parts = _in_turn(export, key) if network == "dynamic" else (network,)
    files = [export["files"].get(f"{part}_{key}", {}) for part in parts]
    sizes = {file["path"]: file["size_bytes"] for file in files if "path" in file}
    mean_ms = measured.get("latency_mean_ms")
    return {
        "run": run,
        "target": target,
        "where": where,
        "engine": "onnxruntime" if key.endswith(_ONNX) else "LiteRT",
        "threads": export.get("threads") if where == HERE else "",
        "precision": key.removesuffix(_ONNX),
        "network": network,
        "accuracy": of_export.get("accuracy"),
        "latency_ms": measured.get("latency_ms"),
        "latency_p95_ms": measured.get("latency_p95_ms"),
        "throughput_per_s": 1e3 / mean_ms if mean_ms else None,
        "peak_memory_bytes": None,
        "energy_mj": None,
        "energy_source": None,
        "size_bytes": sum(sizes.values()) or None,
        "delegate": "",
    }
