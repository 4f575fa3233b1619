"""The study of growing stage by stage on handwritten digits: three criteria, coins in their place, and uniform depth.

Lineage: rows are runs of configs/stage_growth_digits.py, three seeds each; every row trains as many networks, and one more of
uniform depth at the MACs of the last candidate (the row pls). The part `growth_initial`, one iteration each, tells what the depth
to begin with does, as the paper's table I.
Expected: all 21 runs an hour on 2 cores, beside other work; partial least squares 0.5 points above uniform depth, spread 0.4.
Results: docs/results/stage_growth_digits.md.
    dynnas study --config=configs/study_growth_digits.py --workdir=runs/study_growth
    dynnas study --config=configs/study_growth_digits.py --workdir=runs/study_growth --rows=main        # the criteria
    dynnas study --config=configs/study_growth_digits.py:tiny --workdir=runs/study_growth_tiny          # one seed, a few steps
"""

from ml_collections import ConfigDict

CRITERIA = {"pls": "partial least squares", "inf_fs": "inf-FS", "il_fs": "il-FS", "random": "coins"}
BEGINNINGS = (1, 3, 4)  # modules of each stage at first; the row pls begins with 2


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '' and 'tiny'")
    config = ConfigDict()
    config.title = "Depth grown stage by stage on handwritten digits"
    config.seeds = (0,) if mode else (0, 1, 2)
    config.rows = (*(row(name, mode) for name in CRITERIA), *(beginning(modules, mode) for modules in BEGINNINGS))
    return config


def row(name: str, mode: str) -> dict:
    """A criterion."""
    tables = {key: CRITERIA[name] for key in ("growth_criteria", "growth_controls", "growth_residual", "growth_cost")}
    if name == "pls":
        tables["growth_initial"] = CRITERIA[name]
    return {
        "name": name,
        "recipe": f"stage_growth_digits.py:{name}{mode and f'_{mode}'}",
        "overrides": ("export.precisions=('fp32',)",),
        "tables": {"main": f"grown by {CRITERIA[name]}"} | tables,
    }


def beginning(modules: int, mode: str) -> dict:
    """Another depth to begin with."""
    return {
        "name": f"from{modules}",
        "recipe": f"stage_growth_digits.py{mode and f':{mode}'}",
        "overrides": (f"grow.initial_modules={modules}", "grow.iterations=1", "grow.uniform=False"),
        "tables": {"growth_initial": CRITERIA["pls"]},
        "stages": ("grow", "evaluate"),
    }
