"""Spaces restricted to what a device runs well, before anything is built: kernels, activations, squeeze-excite."""

from __future__ import annotations

import dataclasses

from dynnas_jax.elastic import Supernet
from dynnas_jax.export.targets import Target
from dynnas_jax.networks.mbconv import Arch
from dynnas_jax.networks.template import Stage, Template, build


def restricted(supernet: Supernet, target: Target) -> Supernet:
    """The supernet with only what its target runs well; itself where that is all of it.

    Kernels that the target runs badly are no choices, activations are replaced, squeeze-excite is left out. Genes, cost tables,
    arch files and the fingerprint follow.

    Raises:
      ValueError: where no kernel is left, or a block that all subnets share has one that the target runs badly.
    """
    if not hasattr(supernet.arch, "template"):  # residual and slimmable nets: lint tells what of their files is wrong
        return supernet
    whole: Template = supernet.arch.template
    template = dataclasses.replace(
        whole,
        base=_base(whole.base, target),
        stages=tuple(_stage(stage, target) for stage in whole.stages),
        kernels=_kernels(whole.kernels, target),
    )
    # Equality leaves nothing out, though the repr of a template does.
    return supernet if template == whole else build(template, supernet.largest_net().depthwise, supernet.transforms)


def _stage(stage: Stage, target: Target) -> Stage:
    return dataclasses.replace(
        stage,
        act=_activation(stage.act, target),
        se=stage.se and target.space.squeeze_excite,
        kernels=_kernels(stage.kernels, target),
    )


def _base(base: Arch, target: Target) -> Arch:
    """What all subnets share; its blocks are the fixed ones in front of the elastic ones."""
    stages = []
    for name, specs in base.stages:
        for spec in specs:
            _kernels((spec.kernel,), target)
        blocks = (
            dataclasses.replace(
                spec, act=_activation(spec.act, target), se=spec.se if target.space.squeeze_excite else 0
            )
            for spec in specs
        )
        stages.append((name, tuple(blocks)))
    names = ("stem_act", "head_act", *(("se_act",) if target.space.squeeze_excite else ()))
    acts = {name: _activation(getattr(base, name), target) for name in names}
    return dataclasses.replace(base, stages=tuple(stages), **acts)


def _activation(act: str, target: Target) -> str:
    known = target.space.activations
    return act if not known or act in known else known[0]


def _kernels(kernels: tuple[int, ...], target: Target) -> tuple[int, ...]:
    known = target.space.kernels
    left = tuple(kernel for kernel in kernels if not known or kernel in known)
    if kernels and not left:
        raise ValueError(
            f"target {target.name} runs kernels {' and '.join(map(str, known))} well, the space has only {list(kernels)}: "
            "give it others, or choose another target"
        )
    return left
