"""How much larger a TFLite file of every exit's increment is than one of the whole net; prints JSON.

    python benchmarks/exit_file.py [--config=configs/enas4d_cifar10.py] [--image_size=32] [--classes=10]

A random net of the recipe's space, untrained: `exits` has a signature for each exit, which goes on from what the one before left;
`whole` has one, which answers at all exits. Both fp32.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import result

from dynnas_jax import job, settings
from dynnas_jax.dynamic import protocol
from dynnas_jax.elastic import extract, init_supernet
from dynnas_jax.export import flatbuffer, functions, tflite
from dynnas_jax.networks import multi_costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/enas4d_cifar10.py")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10)
    options = parser.parse_args()
    figures = compared(options.config, options.image_size, options.classes)
    result.show(f"fp32 TFLite files of a net of {options.config}", figures, packages=("tensorflow-cpu",))


def compared(config: str, image_size: int, classes: int) -> dict:
    """Cumulative MACs of a random net's exits, bytes of both files, and their ratio."""
    shape = (image_size, image_size, 3)
    moments = {"mean": [0.5] * 3, "std": [0.25] * 3}
    facts = {"image_shape": list(shape), "classes": [str(i) for i in range(classes)], **moments}
    supernet = job.build(settings.as_dict(settings.load([f"--config={config}"])), facts)
    variables = init_supernet(supernet, jax.random.key(0), shape)
    genome = multi_costs.settled(supernet, np.asarray(supernet.space.sample(jax.random.key(1))))
    net, own = extract(supernet, variables, genome)
    net = net.clone(depthwise="conv")
    dynamic = protocol.multi_exit(net)
    steps = dict(zip(supernet.exits, dynamic.steps, strict=True))
    whole = functions.single(lambda images: jnp.concatenate(supernet.answers(net.apply(own, images))), shape)
    sizes = {"exits": size_bytes(functions.from_steps(steps, own, shape)), "whole": size_bytes(whole)}
    return {"macs": dynamic.cost, "size_bytes": sizes, "exits_over_whole": sizes["exits"] / sizes["whole"]}


def size_bytes(network: functions.Network) -> int:
    """Of a file of all functions of a network."""
    signatures = {name: tflite.Signature(one.call, one.shapes) for name, one in network.functions.items()}
    with tempfile.TemporaryDirectory() as folder, tflite.saved(signatures) as traced:
        path = Path(folder) / "net.tflite"
        traced.write(path, precision="fp32")
        return flatbuffer.size_bytes(path)


if __name__ == "__main__":
    main()
