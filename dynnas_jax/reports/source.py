"""What the sections of the report are made from, and how their figures and tables come into the page and into files."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dynnas_jax.reports import artifacts, plots, tables


class Source(NamedTuple):
    """What the sections of the page are made from, and the folder for their tables and figures."""

    workdir: Path
    folder: Path
    found: artifacts.Artifacts


def figure(source: Source, name: str, drawn, caption: str) -> str:
    """HTML of a matplotlib figure, and its file `figures/NAME.png`; the caption is HTML."""
    content = plots.png(drawn)
    path = source.folder / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    data = base64.b64encode(content).decode("ascii")
    width = round(104 * drawn.get_figwidth())  # one scale, hence one size of letters, for all figures of the page
    image = f'<img alt="{name.replace("_", " ")}" width="{width}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def table(source: Source, name: str, rows: Sequence[dict], columns: Sequence[tables.Column]) -> str:
    """HTML of the rows, and their file `tables/NAME.csv`, which has all keys of the rows."""
    tables.write_csv(source.folder / "tables" / f"{name}.csv", rows)
    return tables.html(rows, columns)
