"""Rows of numbers of a run of superclasses, in the manner of `tables`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dynnas_jax.reports.artifacts import Artifacts
from dynnas_jax.reports.tables import Column, known, number, percent, plain

# How a method is written.
NAMES = {
    "eas": "EAS",
    "eas_multi_path": "EAS on multiple paths",
    "eas_v": "EAS-V (one for all superclasses)",
    "ofa_t": "OFA-T (a search for each)",
    "ofa_v": "OFA-V (one search for all)",
    "random": "random",
}


def accuracies(evaluation: dict | None) -> list[dict]:
    """One row for each budget and method: accuracy on every superclass, and the means over them."""
    nets = (evaluation or {}).get("nets", ())
    rows = []
    for budget in dict.fromkeys(net["budget"] for net in nets):
        for method in dict.fromkeys(net["method"] for net in nets):
            own = [net for net in nets if (net["budget"], net["method"]) == (budget, method)]
            row = {"budget": budget, "method": NAMES.get(method, method)}
            row |= {f"on_{net['superclass']}": net["accuracy"] for net in own}
            means = {key: float(np.mean([net[key] for net in own])) for key in ("accuracy", "macs", "cost")}
            rows.append(row | {f"mean_{key}": value for key, value in means.items()})
    return rows


def accuracy_columns(rows: Sequence[dict], unit: str) -> tuple[Column, ...]:
    """The columns of `accuracies`; budgets are told in the unit that they have."""
    shown = ("budget (M MACs)", number("budget", 4, 1e6)) if unit == "macs" else ("budget (ms)", number("budget", 4))
    own = [key for key in (rows[0] if rows else ()) if key.startswith("on_")]
    return (
        Column("budget", *shown),
        Column("method", "method", plain("method"), numeric=False),
        *(Column(key, key.removeprefix("on_"), percent(key, 1)) for key in own),
        Column("mean_accuracy", "mean accuracy", percent("mean_accuracy")),
        Column("mean_macs", "mean MACs (M)", number("mean_macs", 4, 1e6)),
    )


def of_dropout(evaluations: Sequence[dict]) -> list[dict]:
    """One row for each rate of superclass dropout, method and budget: means over runs, and their standard deviations.

    The random subnets are the same in runs of one seed, whatever the rate: they tell of the supernets alone.

    Args:
      evaluations: `evaluation.json` of runs of one recipe.
    """
    found = [(told["superclass_dropout"], accuracies(told)) for told in evaluations]
    rows = []
    for rate in sorted({rate for rate, _ in found}):
        runs = [own for other, own in found if other == rate]
        for method in (NAMES[name] for name in ("eas", "random")):
            by_budget = zip(*([row for row in run if row["method"] == method] for run in runs), strict=True)
            rows += [{"rate": rate, "method": method, "runs": len(runs), **_spread(same)} for same in by_budget]
    return rows


def _spread(rows: Sequence[dict]) -> dict:
    """Means over runs of the same budget; of accuracies the standard deviation too, None for a single run."""
    found = {"budget": rows[0]["budget"], "mean_macs": float(np.mean([row["mean_macs"] for row in rows]))}
    for key in (key for key in rows[0] if key.startswith("on_") or key == "mean_accuracy"):
        values = [row[key] for row in rows]
        found |= {key: float(np.mean(values)), f"{key}_sd": float(np.std(values, ddof=1)) if len(rows) > 1 else None}
    return found


def dropout_columns(rows: Sequence[dict], unit: str) -> tuple[Column, ...]:
    """The columns of `of_dropout`."""
    shown = ("budget (M MACs)", number("budget", 4, 1e6)) if unit == "macs" else ("budget (ms)", number("budget", 4))
    own = [key for key in (rows[0] if rows else ()) if key.startswith("on_") and not key.endswith("_sd")]
    return (
        Column("rate", "dropout", number("rate", 2)),
        Column("method", "method", plain("method"), numeric=False),
        Column("runs", "runs", number("runs")),
        Column("budget", *shown),
        *(Column(key, key.removeprefix("on_"), _with_spread(key)) for key in own),
        Column("mean_accuracy", "mean accuracy", _with_spread("mean_accuracy")),
        Column("mean_macs", "mean MACs (M)", number("mean_macs", 4, 1e6)),
    )


def _with_spread(key: str) -> Callable[[dict], str]:
    def form(row: dict) -> str:
        spread = row[f"{key}_sd"]
        return f"{100 * row[key]:.1f} %" if spread is None else f"{100 * row[key]:.1f} ± {100 * spread:.1f} %"

    return form


def costs(artifacts: Artifacts) -> list[dict]:
    """One row for each method: seconds to train what it asks, and to find subnets for all scenarios."""
    return [
        {"method": NAMES.get(method, method), "train_s": known(told["train_s"]), "search_s": told["search_s"]}
        for method, told in (artifacts.found or {}).get("methods", {}).items()
    ]


def budgets(artifacts: Artifacts) -> list[dict]:
    """One row for each generator: how far the first sample, and the subnet taken, is from the budget."""
    rows = []
    for method in ("eas", "eas_multi_path", "eas_v"):
        nets = (artifacts.found or {}).get("methods", {}).get(method, {}).get("nets", ())
        if nets:
            first, taken = (
                np.asarray([net[key] / net["budget"] - 1 for net in nets]) for key in ("first_cost", "cost")
            )
            rows.append(
                {
                    "method": NAMES[method],
                    "first_feasible": float(np.mean([net["first_feasible"] for net in nets])),
                    "first_error": float(np.abs(first).mean()),
                    "feasible_samples": float(np.mean([net["feasible_share"] for net in nets])),
                    "taken_error": float(np.abs(taken).mean()),
                    "above": int((taken > 0).sum()),
                    "repaired": int(sum(net["repaired"] for net in nets)),
                    "scenarios": len(nets),
                }
            )
    return rows


def unions(evaluation: dict | None) -> list[dict]:
    """One row for each union of superclasses that the generator has not seen."""
    return [
        {"union": row["union"], "images": row["images"], "repaired": row["repaired"]}
        | {f"{name}_{key}": row[name][key] for name in ("eas", "ofa_v") for key in ("accuracy", "macs")}
        for row in (evaluation or {}).get("unions", ())
    ]


def unknown(evaluation: dict | None) -> list[dict]:
    """Three ways to answer images of unknown superclass."""
    told = (evaluation or {}).get("unknown")
    if not told:
        return []
    names = {"two_steps": "superclass first, then its own subnet", "general": "one general subnet"}
    names["first_alone"] = "the smallest net alone"
    return [{"way": text, **{key: told[name][key] for key in ("accuracy", "macs")}} for name, text in names.items()]


def predictors(artifacts: Artifacts) -> list[dict]:
    """One row for each predictor of the controls."""
    return list((artifacts.predictor or {}).get("predictors", ()))


def in_short(artifacts: Artifacts) -> tuple[list[dict], tuple[Column, ...]]:
    """The rows of EAS and OFA-T at every budget, and their columns: what a run says at its end."""
    wanted = (NAMES["eas"], NAMES["ofa_t"])
    rows = [row for row in accuracies(artifacts.evaluation) if row["method"] in wanted]
    return rows, accuracy_columns(rows, (artifacts.evaluation or {}).get("unit", "macs"))


# What the paper shows: where, on which groups of the library, what, and the chapter of this report with the same.
_PAPER = (
    ("Table 1", "imagenet10", "accuracies of OFA-V, OFA-T and EAS", "Result"),
    ("Table 2", "imagenet12", "accuracies of OFA-V, OFA-T and EAS", "Result"),
    ("Figure 3, Table D", "car20", "accuracies of OFA-T and EAS", "Result"),
    ("Table 3", "imagenet10", "times of training and search", "What it takes"),
    ("Figures 4 and A", "imagenet10", "rates of superclass dropout", "With and without superclass dropout"),
    ("Figure 5", "imagenet10", "random, OFA-T, multiple paths, single paths", "Result"),
    ("Table E", "imagenet10", "EAS-V and EAS", "Result"),
    ("Figure B", "imagenet10", "similarity of architectures", "The architectures"),
    ("Figures C and D", "imagenet10", "architectures by budget and by superclass", "The architectures"),
)
_PAPER_DATA = {"imagenet10": "ImageNet-10", "imagenet12": "ImageNet-12", "car20": "Car-20"}


def paper(artifacts: Artifacts, with_rates: bool) -> list[dict]:
    """One row for each table and figure of the paper: what stands here in its place, and whether its dataset has been run.

    Args:
      with_rates: whether runs at other rates of superclass dropout stand beside this one.
    """
    known = ((artifacts.config or {}).get("superclasses") or {}).get("known")
    methods = (artifacts.found or {}).get("methods", {})
    rows = []
    for place, data, shows, chapter in _PAPER:
        here = chapter if methods else None
        if "rates" in shows and not with_rates:
            here = None
        if "multiple paths" in shows and here and "eas_multi_path" not in methods:
            here = f"{chapter}, without multiple paths"
        name = _PAPER_DATA[data]
        told = f"{name}: this run" if known == data else f"{name}: not run"
        rows.append({"place": place, "shows": shows, "here": here, "dataset": told})
    return rows


COSTS = (
    Column("method", "method", plain("method"), numeric=False),
    Column("train_s", "training what it asks (s)", number("train_s", 1)),
    Column("search_s", "all searches (s)", number("search_s", 4)),
)
BUDGETS = (
    Column("method", "generator", plain("method"), numeric=False),
    Column("scenarios", "scenarios", number("scenarios")),
    Column("first_feasible", "first sample within the budget", percent("first_feasible", 1)),
    Column("first_error", "its distance from it", percent("first_error", 1)),
    Column("feasible_samples", "samples within it", percent("feasible_samples", 1)),
    Column("taken_error", "distance of the one taken", percent("taken_error", 1)),
    Column("above", "above it", number("above")),
    Column("repaired", "cut down to it", number("repaired")),
)
UNIONS = (
    Column("union", "union", plain("union"), numeric=False),
    Column("images", "images", number("images")),
    Column("eas_accuracy", "EAS", percent("eas_accuracy")),
    Column("eas_macs", "its MACs (M)", number("eas_macs", 4, 1e6)),
    Column("ofa_v_accuracy", "OFA-V", percent("ofa_v_accuracy")),
    Column("ofa_v_macs", "its MACs (M)", number("ofa_v_macs", 4, 1e6)),
)
UNKNOWN = (
    Column("way", "way", plain("way"), numeric=False),
    Column("accuracy", "accuracy", percent("accuracy")),
    Column("macs", "MACs (M)", number("macs", 4, 1e6)),
)
PREDICTORS = (
    Column("superclass", "accuracy on", plain("superclass"), numeric=False),
    Column("kendall_tau", "Kendall's tau", number("kendall_tau", 3)),
    Column("rmse", "RMSE (points)", number("rmse", 2, 0.01)),
    Column("fitted", "records learned from", number("fitted")),
    Column("held_out", "records held out", number("held_out")),
)
PAPER = (
    Column("place", "in the paper", plain("place"), numeric=False),
    Column("shows", "shows", plain("shows"), numeric=False),
    Column("here", "chapter, on this run's data", plain("here"), numeric=False),
    Column("dataset", "on the paper's data", plain("dataset"), numeric=False),
)
