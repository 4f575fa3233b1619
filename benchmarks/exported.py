"""What a run's export and its test images are, for the benchmarks that put one through the other."""

import json
from pathlib import Path
from typing import NamedTuple

from dynnas_jax.data import sources
from dynnas_jax.data.resize import at_resolution
from dynnas_jax.data.splits import Split
from dynnas_jax.export import runtime
from dynnas_jax.workdir import read_config


class Exported(NamedTuple):
    """An export of a run, and the run's test images at the size that it takes."""

    folder: Path
    precisions: list[str]  # of the TFLite files in it
    test: Split


def read(workdir: Path, target: str | None = None, *, images: int | None = None) -> Exported:
    """Of the run in `workdir`, for the run's own target if none is named; all test images, or the first."""
    config = read_config(workdir)
    folder = workdir / "export" / (target or config["target"])
    files = json.loads((folder / "export.json").read_text())["files"].values()
    precisions = list(dict.fromkeys(fact["precision"] for fact in files if fact["path"].endswith(".tflite")))
    data = {name: value for name, value in config["data"].items() if name != "augment"}
    size = runtime.DynamicClassifier(folder).image_shape[0]
    return Exported(folder, precisions, at_resolution(sources.load(seed=config["seed"], **data).test[:images], size))
