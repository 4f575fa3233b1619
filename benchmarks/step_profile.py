"""Where a training step's time goes: python benchmarks/step_profile.py --config=configs/cifar10.py[:tiny] [--batch N] [--quick].

Random images of the recipe's size take the recipe's sandwich step, with its mixing, precision, rematerialisation and phases (the
last, or `--phase`), at its largest resolution, on whatever backend is there. Said are: images per second;
the floor of a step, its operations over the peak rate and its bytes over the bandwidth, both measured in the same run by a
large matrix product and a large copy (or those published, with `--chip`), and the part of it reached; the time of each part,
jitted alone; and, from a trace, the share of every kind of operation and of every kind of layer. `--config.KEY=VALUE`
overrides the recipe, such as train.precision=bfloat16 or train.remat=blocks. Prints one JSON object.
"""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rates
import result
import step
import step_trace

from dynnas_jax import devices, job, sections, settings
from dynnas_jax.costs import macs
from dynnas_jax.data import augment, mixing
from dynnas_jax.data.splits import Split
from dynnas_jax.elastic import extract, init_supernet
from dynnas_jax.masking import mask_variables
from dynnas_jax.networks import template
from dynnas_jax.pipeline import keep_memory
from dynnas_jax.stages.train import rule_and_phases
from dynnas_jax.train import feed, loop, state
from dynnas_jax.train.step import make_step

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


def turn(function, values: tuple) -> tuple[float, float]:
    """What `step.take_turns` wants of a call; its processor time is not taken."""
    return rates.seconds(function, *values), 0.0


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


class Taken(NamedTuple):
    """The step that a recipe takes."""

    supernet: Any  # as it trains, at its largest resolution
    rule: Any  # of `sandwich.rule`
    phases: Any
    first_step: int  # of the phase
    transform: Any
    augmented: Any
    mix: Any
    precision: str
    remat: str


def build(asked, config: dict) -> Taken:
    """What the recipe's step is made of.

    Raises:
      ValueError: for a recipe that does not train by the sandwich rule, or a phase that it does not have.
    """
    train, facts = config["train"], facts_of(config["data"])
    if train.get("joint_rule"):
        raise ValueError("step_profile: the recipe trains by train.joint_rule, whose step has other parts")
    options = {**config["supernet"], "depthwise": asked.depthwise}
    supernet = job.build_supernet(options, facts)
    if "resolution" in supernet.space:
        # One resolution a step: the largest stands for all.
        supernet = job.build_supernet({**options, "resolutions": (facts["image_shape"][0],)}, facts)
    precision, remat = train.get("precision", "float32"), train.get("remat", "none")
    supernet = template.in_training(supernet, precision, remat)
    rules = train.get("sandwich_rule"), None, train.get("progressive_shrinking")
    rule, phases = rule_and_phases(supernet.space, train["steps"], *rules)
    if phases is not None and not -len(phases.first_step) <= asked.phase < len(phases.first_step):
        raise ValueError(f"--phase={asked.phase}: the recipe has {len(phases.first_step)} phases, from 0")
    starts = (0,) if phases is None else phases.starts
    augmented, mixed = config["data"].get("augment"), train.get("mixing")
    return Taken(
        supernet,
        rule,
        phases,
        0 if phases is None else int(phases.first_step[asked.phase]),
        state.optimizer(train["steps"], **(train.get("optimizer") or {}), starts=starts).transform,
        None if augmented is None else augment.rule(**augmented),
        mixing.rule(**mixed) if mixed else None,
        precision,
        remat,
    )


def smallest_part(taken: Taken, current, batch) -> tuple:
    """The smallest subnet as the step runs it: sliced, or masked where a phase says which is the smallest."""
    supernet, space = taken.supernet, taken.supernet.space
    if taken.phases is not None:
        least = jnp.asarray(taken.phases.on_host(taken.first_step).least)
        masked = gradient_of(supernet.largest_net(), functools.partial(mask_variables, supernet))
        return 1, masked, (current.variables, *batch, least)
    smallest = supernet.net(supernet.arch(space.smallest))
    sliced = gradient_of(smallest, lambda v: extract(supernet, v, space.smallest)[1])
    return 1, sliced, (current.variables, *batch)


def parts(taken: Taken, current, batch) -> dict:
    """{name: (times it stands in a step, function, its arguments)}"""
    supernet, transform = taken.supernet, taken.transform
    space, net, key = supernet.space, supernet.largest_net(), jax.random.key(0)
    images, labels = batch
    genome = jnp.asarray(space.sample(jax.random.key(1), 1)[0])
    forward = jax.jit(lambda v, x: net.apply(v, x, True, mutable=["batch_stats"])[0][0])
    found = {
        "largest, forward and backward": (
            1,
            gradient_of(net, lambda v: extract(supernet, v, space.largest)[1]),
            (current.variables, images, labels),
        ),
        "smallest, forward and backward": smallest_part(taken, current, batch),
        "random, masked, forward and backward": (
            taken.rule.options.random_subnets,
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
    if taken.augmented is not None:
        found["augmentation"] = (1, jax.jit(taken.augmented), (key, images))
    if taken.mix is not None:
        found["mixing"] = (1, jax.jit(taken.mix), (key, images, jax.nn.one_hot(labels, net.arch.classes)))
    return found


def input_s(images: np.ndarray, labels: np.ndarray, batch: int, runs: int) -> float:
    """Seconds the host takes to say which images of a split in memory a step reads; streams are not timed here."""
    split = Split(images, labels, np.arange(len(labels)))
    fed = feed.feed(split, batch, [range(i, i + 1) for i in range(runs + 1)], 0, devices.data_mesh(1))
    next(fed)
    return float(np.median([rates.seconds(lambda: jax.device_put(next(fed).indices)) for _ in range(runs)]))


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, help="images of a step; the recipe's by default")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--phase", type=int, default=-1, help="of progressive shrinking, from 0; the last by default")
    parser.add_argument("--depthwise", choices=("auto", "conv", "shifts"), default="auto")
    parser.add_argument("--chip", choices=sorted(rates.CHIPS), help="its published rates; measured by default")
    parser.add_argument("--quick", action="store_true", help="3 runs of at most 16 images")
    return parser.parse_known_args()


def work(taken: Taken, size: int) -> dict[str, int]:
    """Multiply-accumulates of a step, forward and backward (twice the forward): what subnets need, and what masked ones run."""
    supernet, space, random_subnets = taken.supernet, taken.supernet.space, taken.rule.options.random_subnets
    table, allowed = macs.table(supernet), None if taken.phases is None else taken.phases.on_host(taken.first_step)
    least = None if allowed is None else allowed.least
    largest, smallest = table.exact(space.largest), table.exact(space.smallest if least is None else least)
    drawn = np.mean([table.exact(np.asarray(genome)) for genome in space.sample(jax.random.key(2), 64, least)])
    masked = random_subnets + (allowed is not None)
    counted = random_subnets if allowed is None else int(allowed.random_subnets)
    return {
        "useful": round(3 * size * (largest + smallest + counted * drawn)),
        "run": 3 * size * ((1 + masked) * largest + (0 if allowed is not None else smallest)),
    }


def report(asked, config, taken: Taken, size, stepper, found, samples, batch) -> None:
    analysis, done = stepper.step.cost_analysis(), work(taken, size)
    medians = {name: 1e3 * float(np.median([wall for wall, _ in values])) for name, values in samples.items()}
    least = rates.floor(done["run"], analysis["bytes accessed"], asked.chip, taken.precision)
    host = input_s(np.asarray(batch[0]), np.asarray(batch[1]), size, 5)
    whole = medians["step"]
    rest = whole - sum(count * medians[name] for name, (count, _, _) in found.items())
    what = (
        f"sandwich step of {config['supernet']['network']}, {taken.rule.options.random_subnets} random subnets, "
        f"batch {size}, {batch[0].shape[1]} pixels, {taken.precision}, remat {taken.remat}, "
        f"{'mixed' if taken.mix else 'not mixed'}, "
        f"{'no phases' if taken.phases is None else f'the phase from step {taken.first_step} on'}"
    )
    memory = stepper.step.memory_analysis()
    facts = {
        "step": {**step.summary(samples["step"], size), "compile_s": round(stepper.compile_s, 1)},
        "macs_of_a_step": done,
        "by_XLA": {"operations": analysis["flops"], "bytes": analysis["bytes accessed"], "loops": "counted once"},
        "temporary_mb": round(memory.temp_size_in_bytes / 1e6, 1),
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
    config = settings.as_dict(settings.load(rest, sections.options))
    taken = build(asked, config)
    size = asked.batch or config["train"].get("batch_size", loop.BATCH_SIZE)
    size, runs = (min(size, 16), 3) if asked.quick else (size, asked.runs)
    batch = step.random_batch(taken.supernet.largest_net().arch, size)
    key, options = jax.random.key(0), {"augment": taken.augmented, "mix": taken.mix, "phases": taken.phases}
    variables = init_supernet(taken.supernet, key, batch[0].shape[1:])
    whole = make_step(taken.supernet, taken.rule, taken.transform, devices.data_mesh(1), **options)

    def run(current, images, labels):
        return whole(current, images, labels, None, key)[0], images, labels

    fresh = lambda variables: state.create(variables, taken.transform)._replace(step=jnp.int32(taken.first_step))  # noqa: E731
    stepper = step.Stepper(jax.jit(run, donate_argnums=0), (fresh(variables), *batch))
    found = parts(taken, fresh(jax.tree.map(jnp.copy, stepper.carry[0].variables)), batch)
    for _, function, values in found.values():
        jax.block_until_ready(function(*values))
    timed = {name: functools.partial(turn, function, values) for name, (_, function, values) in found.items()}
    samples = step.take_turns({"step": stepper, **timed}, runs)
    report(asked, config, taken, size, stepper, found, samples, batch)


if __name__ == "__main__":
    main()
