"""How long training waits for streamed images: python benchmarks/streamed_input.py --config=configs/imagenet_ofa.py:tiny.

JPEGs of ImageNet's mean size are made in a folder of their own, and the recipe's step trains on them as in `dynnas run`:
decoded, cropped and resized by threads ahead of the steps. Said are, of the steps after the first, the share of the time that the
devices waited for their batch, and images per second; and how many images per second the threads give when nothing else runs.
`--config.KEY=VALUE` overrides the recipe. Prints one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import result
from photographs import JPEG_SHAPE, jpeg

from dynnas_jax import devices, job, sections, settings
from dynnas_jax.data import augment, mixing, sources, streams
from dynnas_jax.networks import template
from dynnas_jax.pipeline import keep_memory
from dynnas_jax.stages.train import rule_and_phases
from dynnas_jax.train import feed, loop

DISTINCT = 16  # pictures; every file holds one of them


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="files")
    parser.add_argument("--batch", type=int, help="images of a step; the recipe's by default")
    parser.add_argument("--threads", type=int, help="that decode; the recipe's by default")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--log_every", type=int, default=5, help="steps of one measurement; the first is left out")
    return parser.parse_known_args()


def write_folder(folder: Path, count: int) -> None:
    """A folder of images in two classes, as `data.sources` reads it."""
    pictures = [jpeg(np.random.default_rng(seed)) for seed in range(DISTINCT)]
    for number in range(count + 2):
        file = folder / ("train" if number < count else "test") / str(number % 2) / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pictures[number % DISTINCT])


def streamed(config: dict, threads: int | None) -> dict:
    """How the recipe streams, by so many threads where a number is given."""
    return {**(config["data"].get("stream") or {}), **({} if threads is None else {"threads": threads})}


def load(config: dict, folder: Path, stream: dict) -> sources.Dataset:
    """The folder's images."""
    data = config["data"]
    kept = {name: data[name] for name in ("image_size", "central_share", "mean", "std") if data.get(name)}
    return sources.load(str(folder), holdout=0, stream=stream, **kept)


def build(config: dict, images: sources.Dataset):
    """The recipe's supernet as it trains, at its largest resolution."""
    facts = job.facts_of(images)
    options = dict(config["supernet"])
    if "resolutions" in options:
        options["resolutions"] = (facts["image_shape"][0],)
    train = config["train"]
    precision, remat = train.get("precision", "float32"), train.get("remat", "none")
    return template.in_training(job.build_supernet(options, facts), precision, remat)


def alone_images_per_s(images: sources.Dataset, batch: int, steps: int) -> list[float]:
    """What the threads give, step after step, when nobody else computes."""
    plan = [range(step, step + 1) for step in range(steps + 1)]
    batches = feed.feed(images.train, batch, plan, 0, devices.data_mesh(1))
    next(batches)
    speeds, start = [], time.perf_counter()
    for _ in batches:
        now = time.perf_counter()
        speeds.append(batch / (now - start))
        start = now
    return speeds


def trained(config: dict, images: sources.Dataset, batch: int, asked, directory: Path) -> list[dict]:
    """The logged rows of a training, without the first, which compiles."""
    train, augmented, supernet = config["train"], config["data"].get("augment"), build(config, images)
    # The phases make a step dearer: the smallest subnet of one is masked too. All of them pass in these steps.
    rules = (train.get(name) for name in ("sandwich_rule", "joint_rule", "progressive_shrinking"))
    rule, phases = rule_and_phases(supernet.space, asked.steps, *rules)
    loop.fit(
        supernet,
        images.train,
        rule,
        steps=asked.steps,
        batch_size=batch,
        optimizer=train.get("optimizer"),
        augment=augment.rule(**augmented) if augmented is not None else None,
        mix=mixing.rule(**train["mixing"]) if train.get("mixing") else None,
        phases=phases,
        directory=directory,
        checkpoint_every=10 * asked.steps,
        log_every=asked.log_every,
        trackers=(),
    )
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["step"] > asked.log_every]


def main() -> None:
    asked, rest = arguments()
    if asked.steps <= asked.log_every:
        raise SystemExit(f"--steps={asked.steps} must exceed --log_every={asked.log_every}")
    keep_memory()
    config = settings.as_dict(settings.load(rest, sections.options))
    batch = asked.batch or config["train"].get("batch_size", loop.BATCH_SIZE)
    stream = streamed(config, asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder) / "photos", max(asked.images, batch))
        images = load(config, Path(folder) / "photos", stream)
        alone = alone_images_per_s(images, batch, min(asked.steps, 20))
        rows = trained(config, images, batch, asked, Path(folder) / "run")
    height, width = JPEG_SHAPE[:2]
    figures = {
        "threads": streams.rule(**stream)[0],
        "wait_share": result.ratios([row["wait_share"] for row in rows], 4),
        "images_per_s": result.ratios([row["images_per_s"] for row in rows], 1),
        "threads_alone_images_per_s": result.ratios(alone, 1),
    }
    side = images.train.images.shape[1]
    result.show(f"streamed JPEGs of {width} x {height}, to {side} pixels, batch {batch}", figures)


if __name__ == "__main__":
    main()
