"""What the report of each kind of run is made of. A run says its end by it, so that nothing here imports JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dynnas_jax import kinds
from dynnas_jax.reports import (
    exit_sections,
    exit_tables,
    family_chapters,
    gate_sections,
    plain_chapters,
    superclass_sections,
    superclass_tables,
    tables,
)
from dynnas_jax.reports.artifacts import Artifacts
from dynnas_jax.reports.plain_chapters import Chapter


class Outline(NamedTuple):
    """A report in short and in full."""

    chapters: tuple[Chapter, ...]  # in order
    headline: Callable[[dict], str]  # what was evaluated -> the first sentence of the page, as HTML
    in_short: Callable[[Artifacts], tuple]  # what a run says at its end: rows, and their columns where they are special
    what: str = "dynamic network"


def _summary(found: Artifacts) -> tuple[list[dict]]:
    return (tables.summary(found),)


_EXITS = exit_sections.headline, exit_tables.in_short
_NET = plain_chapters.net_headline, _summary, "network"
_PAIR = plain_chapters.pair_headline, _summary
_OUTLINES = {
    "supernet": Outline(plain_chapters.SUPERNET, *_PAIR),
    "network": Outline(plain_chapters.NETWORK, *_NET),
    "cascade": Outline(plain_chapters.CASCADE, *_PAIR),
    "multi_exit": Outline(family_chapters.MULTI_EXIT, *_EXITS),
    "exit_network": Outline(family_chapters.EXIT_NETWORK, *_EXITS),
    "eas": Outline(family_chapters.EAS, superclass_sections.headline, superclass_tables.in_short, "network"),
    "slimmable": Outline(family_chapters.SLIMMABLE, gate_sections.headline, gate_sections.in_short),
    "growth": Outline(family_chapters.GROWTH, *_NET),
}


def of(kind: kinds.Kind) -> Outline:
    """The outline of a kind of run's report."""
    return _OUTLINES[kind.name]
