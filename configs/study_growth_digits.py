"""The study of growing stage by stage on handwritten digits: three criteria, coins in their place, and uniform depth.

Lineage: rows are runs of configs/stage_growth_digits.py, three seeds each; every row trains as many networks, and one more of
uniform depth at the MACs of the last candidate (the row pls).
Expected: nothing has been measured yet; a run takes about 5 minutes of 2 CPU cores, all rows and seeds an hour.
    dynnas study --config=configs/study_growth_digits.py --workdir=runs/study_growth
    dynnas study --config=configs/study_growth_digits.py:tiny --workdir=runs/study_growth_tiny     # one seed, a few steps
"""

from ml_collections import ConfigDict

CRITERIA = {"pls": "partial least squares", "inf_fs": "inf-FS", "il_fs": "il-FS", "random": "coins"}


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '' and 'tiny'")
    config = ConfigDict()
    config.title = "Depth grown stage by stage on handwritten digits"
    config.seeds = (0,) if mode else (0, 1, 2)
    config.rows = tuple(row(name, mode) for name in CRITERIA)
    return config


def row(name: str, mode: str) -> dict:
    """A criterion."""
    return {
        "name": name,
        "recipe": f"stage_growth_digits.py:{name}{mode and f'_{mode}'}",
        "overrides": ("export.precisions=('fp32',)",),
        "tables": {"main": f"grown by {CRITERIA[name]}"},
    }
