"""What the stages left in a workdir, read and checked: a corrupt file is an error that names it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynnas_jax import kinds, progress, records
from dynnas_jax.costs import training_energy
from dynnas_jax.reports import benches
from dynnas_jax.workdir import read_arrays, read_config, read_json

# What each JSON artifact must hold for the report to be written; dots descend.
_EVALUATION = "evaluate/evaluation.json"
REQUIRED = {
    "predict/predictor.json": ("kendall_tau", "predicted", "actual"),
    "collect/speed.json": ("subnets_per_s", "devices"),
    "search/found.json": ("front", "pair.little.macs", "pair.big.macs", "pair.cost", "pair.thresholds"),
    _EVALUATION: (
        "images",
        *(f"{network}.{key}" for network in ("little", "big", "dynamic") for key in ("accuracy", "macs", "params")),
        "dynamic.exit_rate",
        "dynamic.thresholds",
        "paired.dynamic_right_big_wrong",
        "paired.dynamic_wrong_big_right",
    ),
}
_OF_EXITS = {  # instead
    "predict/predictors.json": ("targets", "single"),
    "search/found.json": ("nets", "score"),
    _EVALUATION: ("images", "nets", "deployed"),
}
_OF_SUPERCLASSES = {
    "predict/predictors.json": ("subnets", "predictors"),
    "search/found.json": ("methods", "budgets", "answering"),
    _EVALUATION: ("images", "nets", "unit"),
}
_OF_NET = {_EVALUATION: ("images", *(f"net.{key}" for key in ("accuracy", "macs", "params")))}
_OF_SLIMMABLE = {_EVALUATION: ("images", "paths", "gates", "dynamic.accuracy", "dynamic.macs", "one_by_one", "seconds")}
_GATES = "gate/found.json"
_OF_KIND = {
    **dict.fromkeys((kind.name for kind in kinds.OF_NET), _OF_NET),
    "slimmable": _OF_SLIMMABLE,
    "eas": _OF_SUPERCLASSES,
    **dict.fromkeys((kind.name for kind in kinds.OF_EXITS), _OF_EXITS),
}
BASELINES = "baselines"  # folder of what other runs measured
OUTPUTS = ("score", "correct", "prediction", "choice", "label")
SAMPLES = ("row", "image")


class Artifacts(NamedTuple):
    """What the stages left in a workdir; `None` (or an empty dict) where a stage has not run."""

    config: dict | None
    metrics: list[dict] | None
    speed: dict | None  # of evaluating the recorded subnets
    predictor: dict | None
    found: dict | None
    evaluation: dict | None
    outputs: dict[str, np.ndarray] | None
    samples: dict[int, np.ndarray]  # row of the outputs -> uint8[h, w, c], the test images that are shown
    classes: tuple[str, ...]  # names
    exports: dict[str, dict]  # by name of the target
    benches: dict[str, dict]  # results of `dynnas bench` on files that are here, by their names (see `reports.benches`)
    baselines: dict[str, dict]  # other runs that were taken in, by name: their `exports` and `benches`
    times: dict[str, float]  # seconds that each stage but the report has taken, in order
    growth: dict | None = None  # of a run that grew stage by stage
    stale_benches: tuple[str, ...] = ()  # names of results on files that have been exported anew since
    gates: dict | None = None  # of a slimmable network: what its gates were asked for, and what held-out images came to
    trainings: dict[str, dict] | None = None  # by stage, what its training took: seconds, energy and its source

    @property
    def kind(self) -> kinds.Kind:
        """The kind of the run; where no config tells, the one with all stages."""
        return _kind(self.config)


def read(workdir: str | Path) -> Artifacts:
    """Reads every artifact of `workdir` but the records store (see `recorded`).

    Raises:
      ValueError: the workdir does not exist, or a file in it is corrupt; the message names the file.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"workdir {workdir} does not exist; give the folder that `dynnas run --workdir=...` wrote")
    config = read_config(workdir) if (workdir / "config.json").exists() else None
    kind = _kind(config)
    several = kind in kinds.OF_EXITS or kind is kinds.EAS  # predictors
    required = REQUIRED | _OF_KIND.get(kind.name, {})
    named = {name: _json(workdir, name, keys) for name, keys in required.items()}
    data = _json(workdir, str(kinds.data_file(Path(), kind)), ("classes",))
    samples = arrays(workdir / "evaluate/samples.npz", SAMPLES) or {name: () for name in SAMPLES}
    exports = sorted((*workdir.glob("export/*/export.json"), *workdir.glob("export/*/*/export.json")))
    growth = _json(workdir, "grow/growth.json", ("initial", "candidates", "iterations"))
    benched = benches.read(workdir)
    # Of several trainings the last.
    trained = f"grow/{growth['candidates'][-1]['name']}" if growth else "train"
    return Artifacts(
        config=config,
        metrics=json_lines(workdir / trained / "metrics.jsonl"),
        speed=named["collect/speed.json"],
        predictor=named["predict/predictors.json" if several else "predict/predictor.json"],
        found=named["search/found.json"],
        evaluation=named[_EVALUATION],
        outputs=arrays(workdir / "evaluate/outputs.npz", OUTPUTS),
        samples=dict(zip(map(int, samples["row"]), samples["image"], strict=True)),
        classes=tuple(data["classes"]) if data else (),
        exports={benches.export_name(workdir, path): _export(workdir, path) for path in exports},
        benches=benched.found,
        baselines={path.stem: _baseline(workdir, path.name) for path in sorted(workdir.glob(f"{BASELINES}/*.json"))},
        times=_times(workdir, kind),
        growth=growth,
        stale_benches=benched.stale,
        gates=_json(workdir, _GATES, ("target_macs", "holdout.accuracy", "holdout.average_macs")),
        trainings=_trainings(workdir, kind),
    )


def _export(workdir: Path, path: Path) -> dict:
    """`export.json` of a target; of a run that grew, the times of all its nets too."""
    found = _json(workdir, str(path.relative_to(workdir)), ("files",))
    times = _json(workdir, str(path.with_name("networks.json").relative_to(workdir)), ("networks",))
    return found | ({"networks": times["networks"]} if times else {})


def _times(workdir: Path, kind: kinds.Kind) -> dict[str, float]:
    # Made anew, a report would tell of another time for itself.
    told = (name for name in kind.names if name != "report")
    return {name: spent for name in told if (spent := progress.spent_s(workdir / name)) is not None}


def _trainings(workdir: Path, kind: kinds.Kind) -> dict[str, dict] | None:
    """None where none was metered; a growth has many, each in the folder of its net, of which `growth.json` tells."""
    told = {name: _json(workdir, f"{name}/{training_energy.FILE}", ("seconds", "energy_j")) for name in kind.names}
    return {name: content for name, content in told.items() if content is not None} or None


def _kind(config: dict | None) -> kinds.Kind:
    return next((kind for name, kind in kinds.KINDS.items() if name in (config or {})), kinds.SUPERNET)


def _baseline(workdir: Path, file: str) -> dict:
    return _json(workdir, f"{BASELINES}/{file}", ("exports", "benches"), "`dynnas report --baselines` takes it in anew")


def fitted(workdir: Path, number: int) -> dict:
    """What the predictor for a target of nets of several exits says of records that it has not learned from.

    Raises:
      ValueError: for a file that is absent or damaged.
    """
    return read_json(workdir / "predict" / f"target{number}" / "predictor.json", "pass --redo=predict")


def recorded(workdir: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """`(macs float64[n], accuracy float64[n])` of the subnets whose record is complete; n = 0 without records.

    Of subnets with two roles it is what they do as big.

    Raises:
      ValueError: a damaged store; the message names it.
    """
    path = Path(workdir) / "collect" / "records.zarr"
    if not (path / "zarr.json").exists():
        return np.zeros(0), np.zeros(0)
    store = records.open(path)
    done = np.flatnonzero(store.done())
    return store.read("cost", done)[:, -1], store.accuracy()[done, -1]


def series(metrics: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """`(steps int64[k], values float64[k])` of one metric, ascending; a step written twice (a resumed run) counts once,
    as it was written last."""
    values = {entry["step"]: entry[key] for entry in metrics if entry.get(key) is not None}
    steps = sorted(values)
    return np.array(steps, np.int64), np.array([values[step] for step in steps], np.float64)


def _json(workdir: Path, name: str, required: Sequence[str], remedy: str | None = None) -> dict | None:
    path = workdir / name
    if not path.exists():
        return None
    remedy = remedy or f"pass --redo={name.partition('/')[0]}"
    content = read_json(path, remedy)
    for dotted in required:
        inner = content
        for key in dotted.split("."):
            if not isinstance(inner, dict) or key not in inner:
                raise ValueError(f"{path} is corrupt (it lacks {dotted!r}); {remedy}")
            inner = inner[key]
    return content


def json_lines(path: Path) -> list[dict] | None:
    """A last line without its newline is one that is being written, or was when its run was stopped: left out."""
    if not path.exists():
        return None
    lines = path.read_bytes().split(b"\n")[:-1]
    entries = []
    for number_, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            entry["step"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is corrupt at line {number_} ({error}); take that line out") from error
        entries.append(entry)
    return entries


def arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Those arrays of an `.npz` artifact, None where there is no such file. Raises ValueError where it is corrupt."""
    if not path.exists():
        return None
    found = read_arrays(path)
    if absent := [name for name in names if name not in found]:
        raise ValueError(f"{path} is corrupt (it lacks {absent[0]!r}); pass --redo={path.parent.name}")
    return {name: found[name] for name in names}
