"""Time training steps: python benchmarks/step.py [--network digits|cifar10] [--torch_python PATH] [--quick].

Forward, backward and SGD with Nesterov momentum on one batch: a single net (the largest, sliced, and masked subnets of one
genome) and the whole sandwich step, each with both depthwise forms; and the largest net in PyTorch (channels last), in
processes of their own, with one thread and with all: the ratios are to the faster of the two. All take turns, so that what
else runs on the machine meets them alike. Prints one JSON object; the ratios are the result, the times depend on the load.
`cpu_ms` is the processor time of a step, over all threads.
"""

import argparse
import dataclasses
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import result
from peer import Peer, cores, has_torch, same_costs

from dynnas_jax import devices
from dynnas_jax.costs import macs
from dynnas_jax.elastic import extract, init
from dynnas_jax.masking import mask_variables
from dynnas_jax.networks import ofa
from dynnas_jax.pipeline import keep_memory
from dynnas_jax.train import sandwich, state
from dynnas_jax.train.step import make_step

PRESETS = {
    "digits": {
        "image_size": 8,
        "channels": 1,
        "stage_widths": (16, 32, 48),
        "stage_strides": (1, 2, 1),
        "head": 64,
        "depths": (1, 2),
        "kernels": (3, 5),
        "expands": (1, 2, 4),
        "mean": (0.5,),
        "std": (0.3,),
    },
    "cifar10": {
        "image_size": 32,
        "stage_widths": (16, 24, 40),
        "stage_strides": (2, 2, 2),
        "depths": (1, 2, 3),
        "expands": (1, 2, 4),
    },
}


def single_step(net, batch, prepare=lambda variables: variables):
    """step(variables, momentum) -> the same after one batch; `prepare` makes the net's variables of the given ones."""
    images, labels = batch
    transform = optax.sgd(0.01, 0.9, nesterov=True)

    def loss(params, stats):
        variables = prepare({"params": params, "batch_stats": stats})
        (logits, _), updated = net.apply(variables, images, True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated["batch_stats"]

    def step(variables, momentum):
        gradient, stats = jax.grad(loss, has_aux=True)(variables["params"], variables["batch_stats"])
        moves, momentum = transform.update(gradient, momentum)
        return {"params": optax.apply_updates(variables["params"], moves), "batch_stats": stats}, momentum

    return jax.jit(step, donate_argnums=(0, 1)), lambda variables: (variables, transform.init(variables["params"]))


class Stepper:
    """A compiled step and its state; a call makes one warm step and times one: (seconds, processor seconds)."""

    def __init__(self, step, carry):
        start = time.perf_counter()
        self.step = step.lower(*carry).compile()
        self.compile_s = time.perf_counter() - start
        self.carry = self.step(*carry)

    def advance(self) -> None:
        self.carry = jax.block_until_ready(self.step(*self.carry))

    def __call__(self) -> tuple[float, float]:
        self.advance()
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        self.advance()
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.perf_counter() - start, cpu


def sandwich_stepper(supernet, batch, variables, key) -> Stepper:
    """The whole step of training by the sandwich rule, on one device, from these variables, which it donates."""
    transform = state.optimizer(10_000).transform
    whole = make_step(supernet, sandwich.rule(), transform, devices.data_mesh(1))

    def step(current, images, labels):
        return whole(current, images, labels, None, key)[0], images, labels

    start = state.create(variables, transform), *jax.tree.map(jnp.copy, batch)
    return Stepper(jax.jit(step, donate_argnums=(0, 1, 2)), start)


def in_precision(supernet, precision: str):
    """The supernet whose nets have activations of a dtype. Raises ValueError where they turn out to be of another."""
    if precision == "float32":
        return supernet
    made = supernet._replace(net=lambda arch: supernet.net(arch).clone(dtype=precision))
    net = made.largest_net()
    images = jax.ShapeDtypeStruct((1, net.arch.resolution, net.arch.resolution, net.arch.channels), jnp.uint8)
    (_, endpoints), _ = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x, True), images)
    found = {leaf.dtype.name for name, leaf in endpoints.items() if name != "head"}
    if found != {precision}:
        raise ValueError(f"precision is {precision}, but activations of this net are {sorted(found)}")
    return made


def random_batch(arch, batch: int) -> tuple[jax.Array, jax.Array]:
    """uint8 images for an arch, and their labels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, arch.resolution, arch.resolution, arch.channels), np.uint8)
    return jnp.asarray(images), jnp.asarray(generator.integers(0, arch.classes, batch).astype(np.int32))


def steppers(supernet, form: str, batch, genome, key) -> dict[str, Stepper]:
    """The four kinds of step of one depthwise form."""
    net = supernet.largest_net()
    fresh = init(net, key, batch[0].shape[1:])
    copy = lambda: jax.tree.map(jnp.copy, fresh)  # noqa: E731 - every step donates its own
    found = {}
    step, start = single_step(net, batch)
    found[f"largest, {form}"] = Stepper(step, start(copy()))
    subnet, own = extract(supernet, copy(), genome)
    step, start = single_step(subnet, batch)
    found[f"sliced subnet, {form}"] = Stepper(step, start(jax.tree.map(jnp.copy, own)))
    step, start = single_step(net, batch, lambda variables: mask_variables(supernet, variables, jnp.asarray(genome)))
    found[f"masked subnet, {form}"] = Stepper(step, start(copy()))
    found[f"sandwich, {form}"] = sandwich_stepper(supernet, batch, copy(), key)
    return found


def summary(samples: list[tuple[float, float]], batch: int) -> dict:
    wall, cpu = np.asarray(samples).T * 1e3
    return {
        "images_per_s": round(batch / float(np.median(wall)) * 1e3, 1),
        **result.times(wall, "ms", 2),
        "cpu_ms": round(float(np.median(cpu)), 2),
    }


def yardsticks(asked, arch, ours: dict[str, int]) -> dict[str, Peer]:
    """PyTorch's steps, none without PyTorch. Raises ValueError if its net has other MACs or params than `ours`."""
    if not has_torch(asked.torch_python):
        return {}
    found = {}
    task = {"archs": {"largest": dataclasses.asdict(arch)}, "batch": asked.batch, "precision": "float32"}
    for threads in sorted({1, cores()}):
        peer = found[f"PyTorch, largest, threads {threads}"] = Peer(asked.torch_python, "torch_net.py", task, threads)
        same_costs("torch_net.py", peer.facts["costs"], {"largest": ours})
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted(PRESETS), default="digits")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--runs", type=int, default=21, help="timed steps of each kind")
    parser.add_argument("--quick", action="store_true", help='5 runs, only the form "shifts"')
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--keep_memory", action="store_true", help="let glibc keep freed memory (Linux, process-wide)")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.keep_memory:
        keep_memory()
    runs, forms = (5, ("shifts",)) if asked.quick else (asked.runs, ("shifts", "conv"))
    supernets = {form: ofa.small_images(stem=16, depthwise=form, **PRESETS[asked.network]) for form in forms}
    supernet = supernets["shifts"]
    net, space, key = supernet.largest_net(), supernet.space, jax.random.key(0)
    batch = random_batch(net.arch, asked.batch)
    genome = np.asarray(space.sample(jax.random.key(1), 1)[0])
    steps = {}
    for form in forms:
        steps |= steppers(supernets[form], form, batch, genome, key)
    torch = yardsticks(asked, net.arch, own_costs(supernet, space.largest))
    steps |= torch
    samples = take_turns(steps, runs)
    report(asked, supernet, genome, steps, samples, torch)


def own_costs(supernet, genome) -> dict[str, int]:
    """MACs and params of a subnet."""
    net = supernet.net(supernet.arch(genome))
    shape = (net.arch.resolution, net.arch.resolution, net.arch.channels)
    params = jax.eval_shape(lambda key: init(net, key, shape)["params"], jax.random.key(0))
    return {
        "params": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "macs": macs.table(supernet).exact(genome),
    }


def take_turns(steps: dict, runs: int) -> dict[str, list]:
    """What each call says, `runs` times, one after the other."""
    samples = {name: [] for name in steps}
    for _ in range(runs):
        for name, step in steps.items():
            samples[name].append(step())
    return samples


def turn_ratio(ours: list, theirs: list) -> dict:
    """Our speed over theirs, turn by turn: both halves of a ratio met the same load."""
    turns = [other[0] / own[0] for own, other in zip(ours, theirs, strict=True)]
    told = result.ratios(turns)
    return {"by_time": told["median"], "spread": told["spread"]}


def ratios(results: dict, samples: dict, torch: dict[str, Peer]) -> dict[str, dict]:
    """Our images per second over those of PyTorch at its faster number of threads."""
    found = {}
    fastest = min(torch, key=lambda name: results[name]["median_ms"])
    least_cpu = min(results[name]["cpu_ms"] for name in torch)
    for name in (name for name in results if name.startswith("largest")):
        by_cpu = round(least_cpu / results[name]["cpu_ms"], 3)
        found[name] = {"to": fastest, **turn_ratio(samples[name], samples[fastest]), "by_cpu": by_cpu}
    return found


def report(asked, supernet, genome, steps, samples, torch) -> None:
    results = {name: summary(values, asked.batch) for name, values in samples.items()}
    for name, step in steps.items():
        if isinstance(step, Stepper):
            results[name]["compile_s"] = round(step.compile_s, 1)
    costs = macs.table(supernet)
    facts = {
        "macs": {"largest": costs.exact(supernet.space.largest), "subnet": costs.exact(genome)},
        "results": results,
        "PyTorch": next(iter(torch.values())).facts["version"] if torch else "not run",
    }
    if torch:
        facts["ratios_to_PyTorch"] = ratios(results, samples, torch)
    what = f"training steps of the {asked.network} net, batch {asked.batch}, keep_memory {asked.keep_memory}"
    result.show(what, facts)


if __name__ == "__main__":
    main()
