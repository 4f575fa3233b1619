"""Tables of runs of superclasses over several seeds, as `docs/results` shows them.

    python benchmarks/superclass_tables.py --workdirs=runs/eas_s0,runs/eas_s1,runs/eas_s2
    python benchmarks/superclass_tables.py --workdirs=... --without=runs/eas_q0_s0,...   # runs without superclass dropout

Prints Markdown: accuracies on the test images, budgets, times, EAS against OFA-T at equal MACs, and what the recorded subnets
reach on held-out images.
"""

import argparse
from pathlib import Path

import numpy as np

from dynnas_jax import records
from dynnas_jax.job import supernet_of_run
from dynnas_jax.reports import artifacts, superclass_tables
from dynnas_jax.reports.tables import Column, number, plain
from dynnas_jax.workdir import read_json


def methods(runs: list[Path]) -> list[dict]:
    """One row for each budget and method: mean accuracy and standard deviation over the runs, and mean MACs."""
    found = [superclass_tables.accuracies(artifacts.read(run).evaluation) for run in runs]
    rows = []
    for same in zip(*found, strict=True):
        accuracy = [100 * row["mean_accuracy"] for row in same]
        entry = {"budget": same[0]["budget"], "method": same[0]["method"], "accuracy": _spread(accuracy)}
        rows.append(entry | {"macs": float(np.mean([row["mean_macs"] for row in same]))})
    return rows


def of_runs(runs: list[Path]) -> list[dict]:
    """One row for each run and method: mean accuracy over budgets, and seconds; of generators how budgets are kept."""
    rows = []
    for run in runs:
        found = artifacts.read(run)
        means, kept = superclass_tables.accuracies(found.evaluation), superclass_tables.budgets(found)
        for row in superclass_tables.costs(found):
            own = [100 * mean["mean_accuracy"] for mean in means if mean["method"] == row["method"]]
            entry = {"run": run.name, **row, "accuracy": float(np.mean(own))}
            rows.append(entry | next((one for one in kept if one["method"] == row["method"]), {}))
    return rows


def at_equal_macs(runs: list[Path]) -> list[dict]:
    """One row for each run: points by which EAS is above OFA-T at the MACs of OFA-T's subnets, one for each budget.

    Between EAS' subnets its accuracy is taken to be a straight line of the mean MACs; beyond its ends as there.
    """
    rows = []
    for run in runs:
        points = {}
        for row in superclass_tables.accuracies(artifacts.read(run).evaluation):
            points.setdefault(row["method"], []).append((row["mean_macs"], 100 * row["mean_accuracy"]))
        (x, own), (macs, other) = (
            np.asarray(sorted(points[superclass_tables.NAMES[name]])).T for name in ("eas", "ofa_t")
        )
        above = np.interp(macs, x, own) - other
        told = {f"budget {number}": value for number, value in enumerate(above.tolist(), 1)}
        rows.append({"run": run.name, **told, "mean": float(above.mean())})
    return rows


def recorded(groups: dict[str, list[Path]]) -> list[dict]:
    """One row for each group of runs: held-out accuracy of the recorded subnets, superclass by superclass."""
    rows = []
    for name, runs in groups.items():
        each = [_recorded(run) for run in runs]
        keys = each[0].keys()
        rows.append({"runs": name, **{key: _spread([100 * one[key] for one in each]) for key in keys}})
    return rows


def _recorded(run: Path) -> dict[str, float]:
    store = records.open(run / "collect" / "records.zarr", supernet_of_run(run).space.fingerprint)
    correct, labels = store.read("correct")[..., -1], _labels(run)
    groups = read_json(run / "generator" / "generator.json")["superclasses"]
    found = {name: float(correct[:, np.isin(labels, classes)].mean()) for name, classes in groups.items()}
    return found | {"mean": float(np.mean(list(found.values())))}


def _labels(run: Path) -> np.ndarray:
    from dynnas_jax import job, kinds
    from dynnas_jax.workdir import Workdir, read_config

    config = read_config(run)
    return np.asarray(job.prepare(Workdir(run, kinds.of(config).stages, config), config).images.holdout.labels)


def _spread(values: list[float]) -> str:
    more = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{more}"


def _markdown(rows: list[dict], columns: tuple[Column, ...]) -> str:
    lines = ["| " + " | ".join(column.header for column in columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (column.form(row) if row.get(column.key) is not None else "" for column in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(keys, numbers: dict[str, tuple] | None = None) -> tuple[Column, ...]:
    forms = {key: number(key, *how) for key, how in (numbers or {}).items()}
    return tuple(Column(key, key, forms.get(key, plain(key))) for key in keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdirs", required=True, type=lambda text: [Path(part) for part in text.split(",")])
    parser.add_argument("--without", default=[], type=lambda text: [Path(part) for part in text.split(",")])
    known = parser.parse_args()
    scale = {"budget": (0, 1e3), "macs": (0, 1e3), "mean_macs": (0, 1e3)}
    print(_markdown(methods(known.workdirs), _shown(("budget", "method", "accuracy", "macs"), scale)), "\n")
    kept = {key: (3,) for key in ("first_feasible", "first_error", "feasible_samples", "taken_error")}
    keys = ("run", "method", "accuracy", "train_s", "search_s", *kept, "above", "repaired")
    print(
        _markdown(of_runs(known.workdirs), _shown(keys, kept | {"accuracy": (1,), "train_s": (1,), "search_s": (4,)}))
    )
    rows = at_equal_macs(known.workdirs)
    print("\n" + _markdown(rows, _shown(rows[0], {key: (1,) for key in rows[0] if key != "run"})))
    if known.without:
        groups = {"with dropout": known.workdirs, "without": known.without}
        rows = recorded(groups)
        print("\n" + _markdown(rows, _shown(rows[0])), "\n")
        told = [artifacts.read(run).evaluation for runs in groups.values() for run in runs]
        rows = superclass_tables.of_dropout(told)
        columns = superclass_tables.dropout_columns(rows, told[0]["unit"])
        print(_markdown(rows, columns))


if __name__ == "__main__":
    main()
