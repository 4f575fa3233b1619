"""Every recipe's space exported untrained for every target: python benchmarks/untrained_exports.py [RECIPE[:MODE] ...].

The pair of a recipe's smallest and largest subnet, with random weights and statistics of random images, goes through the whole
export of each target, whose checks fail it: operators and their versions, memory, MACs, fp32 outputs against JAX's. Prints a row
of a table for each recipe and target, and exits with 1 if one failed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from dynnas_jax import elastic, job, pipeline, settings
from dynnas_jax.data import sources, splits
from dynnas_jax.export import dynamic, targets
from dynnas_jax.stages import export
from dynnas_jax.train import calibration
from dynnas_jax.workdir import Workdir, write_json

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Side, channels and classes of the images; the side of photos is the recipe's.
IMAGES = {
    "digits": (8, 1, 10),
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "imagenet100_at32": (32, 3, 100),
    "imagenet100": (None, 3, 100),
    "imagenet2012": (None, 3, 1000),
    "visual_wake_words": (None, 3, 2),
}
RECIPES = ("digits", "cifar10", "cifar100", "imagenet100_at32", "imagenet100", "imagenet_ofa", "visual_wake_words")
COUNT = 16  # random images for statistics, scales and comparisons


def random_images(config: dict) -> sources.Dataset:
    side, channels, classes = IMAGES[config["data"]["name"]]
    side, generator = side or config["data"]["image_size"], np.random.default_rng(0)
    # Coarse patches, since noise alone gives every image the same statistics.
    coarse = generator.integers(0, 256, (COUNT, 4, 4, channels))
    rows = np.arange(side) * 4 // side
    images = coarse[:, rows][:, :, rows].astype(np.uint8)
    labels = np.arange(COUNT, dtype=np.int32) % classes
    split = splits.Split(images, labels, np.arange(COUNT))
    names = tuple(f"class {i}" for i in range(classes))
    return sources.Dataset(config["data"]["name"], split, split, split, names, (0.5,) * channels, (0.25,) * channels)


def untrained(config: dict, path: Path) -> job.Job:
    """A job whose search is as if it had found the smallest and the largest subnet."""
    images = random_images(config)
    supernet = job.build(config, job.facts_of(images))
    shape = images.train.images.shape[1:]
    variables = elastic.init_supernet(supernet, jax.random.key(0), shape)
    smallest, largest = supernet.space.smallest, supernet.space.largest
    if "resolution" in supernet.space:
        smallest[supernet.space.index("resolution")] = largest[supernet.space.index("resolution")]
    genomes, batches = {"little": smallest, "big": largest}, images.train.images[None]
    own = {w: calibration.extract_calibrated(supernet, variables, g, batches)[1] for w, g in genomes.items()}
    pair = {which: {"genome": supernet.space.to_json(genome)} for which, genome in genomes.items()}
    workdir = Workdir(path, pipeline.STAGES, config, {})
    folder = workdir.folder("search")
    folder.mkdir(parents=True)
    write_json(folder / "found.json", {"pair": {**pair, "thresholds": [0.5], "score": "max_softmax"}})
    job.save_variables(folder / "pair.msgpack", own)
    return job.Job(workdir, images, supernet, config["dynamic"], None, config["target"], config["seed"])


def exported(recipe: str, target: str) -> dict:
    """What the files of one recipe for one target are, or why there are none."""
    name, _, mode = recipe.partition(":")
    arguments = [f"--config={CONFIGS / name}.py{':' if mode else ''}{mode}", f"--config.target={target}"]
    config = settings.as_dict(settings.load(arguments))
    with tempfile.TemporaryDirectory() as scratch:
        prepared = untrained(config, Path(scratch) / "run")
        network, promise = export.promised(prepared)
        images = prepared.images.train.images
        if images.shape[1] != network.image_shape[0]:
            rows = np.arange(network.image_shape[0]) * images.shape[1] // network.image_shape[0]
            images = images[:, rows][:, :, rows]
        with dynamic.all_or_nothing(Path(scratch) / target) as folder:
            return dynamic.export(network, promise, folder, target=target, calibration=images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", help="such as cifar10:tiny; all in both modes if none is named")
    parser.add_argument("--targets", nargs="+", choices=list(targets.TARGETS), default=list(targets.TARGETS))
    known = parser.parse_args()
    recipes = known.recipes or [f"{name}{mode}" for name in RECIPES for mode in ("", ":tiny")]
    failed = 0
    print("| recipe | target | files | KiB | big's MACs (M) | fp32 differs by | warnings | s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for recipe, target in ((recipe, target) for recipe in recipes for target in known.targets):
        begin_s = time.monotonic()
        try:
            facts = exported(recipe, target)
        except ValueError as error:
            failed += 1
            print(f"| {recipe} | {target} | FAILED: {error} | | | | | |", flush=True)
            continue
        files = {fact["path"]: fact["size_bytes"] for fact in facts.values()}
        worst = max((f["max_logit_difference"] for f in facts.values() if f["precision"] == "fp32"), default=None)
        warnings = sorted({warning["rule"] for fact in facts.values() for warning in fact.get("warnings", ())})
        row = [recipe, target, len(files), f"{sum(files.values()) / 1024:.0f}"]
        row += [f"{max(fact['macs'] for fact in facts.values()) / 1e6:.2f}", "" if worst is None else f"{worst:.1e}"]
        row += [", ".join(warnings), f"{time.monotonic() - begin_s:.0f}"]
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
