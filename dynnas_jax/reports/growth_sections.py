"""The sections of the report on growing stage by stage; each returns None where the stage that it shows has not run."""

from __future__ import annotations

import html as markup
from collections.abc import Callable

from dynnas_jax.reports import growth_plots, growth_tables, tables
from dynnas_jax.reports.source import Source, figure, table


def _networks(source: Source) -> str | None:
    rows = growth_tables.networks(source.found)
    if not rows:
        return None
    hidden = set() if any(row[tables.TOP5] for row in rows) else {tables.TOP5}
    if not (source.found.config or {}).get("grow", {}).get("further"):  # the same accuracy twice
        hidden |= {growth_tables.SCORED, growth_tables.TESTED}
    shown = [column for column in growth_tables.NETWORKS if column.key not in hidden]
    body = table(source, "networks", rows, shown)
    entries = source.found.growth["candidates"]
    body += f"<p>Energy: {markup.escape(entries[-1]['training']['source'])}.</p>"
    taken = _baselines(source)
    points = [(row["network"], row["macs"], row["accuracy"]) for row in rows if row["accuracy"] and row["depth"]]
    if not points:
        return body
    grown = [point for point in points if point[0].startswith(("initial", "iteration"))]
    others = [point for point in points if point not in grown] + taken
    caption = "Test images. Each net that grew has the depths of the one before it, and more where they gain."
    return body + figure(source, "accuracy_against_macs", growth_plots.accuracy_against_macs(grown, others), caption)


def _baselines(source: Source) -> list[tuple[str, float, float]]:
    """Nets of the runs that were taken in."""
    told = {name: (taken.get("evaluation") or {}).get("net") for name, taken in source.found.baselines.items()}
    return [(name, net["macs"], net["accuracy"]) for name, net in told.items() if net]


def _decisions(source: Source) -> str | None:
    growth = source.found.growth
    if growth is None:
        return None
    rows = growth_tables.decisions(source.found)
    depths = {growth_tables.name(net): net["depths"] for net in (growth["initial"], *growth["candidates"])}
    caption = f"Modules of each stage; importance by {markup.escape(growth['criterion'])}."
    body = figure(source, "modules", growth_plots.modules(depths), caption)
    body += table(source, "decisions", rows, growth_tables.DECISIONS)
    if growth["bounds"]:
        sides = ", ".join(f"{bound['side']}x{bound['side']}" for bound in growth["bounds"])
        images = min(bound["samples"] for bound in growth["bounds"])
        body += f"<p>Looked at: {images:,} training images, maps pooled to {sides} pixels.</p>"
    constant = sum(stage["constant"] for stages in growth["importances"] for stage in stages)
    if constant:
        body += f"<p>{constant} features of the kept nets never vary; they count as telling nothing.</p>"
    absent = dict.fromkeys(stage["reason"] for stages in growth["importances"] for stage in stages if "reason" in stage)
    if absent:
        body += f"<p>Nothing tells an importance: {markup.escape('; '.join(absent))}.</p>"
    if choices := growth_tables.choices(source.found):
        body += "<p>The criterion's parameters were chosen once, by the first candidate each leads to:</p>"
        body += table(source, "choices", choices, growth_tables.CHOICES)
    trained = growth["trained"]
    further = trained.get("further", {}).get("seconds")  # of earlier runs it is not told apart
    apart = f", {further:,.0f} of them for the further training of those that are kept" if further else ""
    scoring = growth.get("scoring", {}).get("seconds")
    told = f" Their importances took {scoring:,.0f} seconds." if scoring else ""
    return body + f"<p>{trained['networks']} networks were made in {trained['seconds']:,.0f} seconds{apart}.{told}</p>"


BUILDERS: dict[str, Callable[[Source], str | None]] = {"growth_networks": _networks, "growth_decisions": _decisions}
