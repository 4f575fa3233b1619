"""What chips can do, as their makers publish it, and what a training step would take on them: predictions, not measurements.

Sources of the rates stand beside them; docs/scaling.md tells the assumptions, which are the constants below.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from hlo import Collective

# Assumptions. How much of a peak rate a layer reaches where that rate is its limit.
MATRIX_SHARE, VECTOR_SHARE, MEMORY_SHARE = 0.5, 0.5, 0.8
PASSES = 3  # of a convolution: forward, gradient of its input, gradient of its kernel
# Reads and writes of a norm's activations, unfused: mean, variance, normalise (2) forward; both sums (2 each), gradient (3) back.
NORM_PASSES = 11
OPTIMIZER_PASSES = 7  # reads of params, gradient, momentum and average; writes of all but the gradient
WIDTH_BYTES = {"float32": 4, "bfloat16": 2}  # of an activation


class Chip(NamedTuple):
    """One accelerator."""

    matrix_flops: dict[str, float]  # peak operations per second of dense products, by dtype of the activations
    tile: int  # channels are padded to a multiple of it
    vector_flops: float  # peak operations per second outside the matrix unit, float32
    memory_bytes: float
    memory_bytes_per_s: float


class Slice(NamedTuple):
    """Chips that train together."""

    chip: Chip
    devices: int
    link_bytes_per_s: float  # that a chip sends during a ring all-reduce, all its links together
    latency_s: float  # of the smallest all-reduce
    cores: float  # of a host that a chip can count on for decoding


# https://cloud.google.com/tpu/docs/v5e (197 TFLOP/s bf16, 16 GB at 819 GB/s, 2D torus, 224 vCPUs for 8 chips) and
# https://jax-ml.github.io/scaling-book/tpus (128x128 matrix unit; vector unit of 8 x 128 x 4 lanes at 1.5 GHz, float32 only;
# 45 GB/s one way a link, 1 us a hop, no wraparound below 16 chips an axis). Products of float32 run in bf16 on it, in TF32 on
# H100: https://docs.jax.dev/en/latest/201/precision.html.
V5E = Chip({"float32": 197e12, "bfloat16": 197e12}, 128, 8 * 128 * 4 * 1.5e9, 16e9, 819e9)
# https://www.nvidia.com/en-us/data-center/h100 (SXM; TF32 and bf16 without sparsity, float32 67 TFLOP/s, 80 GB at 3.35 TB/s).
H100 = Chip({"float32": 495e12, "bfloat16": 989e12}, 8, 67e12, 80e9, 3.35e12)
HOP_S = 1e-6
SLICES = {
    # 2 x 4 chips: a ring through all of them, both ways at once; corner to corner is 4 hops, there and back.
    "v5e-8": Slice(V5E, 8, 2 * 45e9, 2 * 4 * HOP_S, 14),
    # 16 x 16 chips: rings along both axes, both ways; 8 hops at most along each axis, there and back.
    "v5e-256": Slice(V5E, 256, 4 * 45e9, 2 * (8 + 8) * HOP_S, 14),
    # NVLink 450 GB/s one way, of which NCCL reaches 370 (https://github.com/NVIDIA/nccl-tests/issues/212); the latency of two
    # GPUs is 6 us (https://github.com/NVIDIA/nccl/issues/1259), that of eight is assumed. 2 x 56 cores for 8 GPUs.
    "8 x H100": Slice(H100, 8, 370e9, 10e-6, 14),
}


class Layer(NamedTuple):
    """One convolution or dense layer of a net, for one image."""

    depthwise: bool
    inputs: int  # channels or features that a product sums over, window included
    outputs: int  # channels
    macs: int
    read: int  # elements of its input
    written: int  # elements of its output
    pixels: int  # of its output
    weights: int


def layers(net: Any, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of a net, from its jaxpr for one uint8 image of `image_shape`; grouped convolutions count as depthwise."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    found = []
    for equation in _equations(jax.make_jaxpr(lambda v, x: net.apply(v, x)[0])(variables, image).jaxpr):
        if equation.primitive.name not in ("conv_general_dilated", "dot_general"):
            continue
        (left, right), out = (value.aval.shape for value in equation.invars[:2]), equation.outvars[0].aval.shape
        groups = equation.params.get("feature_group_count", 1)
        inputs, pixels = math.prod(right[:-1]), math.prod(out[1:-1])
        sizes = math.prod(left), math.prod(out), pixels, math.prod(right)
        found.append(Layer(groups > 1, inputs, out[-1], math.prod(out) * inputs, *sizes))
    return found


def _equations(jaxpr: Any):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda node: hasattr(node, "jaxpr") or hasattr(node, "eqns")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def compute_s(chip: Chip, net: list[Layer], images: int, dtype: str) -> dict[str, float]:
    """Seconds that forward and backward of a net take on one chip, by kind of layer: the slower of arithmetic and memory."""
    total, width = {"pointwise and dense": 0.0, "depthwise": 0.0, "norm and activation": 0.0}, WIDTH_BYTES[dtype]
    memory = MEMORY_SHARE * chip.memory_bytes_per_s
    for layer in net:
        moved = (images * (layer.read + layer.written) * width + 4 * layer.weights) / memory
        if layer.depthwise:
            done = 2 * images * layer.macs / (VECTOR_SHARE * chip.vector_flops)
        else:
            waste = _padded(layer.inputs, chip.tile) * _padded(layer.outputs, chip.tile) / layer.inputs / layer.outputs
            done = 2 * images * layer.macs * waste / (MATRIX_SHARE * chip.matrix_flops[dtype])
        total["depthwise" if layer.depthwise else "pointwise and dense"] += PASSES * max(done, moved)
        if layer.pixels > 1:  # those behind pooling and in squeeze-excite have no norm
            total["norm and activation"] += NORM_PASSES * images * layer.written * width / memory
    return total


def optimizer_s(chip: Chip, params: int) -> float:
    """Seconds in which params, gradient, momentum and average pass through a chip's memory."""
    return OPTIMIZER_PASSES * 4 * params / (MEMORY_SHARE * chip.memory_bytes_per_s)


def _padded(channels: int, tile: int) -> int:
    return -(-channels // tile) * tile


def collective_s(where: Slice, collective: Collective) -> float:
    """Seconds of one exchange over a ring: latency, and what a chip sends over what its links carry."""
    size, devices = collective.size_bytes, where.devices
    sent = {
        "all-reduce": 2 * (devices - 1) / devices * size,
        "all-gather": (devices - 1) / devices * size,
        "reduce-scatter": (devices - 1) * size,  # the result is one part of what is summed
        "all-to-all": (devices - 1) / devices * size,
        "collective-permute": size,
    }
    return where.latency_s + sent[collective.kind] / where.link_bytes_per_s
