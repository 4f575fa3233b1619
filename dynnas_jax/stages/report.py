"""The stage that writes the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynnas_jax.job import Job


def run(_: Job | None, folder: Path, *, title: str | None = None, published: Sequence[dict] = ()) -> tuple[str, ...]:
    """Tables, figures and the page, from the artifacts alone.

    Args:
      published: of nets of several exits, points of others for the figure, which reads them from the config: `label`, `macs`, and
        `accuracy` in [0, 1]; points of one label are joined.

    Raises:
      ValueError: for a point that lacks one of these.
    """
    from dynnas_jax.reports import page

    page.write(folder.parent, title=title)
    made = (path for path in sorted(folder.rglob("*")) if path.suffix in (".csv", ".png"))
    return "../report.html", *(str(path.relative_to(folder)) for path in made)


def check(_: Job, *, published: Sequence[dict] = (), **__) -> None:
    """Raises ValueError for a published point that is none, before anything is trained."""
    from dynnas_jax.reports import exit_tables

    exit_tables.published({"report": {"published": published}})
