"""The stage that writes the report."""

from __future__ import annotations

from pathlib import Path

from dynnas_jax.job import Job


def run(_: Job | None, folder: Path, *, title: str | None = None) -> tuple[str, ...]:
    """Tables, figures and the page, from the artifacts alone."""
    from dynnas_jax.reports import page

    page.write(folder.parent, title=title)
    made = (path for path in sorted(folder.rglob("*")) if path.suffix in (".csv", ".png"))
    return "../report.html", *(str(path.relative_to(folder)) for path in made)
