"""The chapters of the report of each kind of run."""

from __future__ import annotations

from dynnas_jax import kinds
from dynnas_jax.reports import family_chapters, plain_chapters
from dynnas_jax.reports.plain_chapters import Chapter


def of(kind: kinds.Kind) -> tuple[Chapter, ...]:
    """The chapters of a kind of run, in order."""
    return {
        "supernet": plain_chapters.SUPERNET,
        "network": plain_chapters.NETWORK,
        "cascade": plain_chapters.CASCADE,
        "multi_exit": family_chapters.MULTI_EXIT,
        "exit_network": family_chapters.EXIT_NETWORK,
        "eas": family_chapters.EAS,
        "slimmable": family_chapters.SLIMMABLE,
        "growth": family_chapters.GROWTH,
    }[kind.name]
