"""Studies of one row kind: a recipe of a few seconds, and a stand-in for the process of a run."""

from pathlib import Path
from types import SimpleNamespace

import pytest

STUDY = """
from ml_collections import ConfigDict


def get_config(mode=""):
    config = ConfigDict()
    config.title, config.seeds = "A tiny study", (0, 1)
    config.rows = (
        {{"name": "base", "recipe": "recipe.py", "tables": {{"main": "the pair", "routers": "confidence"}}}},
        {rows}
    )
    return config
"""
STEM = """{"name": "stem", "recipe": "recipe.py", "tables": {"routers": "stem"}, "stages": ("train", "collect", "search"),
         "overrides": ("dynamic.router=difficulty", "dynamic.router_place=stem")},"""
CASCADE = """{"name": "both", "recipe": "cascade.py", "tables": {"main": "cascade"},
         "overrides": ("cascade.little={base}", "cascade.big={stem}")},"""
RECIPE = """
from ml_collections import ConfigDict


def get_config(mode=""):
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "digits", "holdout": 100, "train_limit": 400, "test_limit": 96, "augment": {"pad": 1}}
    config.dynamic = {"max_macs_fraction": 0.99}
"""
SUPERNET = """    config.supernet = {
        "network": "small_images", "stem": 8, "stage_widths": (8, 8), "stage_strides": (1, 2), "head": 16,
        "depths": (1, 2), "kernels": (3,), "expands": (1, 2),
    }
    config.train = {"steps": 6, "batch_size": 64, "optimizer": {"learning_rate": 0.1}, "sandwich_rule": {"random_subnets": 1}}
    config.collect = {"subnets": 16, "calibration_images": 64}
    config.export = {"calibration_images": 16}
    return config
"""
OF_CASCADE = """    from ml_collections.config_dict import placeholder

    config.cascade = {"little": placeholder(str), "big": placeholder(str)}
    return config
"""


@pytest.fixture
def rows():
    """Two rows beside the first one: another router of the same pair, and a cascade of both."""
    return SimpleNamespace(stem=STEM, cascade=CASCADE)


@pytest.fixture
def study(tmp_path):
    """study(rows): the argument that names a study with a row "base", and these; its recipes stand beside it."""

    def write(rows: str = STEM + CASCADE) -> list[str]:
        (tmp_path / "recipe.py").write_text(RECIPE + SUPERNET)
        (tmp_path / "cascade.py").write_text(RECIPE + OF_CASCADE)
        (tmp_path / "study.py").write_text(STUDY.format(rows=rows))
        return [f"--config={tmp_path / 'study.py'}"]

    return write


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where the study works; not there yet."""
    return tmp_path / "W"
