"""Predict a training step on many chips: python benchmarks/scaling.py --config=configs/imagenet_ofa.py:pod --devices=8.

The recipe's step is lowered from shapes alone and compiled for N pretended CPU devices (--devices=8 or 256); what they tell each
other, what each keeps and computes is read from the partitioned program of one device. From that and the published rates of the
chips (benchmarks/chips.py) follow step time and efficiency: predictions, not measurements. Prints one JSON object.
"""

import argparse
import collections
import math
import time
from typing import NamedTuple

import chips
import hlo
import jax
import jax.numpy as jnp
import result
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from photographs import decode_s

from dynnas_jax import devices, elastic, job, settings
from dynnas_jax.costs import macs
from dynnas_jax.data import augment, mixing
from dynnas_jax.networks import template
from dynnas_jax.stages.train import rule_and_phases
from dynnas_jax.train import loop, state

# Pixels, classes and training images of the datasets whose recipes can be asked for; pixels as the recipe says where None.
DATASETS = {"cifar10": (32, 10, 50_000), "imagenet2012": (None, 1000, 1_281_167)}
# Only the partitioned program is wanted, not fast code.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def lowered_step(
    supernet, rule, mesh: Mesh, batch: int, image_shape, *, in_memory: int | None, steps: int = 100, **options
):
    """The training step of `options` (those of `make_step`) for a mesh, lowered from shapes; nothing is allocated.

    Args:
      in_memory: images of a split that lies whole on every device, from which a step takes its batch; None: streamed.
      steps: of the whole training, for its schedule.
      steps_per_call: of images in memory.
    """
    resolution, together = options.pop("resolution", None), options.pop("steps_per_call", 1)
    phases, optimizer = options.get("phases"), options.pop("optimizer", {})
    transform = state.optimizer(steps, **optimizer, starts=(0,) if phases is None else phases.starts).transform
    step = loop.make_step(supernet, rule, transform, mesh, **options)
    whole, part = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (devices.DATA,)))

    def placed(tree, sharding):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    key = jax.eval_shape(lambda: jax.random.key(0))
    fresh = lambda key: state.create(elastic.init_supernet(supernet, key, image_shape), transform)  # noqa: E731 - traced
    count = batch if in_memory is None else in_memory
    images = jax.ShapeDtypeStruct((count, *image_shape), jnp.uint8), jax.ShapeDtypeStruct((count,), jnp.int32)
    rows = (batch,) if together == 1 else (together, batch)
    indices = None if in_memory is None else jax.ShapeDtypeStruct(rows, jnp.int32)
    data = placed(images, part if in_memory is None else whole)
    current, key = placed((jax.eval_shape(fresh, key), key), whole)
    return step.lower(current, *data, indices, key, None, resolution=resolution)


def parts_of(config: dict) -> tuple:
    """(supernet, rule, keyword arguments of `lowered_step`) of a recipe. Raises ValueError for a dataset that is not known."""
    data, train = config["data"], config["train"]
    if data["name"] not in DATASETS:
        raise ValueError(f"data.name is {data['name']!r}, choose a recipe of {list(DATASETS)}")
    pixels, classes, count = DATASETS[data["name"]]
    pixels = data.get("image_size") or pixels
    moments = ((data.get(name) or (0.5,) * 3) for name in ("mean", "std"))
    facts = {
        "image_shape": (pixels, pixels, 3),
        "classes": range(classes),
        **dict(zip(("mean", "std"), moments, strict=True)),
    }
    supernet = job.build_supernet({**config["supernet"], "depthwise": "conv"}, facts)
    supernet = template.in_training(supernet, train.get("precision", "float32"), train.get("remat", "none"))
    shrinking = train.get("progressive_shrinking")
    rules = train.get("sandwich_rule"), train.get("joint_rule"), shrinking
    rule, phases = rule_and_phases(supernet.space, train["steps"], *rules)
    options = {
        "image_shape": facts["image_shape"],
        "in_memory": None if data.get("stream") else count - data.get("holdout", 0),
        "steps": train["steps"],
        "optimizer": train.get("optimizer") or {},
        "augment": augment.rule(**data["augment"]) if "augment" in data else None,
        "mix": mixing.rule(**train["mixing"]) if train.get("mixing") else None,
        "ema_decay": train["ema_decay"],
        "phases": phases,
    }
    return supernet, rule, options


def nets_of_step(supernet, config: dict) -> list[tuple]:
    """(net, how often) of a step's sandwich, at the most: those of any phase; masked subnets cost what the largest does."""
    subnets = config["train"].get("sandwich_rule", {}).get("random_subnets", 2)
    largest, smallest = (
        supernet.net(supernet.arch(genome)) for genome in (supernet.space.largest, supernet.space.smallest)
    )
    if config["train"].get("progressive_shrinking") is not None:
        return [(largest, 2 + subnets)]
    return [(largest, 1 + subnets), (smallest, 1)]


def kept_bytes(net, resolution: int) -> int:
    """What the gradient of a net keeps of one image, as JAX asks for it; a compiler may compute some of it again."""

    def kept(images):
        shape = jax.ShapeDtypeStruct((images, resolution, resolution, 3), jnp.uint8)
        variables = jax.eval_shape(net.init, jax.random.key(0), shape)

        def backward(variables, batch):
            stats = variables["batch_stats"]
            logits = lambda p: net.apply({"params": p, "batch_stats": stats}, batch, True, mutable=["batch_stats"])  # noqa: E731
            return jax.vjp(logits, variables["params"])[1]

        return sum(
            math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(backward, variables, shape))
        )

    return kept(2) - kept(1)


def purpose(collective: hlo.Collective) -> str:
    """What an exchange is for; batch norms are the only modules of a net that exchange anything."""
    if "shard_map" not in collective.made_by:
        return "images"
    return "batch statistics" if "norm" in collective.made_by else "gradient and metrics"


def table(collectives: list[hlo.Collective]) -> dict:
    """Number and bytes of exchanges by kind and purpose."""
    found = collections.defaultdict(lambda: {"count": 0, "megabytes": 0.0})
    for collective in collectives:
        row = found[f"{collective.kind}: {purpose(collective)}"]
        row["count"] += 1
        row["megabytes"] += collective.size_bytes / 1e6
    return {name: {**row, "megabytes": round(row["megabytes"], 3)} for name, row in sorted(found.items())}


class Step(NamedTuple):
    """What a prediction needs of a program."""

    nets: list[tuple[list[chips.Layer], int]]  # the layers of each net, and how often it runs
    collectives: list[hlo.Collective]
    decode_s: float  # of one image on one core
    params: int
    kept_bytes: dict[str, int]  # of one image, by what the net computes in


def predicted(where: chips.Slice, step: Step, images: int, *, dtype: str = "float32", syncs: float = 1.0) -> dict:
    """One step on a slice with `images` a chip; `syncs` is the share of the batch statistics' exchanges that is left."""
    compute, exposed = collections.Counter(), collections.Counter()
    for net, times in step.nets:
        compute.update(
            {kind: times * seconds for kind, seconds in chips.compute_s(where.chip, net, images, dtype).items()}
        )
    compute["optimizer"] = chips.optimizer_s(where.chip, step.params)
    for collective in step.collectives:
        share = syncs if purpose(collective) == "batch statistics" else 1.0
        exposed[purpose(collective)] += share * chips.collective_s(where, collective)
    busy = compute.total() + exposed.total()
    wait = max(0.0, images * step.decode_s / where.cores - busy)
    kept = images * step.kept_bytes[dtype]
    in_ms = lambda parts: {kind: round(1e3 * seconds, 2) for kind, seconds in parts.items()}  # noqa: E731 - one line says it all
    return {
        "step_ms": round(1e3 * (busy + wait), 2),
        "images_per_s": round(images * where.devices / (busy + wait)),
        "efficiency": round(compute.total() / (busy + wait), 3),
        "compute_ms": in_ms(compute),
        "communication_ms": in_ms(exposed),
        "input_wait_ms": round(1e3 * wait, 2),
        "cores_decoding": round(images * where.devices * step.decode_s / (busy + wait), 1),
        "fits": kept < where.chip.memory_bytes,
    }


CHANGES = {
    "as it is": {},
    "bfloat16 activations": {"dtype": "bfloat16"},
    "half the exchanges of batch statistics": {"syncs": 0.5},
    "both": {"dtype": "bfloat16", "syncs": 0.5},
}


def predictions(devices: int, step: Step, images: int) -> dict:
    """By slice, images a chip and change of the program."""
    found = {}
    for name, where in chips.SLICES.items():
        for batch in (max(1, images // 4), images, 4 * images) if where.devices == devices else ():
            found[f"{name}, {batch} images a chip"] = {
                change: predicted(where, step, batch, **options) for change, options in CHANGES.items()
            }
    return found


def arguments() -> tuple[argparse.Namespace, dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--devices", type=int, choices=(8, 256), default=8)
    parser.add_argument("--batch_per_device", type=int, help="the recipe's batch over the devices by default")
    parser.add_argument("--resolution", type=int, help="the largest by default")
    parser.add_argument("--hlo", help="a file for the partitioned program's text")
    asked, rest = parser.parse_known_args()
    return asked, settings.as_dict(settings.load([f"--config={asked.config}", *rest]))


def main() -> None:
    asked, config = arguments()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", asked.devices)
    supernet, rule, options = parts_of(config)
    whole = options["image_shape"][0]
    resolution, images = (
        asked.resolution or whole,
        asked.batch_per_device or config["train"]["batch_size"] // asked.devices,
    )
    mesh = devices.data_mesh(asked.devices)
    start = time.perf_counter()
    real = jax.default_backend
    jax.default_backend = lambda: "tpu"  # the augmentations as accelerators have them, see `augment.each`
    step_options = options | {"resolution": None if resolution == whole else resolution}
    lowered = lowered_step(supernet, rule, mesh, images * asked.devices, **step_options)
    jax.default_backend = real
    middle = time.perf_counter()
    compiled = lowered.compile(compiler_options=QUICK)
    seconds = {"lower_s": round(middle - start, 1), "compile_s": round(time.perf_counter() - middle, 1)}
    if asked.hlo:
        with open(asked.hlo, "w") as file:
            file.write(compiled.as_text())
    report(asked, config, supernet, compiled, resolution, images, seconds)


def report(asked, config, supernet, compiled, resolution: int, images: int, seconds: dict) -> None:
    shape, collectives = (resolution, resolution, 3), hlo.collectives(compiled.as_text())
    nets = nets_of_step(supernet, config)
    layers = [(chips.layers(net, shape), times) for net, times in nets]
    counted = [sum(layer.macs for layer in net) for net, _ in layers]
    costs = [macs.net_cost(net, shape) for net, _ in nets]
    if counted != [count for count, _ in costs]:
        raise ValueError(f"benchmarks/chips.py finds {counted} MACs, dynnas_jax.costs {costs}")
    image_s = decode_s(config["data"].get("image_size")) if config["data"].get("stream") else 0.0
    kept = {
        dtype: kept_bytes(template.in_training(supernet, dtype, "none").largest_net(), resolution)
        for dtype in chips.WIDTH_BYTES
    }
    stats, step = (
        compiled.memory_analysis(),
        Step(layers, collectives, image_s, costs[0][1], kept),
    )
    per_image = sum(times * count for (_, times), count in zip(nets, counted, strict=True))
    facts = {
        "asked": {
            "config": asked.config,
            "devices": asked.devices,
            "images_per_device": images,
            "resolution": resolution,
        },
        **seconds,
        "collectives_of_a_device": table(collectives),
        "memory_of_a_device_megabytes": {
            "arguments": round(stats.argument_size_in_bytes / 1e6, 1),
            "outputs, in their place": round(stats.output_size_in_bytes / 1e6, 1),
            "temporaries of the CPU's program": round(stats.temp_size_in_bytes / 1e6, 1),
            "kept for the gradient, float32, one net at a time": round(images * kept["float32"] / 1e6, 1),
        },
        "operations_of_a_device": {
            "2 x MACs x 3 of the step's nets": 2 * chips.PASSES * images * per_image,
            "XLA's count of the CPU's program": compiled.cost_analysis()["flops"],
        },
        "decode": {"processor_ms_per_image": round(1e3 * image_s, 2)},
        "predictions": predictions(asked.devices, step, images),
    }
    result.show("a prediction from the partitioned program and published rates, not a measurement", facts)


if __name__ == "__main__":
    main()
