"""The sections of the report on superclasses; each returns None where the stage that it shows has not run."""

from __future__ import annotations

from collections.abc import Callable

from dynnas_jax.reports import plots, superclass_plots
from dynnas_jax.reports import superclass_tables as rows_of
from dynnas_jax.reports.source import Source, figure, table
from dynnas_jax.workdir import read_json


def headline(evaluation: dict) -> str:
    """The first sentence of the page."""
    rows = rows_of.accuracies(evaluation)
    last = rows[-1]["budget"]
    at = {row["method"]: row for row in rows if row["budget"] == last}
    eas, ofa = at[rows_of.NAMES["eas"]], at[rows_of.NAMES["ofa_t"]]
    return (
        f"On their own superclasses the generated subnets answer <b>{100 * eas['mean_accuracy']:.1f} %</b> of the test images "
        f"rightly at {eas['mean_macs'] / 1e6:.3f} million MACs on average; those of a search for each superclass "
        f"{100 * ofa['mean_accuracy']:.1f} % at {ofa['mean_macs'] / 1e6:.3f} million."
    )


def _summary(source: Source) -> str | None:
    evaluation = source.found.evaluation
    rows = rows_of.accuracies(evaluation)
    if not rows:
        return None
    series = {name: _points(rows, name) for name in dict.fromkeys(row["method"] for row in rows)}
    caption = "Every point is a budget: means over the superclasses, each by its own logits alone, on the test images."
    body = figure(source, "methods", superclass_plots.lines(series), caption)
    return body + table(source, "accuracies", rows, rows_of.accuracy_columns(rows, evaluation["unit"]))


def _points(rows: list[dict], method: str) -> list[tuple[float, float]]:
    return [(row["mean_macs"], row["mean_accuracy"]) for row in rows if row["method"] == method]


def _costs(source: Source) -> str | None:
    rows = rows_of.costs(source.found)
    if not rows:
        return None
    told = source.found.found["answering"]
    scenarios = len(source.found.found["methods"]["eas"]["nets"])
    speed = (
        f"<p>{scenarios} scenarios each, once programs are compiled. {told['scenarios']} scenarios of {told['samples']} samples "
        f"take the generator {told['median_ms']:.2f} ms.</p>"
    )
    return table(source, "costs", rows, rows_of.COSTS) + speed


def _budgets(source: Source) -> str | None:
    rows = rows_of.budgets(source.found)
    if not rows:
        return None
    body = table(source, "budgets", rows, rows_of.BUDGETS)
    path = source.workdir / "generator" / "generator.json"
    if path.is_file():
        generators = read_json(path)["generators"]
        caption = "All steps of both generators' training; costs are of everything that was drawn."
        body += figure(source, "generators", superclass_plots.learning(generators), caption)
    return body


def _dropout(source: Source) -> str | None:
    """This run and those taken in as baselines: the same recipe of other seeds and rates, two rates at least."""
    taken = _rates(source)
    if not _several_rates(taken):
        return None
    rows = rows_of.of_dropout(taken)
    own = [row for row in rows if row["method"] == rows_of.NAMES["eas"]]
    rates = {row["rate"]: [] for row in own}
    for row in own:
        rates[row["rate"]].append((row["mean_macs"], row["mean_accuracy"], row["mean_accuracy_sd"]))
    caption = "EAS of every rate on the same test images: means over runs, and their standard deviations."
    body = figure(source, "dropout", superclass_plots.dropout(rates), caption)
    return body + table(source, "dropout", rows, rows_of.dropout_columns(rows, taken[0]["unit"]))


def _several_rates(evaluations: list[dict]) -> bool:
    return len({told["superclass_dropout"] for told in evaluations}) > 1


def _rates(source: Source) -> list[dict]:
    """The evaluations of this run and of its baselines, of those whose scenarios are the same."""
    taken = [source.found.evaluation, *(run.get("evaluation") for run in source.found.baselines.values())]
    taken = [told for told in taken if told and "superclass_dropout" in told]
    return [told for told in taken if _scenarios(told) == _scenarios(taken[0])]


def _scenarios(evaluation: dict) -> list[tuple]:
    return [(net["method"], net["superclass"], net["budget"]) for net in evaluation["nets"]]


def _archs(source: Source) -> str | None:
    found = source.found.found
    if found is None:
        return None
    nets, budgets = found["methods"]["eas"]["nets"], found["budgets"]
    scale, unit = (1e6, "million MACs") if found["unit"] == "macs" else (1, "ms")
    first, middle = found["superclasses"][0], budgets[len(budgets) // 2]
    boxes = "Colour and width of a box: depthwise kernel. Height: expansion of the channels inside the block."
    one = {f"{net['budget'] / scale:.4g} {unit}": net["arch"] for net in nets if net["superclass"] == first}
    alike = {net["superclass"]: net["arch"] for net in nets if net["budget"] == middle}
    body = figure(source, "archs_of_budgets", plots.archs(one), f"Subnets for {first}, budget by budget. {boxes}")
    body += figure(
        source,
        "archs_of_superclasses",
        plots.archs(alike),
        f"Subnets for every superclass at {middle / scale:.4g} {unit}.",
    )
    if found.get("similarity"):
        label = "budget (millions of MACs)" if found["unit"] == "macs" else "budget (ms)"
        drawn = superclass_plots.similarity([b / scale for b in budgets], found["similarity"], label)
        body += figure(
            source, "similarity", drawn, "Of the one-hot codes of every two superclasses' subnets; 1: the same."
        )
    return body


def _unions(source: Source) -> str | None:
    rows = rows_of.unions(source.found.evaluation)
    return table(source, "unions", rows, rows_of.UNIONS) if rows else None


def _unknown(source: Source) -> str | None:
    rows = rows_of.unknown(source.found.evaluation)
    if not rows:
        return None
    share = 100 * source.found.evaluation["unknown"]["superclass_accuracy"]
    return table(source, "unknown", rows, rows_of.UNKNOWN) + f"<p>The superclass is told rightly for {share:.1f} %.</p>"


def _predictors(source: Source) -> str | None:
    rows = rows_of.predictors(source.found)
    return table(source, "predictors", rows, rows_of.PREDICTORS) if rows else None


def _paper(source: Source) -> str:
    rows = rows_of.paper(source.found, _several_rates(_rates(source)))
    return table(source, "paper", rows, rows_of.PAPER)


BUILDERS: dict[str, Callable[[Source], str | None]] = {
    "superclass_summary": _summary,
    "superclass_costs": _costs,
    "superclass_budgets": _budgets,
    "superclass_dropout": _dropout,
    "superclass_archs": _archs,
    "superclass_unions": _unions,
    "superclass_unknown": _unknown,
    "superclass_predictors": _predictors,
    "superclass_paper": _paper,
}
