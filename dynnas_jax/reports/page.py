"""The report of a workdir: one HTML file that holds its figures and needs nothing else, and its tables as CSV."""

import html as markup
import shutil
import tempfile
from pathlib import Path

from dynnas_jax.reports import artifacts, chapters, gate_sections, sections, tables, threshold_control
from dynnas_jax.workdir import write_bytes


def write(workdir: str | Path, *, title: str | None = None) -> Path:
    """Writes `report.html`, `report/tables/*.csv` and `report/figures/*.png` from the artifacts of `workdir` alone.

    A stage that has not run leaves its section saying so. All is made beside the earlier report, then takes its place.

    Args:
      workdir: the folder of a run.
      title: heading of the page.

    Returns:
      The path of `report.html`.

    Raises:
      ValueError: no such workdir, or a corrupt artifact (named); the earlier report is as it was.
    """
    workdir = Path(workdir)
    found = artifacts.read(workdir)
    outline = chapters.of(found.kind)
    title = title or f"{outline.what.capitalize()} report: {workdir.resolve().name}"
    with tempfile.TemporaryDirectory(dir=workdir, prefix=".report.") as made:
        source = sections.Source(workdir, Path(made), found)
        parts = [f"<h1>{markup.escape(title)}</h1>", _headline(found, outline)]
        for heading, explanation, name in outline.chapters:
            body = sections.BUILDERS[name](source) or f'<p class="absent">{tables.NOT_RUN}</p>'
            said = explanation if isinstance(explanation, str) else explanation(found.config)
            parts.append(f"<section><h2>{heading}</h2>\n<p>{said}</p>\n{body}</section>")
        page = PAGE.format(title=markup.escape(title), css=CSS + threshold_control.CSS, body="\n".join(parts))
        for folder in ("tables", "figures"):
            _replace(workdir / "report" / folder, source.folder / folder)
    write_bytes(workdir / "report.html", page.encode())
    return workdir / "report.html"


def _replace(old: Path, new: Path) -> None:
    """Puts the folder `new` in the place of `old`, which may be absent, as may `new`."""
    shutil.rmtree(old, ignore_errors=True)
    if new.is_dir():
        old.parent.mkdir(parents=True, exist_ok=True)
        new.rename(old)


def _headline(found: artifacts.Artifacts, outline: chapters.Outline) -> str:
    if found.evaluation is None:
        return f'<p class="headline">The {outline.what} has not been evaluated yet.</p>'
    warning = ""
    if (found.found or {}).get("pair", {}).get("feasible") is False:
        warning = '<p class="warning">No pair and threshold met the target that was asked for; this is the closest.</p>'
    elif told := gate_sections.warning(found):
        warning = f'<p class="warning">{told}</p>'
    return f'<p class="headline">{outline.headline(found.evaluation)}</p>{warning}'


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
CSS = """
:root { color-scheme: light dark; --ink: #22262b; --soft: #5f6670; --line: #dfe2e6; --page: #f6f7f8; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a3aab4; --line: #3a3f46; --page: #17191c; --card: #202327; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 0 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { max-width: 48rem; margin: .5rem 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.4rem 1.5rem;
  margin: 1.25rem 0; }
.headline { font-size: 1.2rem; line-height: 1.5; }
.headline b { color: #009e73; font-variant-numeric: tabular-nums; }
.warning { border-left: 4px solid #d55e00; padding-left: .75rem; }
.absent { color: var(--soft); font-style: italic; }
.table { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; border-bottom-width: 2px; }
th.number, td.number { text-align: right; }
td.number { white-space: nowrap; }
figure { margin: 1rem 0 .25rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 8px; }
figcaption { color: var(--soft); font-size: .86rem; margin-top: .5rem; max-width: 48rem; }
summary { cursor: pointer; color: var(--soft); }
"""
