"""Time each augmentation: python benchmarks/augmentation.py [--sides 32 224] [--batch 128] [--runs 7].

Milliseconds for a batch, jitted: the images one after another (the form for a CPU) and all at once (that for an
accelerator). All take turns, so that what else runs on the machine meets them alike. Prints one JSON object.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import result

from dynnas_jax.data import augment, mixing, randaugment
from dynnas_jax.pipeline import keep_memory

OFF = {"pad": 0, "flip": False}
RULES = {
    "pad and flip": {"pad": 4, "flip": True},
    "cutout": {**OFF, "cutout": 8},
    "affine": {**OFF, "rotate": 15.0, "zoom": 0.1, "shift": 2.0},
    "resized crop": {**OFF, "crop_scale": (0.08, 1.0)},
    "brightness": {**OFF, "brightness": 0.4},
    "contrast": {**OFF, "contrast": 0.4},
    "saturation": {**OFF, "saturation": 0.4},
    "hue": {**OFF, "hue": 0.1},
    "colour jitter": {**OFF, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "RandAugment 1": {**OFF, "operations": 1},
    "RandAugment 2": {**OFF, "operations": 2},
}
MIXES = {"mixup": {"mixup": 0.2}, "cutmix": {"cutmix": 1.0}}


def programs() -> dict:
    """Every augmentation as f(key, images) -> images, by name."""
    found = {name: augment.rule(**options) for name, options in RULES.items()}
    for name, options in MIXES.items():
        mix = mixing.rule(**options)
        found[name] = lambda key, images, mix=mix: mix(key, images, jnp.eye(len(images)))
    for name, operation in randaugment.OPERATIONS.items():
        one = lambda key, image, run=operation: run(image, 0.9 * jax.random.rademacher(key, (), jnp.float32))  # noqa: E731
        found[f"operation {name}"] = lambda key, images, one=one: augment.each(one, key, images)
    return found


def compiled(images, backend: str) -> dict:
    """Each program for these images, as `augment.each` would have it if the backend were another; it runs on this one."""
    real, found = jax.default_backend, {}
    jax.default_backend = lambda: backend
    for name, program in programs().items():
        found[name] = jax.jit(program).lower(jax.random.key(0), images).compile()
    jax.default_backend = real
    return found


def measure(side: int, batch: int, runs: int) -> dict:
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))
    forms = {"one after another": compiled(images, "cpu"), "all at once": compiled(images, "gpu")}
    samples = {name: {form: [] for form in forms} for name in forms["all at once"]}
    for turn in range(runs + 1):
        for name, times in samples.items():
            for form, made in forms.items():
                start = time.perf_counter()
                jax.block_until_ready(made[name](jax.random.key(turn), images))
                times[form].append(time.perf_counter() - start)
    return {
        name: {form: result.times(1e3 * np.asarray(values[1:]), "ms", 2) for form, values in times.items()}
        for name, times in samples.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--runs", type=int, default=7)
    asked = parser.parse_args()
    keep_memory()
    found = {f"{side} pixels": measure(side, asked.batch, asked.runs) for side in asked.sides}
    result.show(f"augmentations of a batch of {asked.batch} RGB images", {"results": found})


if __name__ == "__main__":
    main()
