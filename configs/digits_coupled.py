"""Little and big nets trained as pairs on scikit-learn's handwritten digits; also the same space trained apart, to compare.

Lineage: configs/digits.py (images, augmentation, batches, optimizer, target), a joint loss with in-place distillation (arXiv
2003.11142), widths, depths, kernels and expansions of an OFA-like space (arXiv 1908.09791). Modes: "" pairs with a head each;
"apart" the same space by the sandwich rule, four nets a step as with pairs; "tiny" and "apart_tiny" a few steps of either.
Its training takes 1,000 steps; three seeds of 700 steps each: docs/results/study_digits.md.
    dynnas run --config=configs/digits_coupled.py --workdir=runs/digits_coupled
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

MODES = ("", "tiny", "apart", "apart_tiny")


def get_config(mode: str = "") -> ConfigDict:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, choose from {MODES}")
    digits = runpy.run_path(str(Path(__file__).with_name("digits.py")))["get_config"]
    config = digits("tiny" if mode.endswith("tiny") else "")
    # Three depths, so that the depth alone makes a space; stages narrower than in digits.py, so that it costs as much.
    config.supernet.update({"depths": (1, 2, 3), "stage_widths": (16, 24, 32), "widths": (0.25, 0.5, 0.75, 1.0)})
    config.report.title = "Handwritten digits: little and big trained apart"
    if mode.startswith("apart"):
        return config
    config.report.title = "Handwritten digits: little and big trained as pairs"
    return as_pairs(config)


def as_pairs(config: ConfigDict) -> ConfigDict:
    """A recipe of the sandwich rule, its nets trained as pairs."""
    config.supernet.coupled = True
    del config.train["sandwich_rule"]
    config.train.joint_rule = {
        **{"random_pairs": 1, "big": 1.0, "little": 1.0, "routing": 0.1, "consistency": 0.5},
        **{"temperature": 2.0, "distillation": True, "big_distillation": True, "router": "confidence"},
    }
    return config
