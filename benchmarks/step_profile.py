"""Where a training step's time goes: python benchmarks/step_profile.py --config=configs/cifar10.py[:tiny] [--batch N] [--quick].

Random images of the recipe's size take the recipe's sandwich step, on whatever backend is there. Said are: images per second;
the floor of a step, its operations over the peak rate and its bytes over the bandwidth, both measured in the same run by a
large matrix product and a large copy (or those published, with `--chip`), and the part of it reached; the time of each part,
jitted alone; and, from a trace, the share of every kind of operation and of every kind of layer. `--config.KEY=VALUE`
overrides the recipe. Prints one JSON object.
"""

import argparse
import functools
import time

import chips
import jax
import jax.numpy as jnp
import numpy as np
import optax
import result
import step
import step_trace

from dynnas_jax import devices, job, settings
from dynnas_jax.costs import macs
from dynnas_jax.data import augment
from dynnas_jax.data.splits import Split
from dynnas_jax.elastic import extract, init_supernet
from dynnas_jax.masking import mask_variables
from dynnas_jax.pipeline import keep_memory
from dynnas_jax.train import feed, loop, sandwich, state
from dynnas_jax.train.step import make_step

CHIPS = {"v5e": chips.V5E, "h100": chips.H100}
# (side, channels, classes) of the images of data sets, as far as a recipe does not say.
IMAGES = {"digits": (8, 1, 10), "cifar10": (32, 3, 10), "cifar100": (32, 3, 100), "imagenet2012": (224, 3, 1000)}


def facts_of(data: dict) -> dict:
    """What `job.build_supernet` must know of a recipe's images, without reading them."""
    if data["name"] not in IMAGES:
        raise ValueError(f"step_profile: images of {data['name']!r} are not known, choose a recipe of {sorted(IMAGES)}")
    side, channels, classes = IMAGES[data["name"]]
    side = data.get("image_size") or side
    ends = {name: list(data.get(name) or [0.5] * channels) for name in ("mean", "std")}
    return {"image_shape": [side, side, channels], "classes": [str(i) for i in range(classes)], **ends}


def peak_ops_per_s(dtype: str) -> float:
    """Operations per second, two per multiply-accumulate, of a large matrix product, at best."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((side, side), dtype)
    return 2 * side**3 / least_s(jax.jit(jnp.matmul), a, a)


def bandwidth_bytes_per_s() -> float:
    """Bytes read and written per second by a large copy, at best."""
    array = jnp.ones((2**26 if jax.default_backend() == "cpu" else 2**28,), jnp.float32)
    return 2 * array.nbytes / least_s(jax.jit(lambda x: x + 1), array)


def least_s(function, *arguments, runs: int = 5) -> float:
    jax.block_until_ready(function(*arguments))
    return min(seconds(function, *arguments) for _ in range(runs))


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def turn(function, values: tuple) -> tuple[float, float]:
    """What `step.take_turns` wants of a call; its processor time is not taken."""
    return seconds(function, *values), 0.0


def gradient_of(net, prepare):
    """(variables, images, labels, whatever `prepare` takes) -> the gradient of the loss, and the running statistics."""

    def loss(params, stats, images, labels, *chosen):
        variables = prepare({"params": params, "batch_stats": stats}, *chosen)
        (logits, _), updated = net.apply(variables, images, True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

    gradient = jax.grad(loss, has_aux=True)
    return jax.jit(lambda v, *rest: gradient(v["params"], v["batch_stats"], *rest))


def moved(transform, current, gradient):
    """What the optimizer and the average of the params make of a gradient."""
    params = current.variables["params"]
    moves, optimizer = transform.update(gradient, current.optimizer, params)
    params = optax.apply_updates(params, moves)
    return params, optimizer, jax.tree.map(lambda old, new: 0.999 * old + 0.001 * new, current.ema, params)


def parts(supernet, current, batch, transform, augmented, random_subnets: int) -> dict:
    """{name: (times it stands in a step, function, its arguments)}"""
    space, net, key = supernet.space, supernet.largest_net(), jax.random.key(0)
    images, labels = batch
    genome = jnp.asarray(space.sample(jax.random.key(1), 1)[0])
    smallest = supernet.net(supernet.arch(space.smallest))
    forward = jax.jit(lambda v, x: net.apply(v, x, True, mutable=["batch_stats"])[0][0])
    found = {
        "largest, forward and backward": (
            1,
            gradient_of(net, lambda v: extract(supernet, v, space.largest)[1]),
            (current.variables, images, labels),
        ),
        "smallest, forward and backward": (
            1,
            gradient_of(smallest, lambda v: extract(supernet, v, space.smallest)[1]),
            (current.variables, images, labels),
        ),
        "random, masked, forward and backward": (
            random_subnets,
            gradient_of(net, functools.partial(mask_variables, supernet)),
            (current.variables, images, labels, genome),
        ),
        "optimizer and average": (
            1,
            jax.jit(functools.partial(moved, transform)),
            (current, current.variables["params"]),
        ),
        "largest, forward (of the above)": (0, forward, (current.variables, images)),
    }
    if augmented is not None:
        found["augmentation"] = (1, jax.jit(augmented), (key, images))
    return found


def input_s(images: np.ndarray, labels: np.ndarray, batch: int, runs: int) -> float:
    """Seconds the host takes to say which images of a split in memory a step reads; streams are not timed here."""
    split = Split(images, labels, np.arange(len(labels)))
    fed = feed.feed(split, batch, [range(i, i + 1) for i in range(runs + 1)], 0, devices.data_mesh(1))
    next(fed)
    return float(np.median([seconds(lambda: jax.device_put(next(fed).indices)) for _ in range(runs)]))


def floor(executed_macs: int, bytes_accessed: float, asked) -> dict:
    """The least time of a step by its operations and by its bytes, and the rates they are divided by."""
    chip = CHIPS.get(asked.chip)
    peak = chip.matrix_flops[asked.precision] if chip else peak_ops_per_s(asked.precision)
    bandwidth = chip.memory_bytes_per_s if chip else bandwidth_bytes_per_s()
    return {
        "rates": f"published, {asked.chip}" if chip else "measured",
        "peak_gops_per_s": round(peak / 1e9, 1),
        "bandwidth_gb_per_s": round(bandwidth / 1e9, 2),
        "by_operations_ms": round(2e3 * executed_macs / peak, 3),
        "by_bytes_ms": round(1e3 * bytes_accessed / bandwidth, 3),
    }


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, help="images of a step; the recipe's by default")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--depthwise", choices=("auto", "conv", "shifts"), default="auto")
    parser.add_argument("--chip", choices=sorted(CHIPS), help="its published rates; measured by default")
    parser.add_argument("--quick", action="store_true", help="3 runs of at most 16 images")
    return parser.parse_known_args()


def build(asked, config: dict):
    """The recipe's supernet in the precision asked for, its augmentation, and a batch."""
    facts = facts_of(config["data"])
    supernet = job.build_supernet({**config["supernet"], "depthwise": asked.depthwise}, facts)
    if "resolution" in supernet.space:
        # One resolution a step: the largest stands for all.
        options = {**config["supernet"], "depthwise": asked.depthwise, "resolutions": (facts["image_shape"][0],)}
        supernet = job.build_supernet(options, facts)
    supernet = step.in_precision(supernet, asked.precision)
    options = config["data"].get("augment")
    batch = asked.batch or config["train"].get("batch_size", loop.BATCH_SIZE)
    batch = min(batch, 16) if asked.quick else batch
    return (
        supernet,
        None if options is None else augment.rule(**options),
        step.random_batch(supernet.largest_net().arch, batch),
    )


def work(supernet, size: int, random_subnets: int) -> dict[str, int]:
    """Multiply-accumulates of a step, forward and backward (twice the forward): what subnets need, and what masked ones run."""
    table, space = macs.table(supernet), supernet.space
    ends = [table.exact(space.largest), table.exact(space.smallest)]
    drawn = np.mean([table.exact(np.asarray(genome)) for genome in space.sample(jax.random.key(2), 64)])
    return {
        "useful": round(3 * size * (sum(ends) + random_subnets * drawn)),
        "run": 3 * size * (sum(ends) + random_subnets * ends[0]),
    }


def report(asked, config, supernet, size, stepper, found, samples, batch) -> None:
    subnets = found["random, masked, forward and backward"][0]
    analysis, done = stepper.step.cost_analysis(), work(supernet, size, subnets)
    medians = {name: 1e3 * float(np.median([wall for wall, _ in values])) for name, values in samples.items()}
    least = floor(done["run"], analysis["bytes accessed"], asked)
    host = input_s(np.asarray(batch[0]), np.asarray(batch[1]), size, 5)
    whole = medians["step"]
    rest = whole - sum(count * medians[name] for name, (count, _, _) in found.items())
    what = (
        f"sandwich step of {config['supernet']['network']}, {subnets} random subnets, batch {size}, "
        f"{batch[0].shape[1]} pixels, {asked.precision}"
    )
    facts = {
        "step": {**step.summary(samples["step"], size), "compile_s": round(stepper.compile_s, 1)},
        "macs_of_a_step": done,
        "by_XLA": {"operations": analysis["flops"], "bytes": analysis["bytes accessed"], "loops": "counted once"},
        "floor": least,
        "fraction_of_floor": {
            "operations": round(least["by_operations_ms"] / whole, 3),
            "useful operations": round(least["by_operations_ms"] * done["useful"] / done["run"] / whole, 3),
            "bytes": round(least["by_bytes_ms"] / whole, 3),
        },
        "parts": {
            name: {"times": count, "ms": round(medians[name], 2), "share": round(count * medians[name] / whole, 3)}
            for name, (count, _, _) in found.items()
        },
        "step_less_parts_ms": round(rest, 2),
        "host_gives_indices_ms": round(1e3 * host, 3),
        "trace": step_trace.shares(stepper.advance, 1 if asked.quick else 3, stepper.step.as_text()),
    }
    result.show(what, facts)


def main() -> None:
    asked, rest = arguments()
    keep_memory()
    config = settings.as_dict(settings.load(rest))
    supernet, augmented, batch = build(asked, config)
    size, runs = len(batch[1]), 3 if asked.quick else asked.runs
    options = config["train"].get("sandwich_rule") or {}
    transform = state.optimizer(10_000, **(config["train"].get("optimizer") or {})).transform
    key = jax.random.key(0)
    variables = init_supernet(supernet, key, batch[0].shape[1:])
    whole = make_step(supernet, sandwich.rule(**options), transform, devices.data_mesh(1), augment=augmented)

    def run(current, images, labels):
        return whole(current, images, labels, None, key)[0], images, labels

    stepper = step.Stepper(jax.jit(run, donate_argnums=0), (state.create(variables, transform), *batch))
    found = parts(
        supernet,
        state.create(jax.tree.map(jnp.copy, stepper.carry[0].variables), transform),
        batch,
        transform,
        augmented,
        options.get("random_subnets", sandwich.RANDOM_SUBNETS),
    )
    for _, function, values in found.values():
        jax.block_until_ready(function(*values))
    timed = {name: functools.partial(turn, function, values) for name, (_, function, values) in found.items()}
    samples = step.take_turns({"step": stepper, **timed}, runs)
    report(asked, config, supernet, size, stepper, found, samples, batch)


if __name__ == "__main__":
    main()
