"""Time our training step and search beside others': python benchmarks/peers.py --torch_python=PYTHON [--ofa=CHECKOUT] [--quick].

The sandwich step of once-for-all's MobileNetV3 space (largest, smallest, two random subnets, in-place distillation) in this
library, in plain PyTorch, and on once-for-all's own layers; and once-for-all's own step (a teacher's forward pass, 4 random
subnets). Then evolution, 100 genomes x 500 generations with a 3 x 400 predictor, theirs against ours. All take turns; all
count the same MACs and params for the same archs, or nothing is timed. CPU, or the GPU where both sides see one.

`--torch_python` is an interpreter with PyTorch, and for `--ofa`, a checkout of github.com/mit-han-lab/once-for-all, with
torchvision, tqdm and PyYAML too; what is missing is reported as "not run". Prints one JSON object. Where the compiled step is
to be kept between runs, set JAX_COMPILATION_CACHE_DIR.
"""

import argparse
import dataclasses
import os
import sys
import time

# Another process wants memory of the same GPU; read when JAX starts.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import result
import step
from evolution import GENERATIONS, POPULATION, searcher
from peer import Peer, has_torch, same_costs

from dynnas_jax.costs import macs
from dynnas_jax.elastic import init
from dynnas_jax.networks import ofa
from dynnas_jax.pipeline import keep_memory

WIDTH, DRAWS = 1.0, 8  # the space's width; steps before the random subnets of a yardstick repeat


def build(resolutions: tuple[int, ...], precision: str = "float32", depthwise: str = "auto"):
    """The supernet, computing in a precision."""
    supernet = ofa.ofa_mobilenet_v3(width=WIDTH, resolutions=resolutions, depthwise=depthwise)
    return step.in_precision(supernet, precision)


def yardsticks(asked, supernet) -> dict[str, Peer]:
    """The peers' training steps. Raises ValueError if their nets have other MACs or params than ours."""
    if not has_torch(asked.torch_python):
        return {}
    space = supernet.space
    ends = {"largest": space.largest, "smallest": space.smallest}
    ours = {name: step.own_costs(supernet, genome) for name, genome in ends.items()}
    pairs = np.asarray(space.sample(jax.random.key(1), 2 * DRAWS)).reshape(DRAWS, 2, -1)
    shared = {"batch": asked.batch, "precision": asked.precision}
    archs = {name: dataclasses.asdict(supernet.arch(genome)) for name, genome in ends.items()}
    random = [[dataclasses.asdict(supernet.arch(genome)) for genome in pair] for pair in pairs]
    tasks = {"plain PyTorch": ("torch_net.py", {**shared, "archs": archs, "random": random})}
    if asked.ofa:
        files = {name: supernet.arch.file(genome) for name, genome in ends.items()}
        random = [[supernet.arch.file(genome) for genome in pair] for pair in pairs]
        facts = {"ofa": asked.ofa, "width": WIDTH, "classes": 1000, "resolution": asked.resolution, "files": files}
        for what, name in (("own", "once-for-all, its own step"), ("sandwich", "once-for-all's layers, our rule")):
            for last in (False, True):
                task = {**shared, **facts, "what": what, "random": random, "channels_last": last}
                tasks[f"{name}, {'channels last' if last else 'as it is'}"] = ("once_for_all.py", task)
    found = {}
    for name, (script, task) in tasks.items():
        found[name] = Peer(asked.torch_python, script, task)
        same_costs(script, found[name].facts["costs"], ours)
    return found


def training(asked) -> dict:
    """Images per second of every step, and the ratios of ours to each."""
    supernet = build((asked.resolution,), asked.precision, asked.depthwise)
    arch, key = supernet.largest_net().arch, jax.random.key(0)
    batch = step.random_batch(arch, asked.batch)
    peers = yardsticks(asked, supernet)
    ours = step.sandwich_stepper(supernet, batch, init(supernet.largest_net(), key, batch[0].shape[1:]), key)
    samples = step.take_turns({"ours": ours, **peers}, asked.runs)
    results = {name: step.summary(values, asked.batch) for name, values in samples.items()}
    results["ours"]["compile_s"] = round(ours.compile_s, 1)
    for name, peer in peers.items():
        if "step_macs_per_image" in peer.facts:
            results[name]["step_macs_per_image"] = peer.facts["step_macs_per_image"]
    ends = {"largest": supernet.space.largest, "smallest": supernet.space.smallest}
    return {
        "what": f"sandwich step, ofa_mobilenet_v3 at {asked.resolution} pixels, batch {asked.batch}, {asked.precision}",
        "costs": {name: step.own_costs(supernet, genome) for name, genome in ends.items()},
        "results": results,
        "ratio_of_ours": {name: step.turn_ratio(samples["ours"], samples[name]) for name in peers},
        "PyTorch": next(iter(peers.values())).facts if peers else "not run",
        "once-for-all": "run" if asked.ofa and peers else "not run",
    }


def timed(search, key, budget) -> float:
    start = time.perf_counter()
    jax.block_until_ready(search(key, budget))
    return time.perf_counter() - start


def evolution(asked) -> dict:
    """Seconds of one search, ours and theirs, under the same MACs budget, with as many evaluations."""
    supernet = build(ofa.OFA_RESOLUTIONS)
    space, cost = supernet.space, macs.table(supernet)
    low, high = cost.exact(space.smallest), cost.exact(space.largest)
    budget = low + (high - low) // 3
    search = jax.jit(searcher(space, cost, asked.generations))
    timed(search, jax.random.key(0), jnp.float32(budget))
    genomes = {"largest": space.largest, "smallest": space.smallest}
    genomes |= {f"random {i}": np.asarray(genome) for i, genome in enumerate(space.sample(jax.random.key(1), 8))}
    facts = {
        "what": f"evolution, {POPULATION} genomes x {asked.generations} generations, MACs at most {budget}",
        "ours_s": [round(timed(search, jax.random.key(i), jnp.float32(budget)), 3) for i in range(1, 6)],
        "theirs_s": "not run",
    }
    if not (asked.ofa and has_torch(asked.torch_python)):
        return facts
    task = {
        **{"what": "evolution", "ofa": asked.ofa, "width": WIDTH, "classes": 1000, "budget": budget},
        **{"population": POPULATION, "generations": asked.generations, "resolutions": list(ofa.OFA_RESOLUTIONS)},
        "files": {name: supernet.arch.file(genome) for name, genome in genomes.items()},
    }
    # Their nets are small: one thread is faster than several.
    peer = Peer(asked.torch_python, "once_for_all.py", task, threads=1)
    same_costs("once_for_all.py", peer.facts["costs"], {name: cost.exact(g) for name, g in genomes.items()})
    turns = [(timed(search, jax.random.key(i), jnp.float32(budget)), peer()[0]) for i in range(asked.searches)]
    ratios = [theirs / ours for ours, theirs in turns]
    return {
        **facts,
        "ours_s": [round(ours, 3) for ours, _ in turns],
        "theirs_s": [round(theirs, 2) for _, theirs in turns],
        "times_faster": result.ratios(ratios, 1),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--ofa", help="a checkout of once-for-all")
    parser.add_argument("--what", nargs="+", choices=("training", "evolution"), default=["training", "evolution"])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of both sides")
    parser.add_argument("--depthwise", choices=("auto", "conv", "shifts"), default="auto", help="our form")
    parser.add_argument("--runs", type=int, default=9, help="timed steps of each kind")
    parser.add_argument("--searches", type=int, default=3, help="timed searches of each")
    parser.add_argument("--generations", type=int, default=GENERATIONS)
    parser.add_argument("--quick", action="store_true", help="2 steps of 4 images, a search of 20 generations")
    asked = parser.parse_args()
    if asked.quick:
        asked.runs, asked.batch, asked.generations, asked.searches = 2, 4, 20, 1
    return asked


def main() -> None:
    asked = arguments()
    keep_memory()
    found = {what: {"training": training, "evolution": evolution}[what](asked) for what in asked.what}
    result.show(f"{' and '.join(asked.what)} beside PyTorch and once-for-all", found)


if __name__ == "__main__":
    main()
