"""Compare imported weights with the original code: python benchmarks/imported_weights.py --original_python PATH [NAME...].

PATH is a Python with torch, once-for-all and timm. For each net (all full-size ones by default) `original_nets.py` writes
random weights with random statistics and the answers at 224 pixels; they are loaded here and the same images answered. Prints a
table: the largest absolute logit and the largest difference, of the net and of random once-for-all subnets with their kernels
transformed; then, as JSON, what it was made with.
"""

import argparse
import functools
import json
import subprocess
import tempfile
from pathlib import Path

import jax
import numpy as np
import result

from dynnas_jax.elastic import Supernet, slice_variables
from dynnas_jax.networks import NETWORKS, weights

SPACES = {
    "ofa_mobilenet_v3_w1.0": ("ofa_mobilenet_v3", {"width": 1.0}),
    "ofa_mobilenet_v3_w1.2": ("ofa_mobilenet_v3", {"width": 1.2}),
    "ofa_proxyless_w1.3": ("ofa_proxyless", {"width": 1.3}),
}
FIXED = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0")
FROM_TENSORFLOW = ("tf_mobilenet_v3_large", "tf_efficientnet_b0")


@functools.partial(jax.jit, static_argnums=0)
def answer(net, variables, images):
    return net.apply(variables, images)[0]


def subnet_archs(supernet: Supernet, answers: dict):
    """The archs of the subnets that the original answered with."""
    most = [max(stage.depths) for stage in supernet.arch.template.stages]
    starts = np.cumsum([0, *most[:-1]])
    genes = (answers[f"subnet_{name}"] for name in ("kernel", "expand", "depth"))
    for kernel, expand, depth in zip(*genes, strict=True):
        lists = [
            [values[start : start + d].tolist() for start, d in zip(starts, depth, strict=True)]
            for values in (kernel, expand)
        ]
        yield supernet.arch.from_file({"resolution": 224, "width": 1.0, "kernel": lists[0], "expand": lists[1]})


def compare(folder: Path, name: str) -> str:
    """One row of the table."""
    with np.load(folder / f"{name}_answers.npz") as file:
        answers = dict(file)
    known, options = SPACES.get(name, (name.removeprefix("tf_"), {}))
    conventions = {"padding": "SAME", "epsilon": 1e-3} if name in FROM_TENSORFLOW else {}
    network = NETWORKS[known](**options, **({"kernel_transforms": True} if name in SPACES else {}))
    network, variables = weights.load(folder / f"{name}.npz", network, **conventions)
    is_space = isinstance(network, Supernet)
    net = network.largest_net() if is_space else network
    found = np.asarray(answer(net.clone(depthwise="shifts"), variables, answers["images"]))
    row = [name, f"{np.abs(answers['logits']).max():.1f}", f"{np.abs(found - answers['logits']).max():.1e}"]
    off = []
    for arch, logits in zip(subnet_archs(network, answers), answers["subnet_logits"], strict=True) if is_space else ():
        own = slice_variables(network, variables, arch)
        subnet = network.net(arch).clone(depthwise="shifts")
        off.append(np.abs(np.asarray(answer(subnet, own, answers["images"])) - logits).max())
    return f"| {' | '.join([*row, f'{max(off):.1e}' if off else ''])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original_python", required=True)
    parser.add_argument("names", nargs="*", default=[*SPACES, *FIXED, *FROM_TENSORFLOW])
    known = parser.parse_args()
    script = Path(__file__).with_name("original_nets.py")
    print("| net | largest logit | largest difference | of two random subnets |\n|---|---|---|---|")
    for name in known.names:
        with tempfile.TemporaryDirectory() as folder:
            command = [known.original_python, script, folder, name]
            versions = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            print(compare(Path(folder), name), flush=True)
    result.show("imported weights against the original code", {"original": json.loads(versions)})


if __name__ == "__main__":
    main()
