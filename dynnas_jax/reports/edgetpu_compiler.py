"""What the Edge TPU compiler says of an export's nets, as the rows of a table."""

from pathlib import PurePath

from dynnas_jax.reports import tables

COLUMNS = (
    tables.Column("file", "file", tables.plain("file"), numeric=False),
    tables.Column("mapped", "operators on the Edge TPU", tables.number("mapped")),
    tables.Column("unmapped", "on the CPU", tables.number("unmapped")),
    tables.Column("subgraphs", "subgraphs", tables.number("subgraphs")),
    tables.Column("on_chip_bytes", "parameters in the cache (KiB)", tables.number("on_chip_bytes", 1, 1024)),
    tables.Column("free_bytes", "left of the cache (KiB)", tables.number("free_bytes", 1, 1024)),
    tables.Column("off_chip_bytes", "fetched at every run (KiB)", tables.number("off_chip_bytes", 1, 1024)),
    tables.Column("operators", "operators", tables.plain("operators"), numeric=False),
)


def rows(compiler: dict) -> list[dict]:
    """One row for each model of what `export.json` has under `compiler`; none where the compiler was not run."""
    keys = [column.key for column in COLUMNS if column.key not in ("file", "operators")]
    return [
        {"file": PurePath(model["output"] or model["input"]).name}
        | {key: model[key] for key in keys}
        | {"operators": "; ".join(f"{count}×{name}: {status}" for name, count, status in model["operators"])}
        for model in compiler.get("models", ())
    ]
