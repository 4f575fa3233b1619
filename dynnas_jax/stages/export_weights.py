"""Whether the weights of what a run exports fit where they are to run, as far as that is known before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable

import jax

from dynnas_jax import elastic, kinds
from dynnas_jax.export import onnx, targets
from dynnas_jax.export.targets import MIB
from dynnas_jax.job import Job
from dynnas_jax.networks import gated_parts

BYTES = {"fp32": 4, "fp16": 2, "dynamic_range": 1, "int8": 1}  # of a kernel's number


def check(job: Job, precisions: tuple[str, ...] = ()) -> None:
    """Raises ValueError for a network with more weights than its target has room for.

    Args:
      precisions: of `targets.PRECISIONS`; () for the target's own.
    """
    target = targets.target(job.target)
    if target.memory_bytes is None:
        return
    together = alone = least(job)
    if target.onnx and job.kind is kinds.SLIMMABLE:
        alone = apart(job.supernet)
    for precision in tuple(precisions) or target.precisions:
        numbers = alone if precision in onnx.PRECISIONS else together
        if (needed := numbers * BYTES[precision]) > target.memory_bytes:
            raise ValueError(
                f"export: the network has {numbers / 1e6:.1f} million weights at least, {needed / MIB:.2f} MiB in {precision}, "
                f"which do not fit in {target.memory_bytes / MIB:.2f} MiB ({job.target}); take a smaller one, or leave the "
                "stage out of --stages"
            )


def least(job: Job) -> int:
    """How many numbers the kernels in a run's files have at least; 0 where a search decides about them."""
    supernet = job.supernet
    if job.kind is kinds.SLIMMABLE:
        if len(supernet.space.genes) > 1 or targets.target(job.target).one_file:
            return of_parts(supernet, gated_parts.every(supernet))
        return of_paths(supernet, (0, 1))  # a file for each of two paths at least; ratios ascend
    if job.kind in (*kinds.OF_NET, kinds.EXIT_NETWORK):
        shape = job.images.train.images.shape[1:]
        params = jax.eval_shape(lambda: elastic.init(supernet.largest_net(), jax.random.key(0), shape))["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    return 0


def apart(supernet: elastic.Supernet) -> int:
    """The same of ONNX files, one for each part of a slimmable network, which share nothing."""
    return sum(of_parts(supernet, [part]) for part in gated_parts.every(supernet))


def of_paths(supernet: elastic.Supernet, paths: Iterable[int]) -> int:
    """The same of some paths behind the one gate of a slimmable network, and of what stands in front of it."""
    return of_parts(supernet, (gated_parts.Part(0), *(gated_parts.Part(1, own=path) for path in paths)))


def of_parts(supernet: elastic.Supernet, parts: Iterable[gated_parts.Part]) -> int:
    """The same of parts of a slimmable network, which share what they have in common."""
    kernels: dict[str, int] = {}
    for part in parts:
        kernels |= gated_parts.kernels(supernet, part)
    return sum(kernels.values())
