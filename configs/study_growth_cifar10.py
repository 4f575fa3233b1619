"""The study of growing stage by stage on CIFAR-10: the tables I to VI and figure 4 of the paper, from our own runs.

Lineage: rows are runs of configs/stage_growth_cifar10.py and configs/stage_growth_transfer.py with one seed: nets that grew from
scratch by each criterion, out of a deeper net's weights and out of a supernet, ResNets and NASNets of uniform depth trained as
long, cells, the ensemble of both kinds, and the depths found on another dataset. The part `growth_initial`, one iteration each,
tells what the depth to begin with does; its nets are trained further as those of the row `grown` are, and tested before that
too, as the paper's table I has it. Rows of the ensemble, of other weights and of another dataset name the rows that they
need. Runs of these recipes that are done already are taken in by --take.
Expected: the fourteen tiny rows of residual nets took an hour beside other work, the seven of cells and with cells over three,
with pauses (docs/results/stage_growth_cifar10_tiny.md). The full rows have not been run. --max_minutes=N does any of them in
parts.
    dynnas study --config=configs/study_growth_cifar10.py --workdir=runs/study_growth_cifar10                # one GPU
    dynnas study --config=configs/study_growth_cifar10.py:tiny --workdir=runs/study_growth_cifar10_tiny      # 2 CPU cores
    dynnas study --config=configs/study_growth_cifar10.py --workdir=runs/study_growth_cifar10 --rows=growth_initial
    dynnas study --config=configs/study_growth_cifar10.py:tiny --workdir=runs/study_growth_cifar10_tiny --table \
        --take=runs/growth_tiny,runs/resnet110_tiny
"""

from ml_collections import ConfigDict

RECIPE, ELSEWHERE = "stage_growth_cifar10.py", "stage_growth_transfer.py"
SCRATCH, PLS = "grown, from scratch", "partial least squares"
# Modules of each stage at first; the row `grown` begins with 6, of the tiny ones with 1.
BEGINNINGS = {"": (2, 4, 8, 10), "tiny": (2, 3)}
OTHERS = {"inf_fs": "inf-FS", "il_fs": "il-FS", "random": "coins"}


def get_config(mode: str = "") -> ConfigDict:
    if mode not in ("", "tiny"):
        raise ValueError(f"mode is {mode!r}, choose from '' and 'tiny'")
    config = ConfigDict()
    config.title = "Depth grown stage by stage on CIFAR-10" + (mode and ", tiny")
    config.seeds = (0,)
    candidate = 2 if mode else 5  # the last
    others = (*criteria(), *elsewhere(candidate, mode), *map(beginning, BEGINNINGS[mode]))
    rows = (*residual(mode), *cells(mode), *others)
    config.rows = tuple({**row, "recipe": with_mode(row["recipe"], mode)} for row in rows)
    return config


def with_mode(recipe: str, tiny: str) -> str:
    """FILE.py:MODE, of the tiny nets where asked."""
    file, _, mode = recipe.partition(":")
    return f"{file}:{'_'.join(part for part in (mode, tiny) if part)}".removesuffix(":")


def named(rival: str, tiny: str) -> str:
    """What a net of uniform depth is called: that of the paper by its name."""
    return f"smaller, for {rival}" if tiny else rival


def residual(tiny: str) -> tuple[dict, ...]:
    """Table III: nets of residual blocks."""
    tables = {"growth_residual": SCRATCH, "growth_controls": PLS, "growth_cost": "residual blocks"}
    grown = {
        "name": "grown",
        "recipe": RECIPE,
        "tables": {**tables, **dict.fromkeys(("growth_criteria", "growth_initial"), PLS), "main": SCRATCH},
    }
    uniform = tuple(
        {"name": name, "recipe": f"{RECIPE}:{name}", "tables": {"growth_residual": named(label, tiny)}}
        for name, label in (("resnet44", "ResNet-44"), ("resnet56", "ResNet-56"), ("resnet110", "ResNet-110"))
    )
    uniform[-1]["tables"]["growth_cost"] = "the source of weights"
    return (
        *(grown, *uniform),
        out_of("transfer", "resnet110", "grown, with weight transfer"),
        {"name": "depths", "recipe": f"{RECIPE}:supernet", "tables": {"growth_cost": "the supernet of all depths"}},
        out_of("read_off", "depths", "read off a supernet"),
    )


def out_of(name: str, source: str, label: str) -> dict:
    """Nets that begin with the weights of another row's."""
    return {
        "name": name,
        "recipe": f"{RECIPE}:{name}",
        "overrides": (f"grow.source={{{source}}}",),
        "tables": {"growth_residual": label, "growth_cost": label},
    }


def cells(tiny: str) -> tuple[dict, ...]:
    """Table IV: nets of cells; the ensemble of both kinds."""
    grown = {"name": "cells", "recipe": f"{RECIPE}:cells", "tables": {"growth_cells": SCRATCH, "growth_cost": "cells"}}
    uniform = tuple(
        {"name": name, "recipe": f"{RECIPE}:{name}", "tables": {"growth_cells": named(label, tiny)}}
        for name, label in (("nasnet169", "NASNet-169"), ("nasnet205", "NASNet-205"), ("nasnet241", "NASNet-241"))
    )
    together = {
        "name": "ensemble",
        "recipe": f"{RECIPE}:ensemble",
        "overrides": ("evaluate.also=('{cells}',)",),
        "tables": {"growth_cost": "residual blocks and cells"},
        "stages": ("grow", "evaluate"),
    }
    return grown, *uniform, together


def criteria() -> tuple[dict, ...]:
    """Table II: the other criteria, and coins."""
    return tuple(
        {
            "name": name,
            "recipe": f"{RECIPE}:{name}",
            "tables": {"growth_criteria": label, "growth_controls": label},
            "stages": ("grow", "evaluate"),
        }
        for name, label in OTHERS.items()
    )


def elsewhere(candidate: int, tiny: str) -> tuple[dict, ...]:
    """Table VI: the depths that were found, of blocks and of cells, and uniform depth, on another dataset."""
    rows = []
    for name, source, mode in (("grown_elsewhere", "grown", ""), ("cells_elsewhere", "cells", ":cells")):
        kind = "cells" if mode else "residual blocks"
        rows.append(
            {
                "name": name,
                "recipe": f"{ELSEWHERE}{mode}",
                "overrides": (f"network.arch={{{source}}}/grow/candidate{candidate}.json",),
                "tables": {"growth_elsewhere": f"the last candidate of CIFAR-10, {kind}"},
            }
        )
    for rival, label in (("resnet110", "ResNet-110"), ("nasnet241", "NASNet-241")):
        recipe = f"{ELSEWHERE}:{rival}"
        tables = {"growth_elsewhere": named(label, tiny)}
        rows.append({"name": f"{rival}_elsewhere", "recipe": recipe, "tables": tables})
    return tuple(rows)


def beginning(modules: int) -> dict:
    """Table I: another depth to begin with, trained as the nets of the row `grown` are."""
    alone = ("grow.iterations=1", "grow.uniform=False", "evaluate.together=None")
    return {
        "name": f"from{modules}",
        "recipe": RECIPE,
        "overrides": (f"grow.initial_modules={modules}", *alone),
        "tables": {"growth_initial": PLS},
        "stages": ("grow", "evaluate"),
    }
