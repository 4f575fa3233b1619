"""Reading arch files, of templates of spaces, of nets of several exits and of families of fixed networks.

A mistake is one plain line.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dynnas_jax.networks.template import Template


def read(template: Template, content: dict) -> dict[str, Any]:
    """The checked content of an arch file: resolution, widths as `Template.width_places`, kernels and expansions by stage.

    Raises:
      ValueError: for a missing key, a list too many or too few, or a value the network does not have.
    """
    if not isinstance(content, dict) or set(content) != {"resolution", "width", "kernel", "expand"}:
        raise ValueError('an arch file is an object with the keys "resolution", "width", "kernel" and "expand"')
    least = template.base.stem_stride * int(np.prod([stage.stride for stage in template.stages]))
    for _, specs in template.base.stages:
        least *= int(np.prod([spec.stride for spec in specs]))
    resolution = content["resolution"]
    if type(resolution) is not int or resolution < least:
        raise ValueError(f"arch file: resolution is {resolution!r}, must be an integer of at least {least}")
    width = _widths(template, content["width"])
    kernel, expand = (_blockwise(template, what, content[what]) for what in ("kernel", "expand"))
    for i, (kernels, expands) in enumerate(zip(kernel, expand, strict=True), 1):
        if len(kernels) != len(expands):
            raise ValueError(f"arch file: stage {i} has {len(kernels)} kernels but {len(expands)} expansions")
    return {"resolution": resolution, "width": width, "kernel": kernel, "expand": expand}


def _widths(template: Template, width: Any) -> list[float]:
    """An arch file's widths, one per place; a single number stands for all where all have the same choices."""
    named = template.named_width
    if named is not None:
        if isinstance(width, bool) or width != named:
            raise ValueError(f"arch file: width is {width!r}, but this network's is {named}")
        return [1.0] * len(template.width_places())
    places = {name.removesuffix(".width").replace("stage", "stage "): c for name, c in template.width_places().items()}
    width = [width] * len(places) if template.widths and not isinstance(width, list) else width
    if not isinstance(width, list) or len(width) != len(places):
        raise ValueError(f"arch file: width must be {len(places)} numbers ({', '.join(places)}), got {width!r}")
    return [
        _chosen("width", where, value, choices) for (where, choices), value in zip(places.items(), width, strict=True)
    ]


def _blockwise(template: Template, what: str, lists: Any) -> list[list[int]]:
    """An arch file's kernels or expansions: one list per stage, as long as the stage is deep; else ValueError."""
    count = len(template.stages)
    if not isinstance(lists, list) or not all(isinstance(values, list) for values in lists) or len(lists) != count:
        raise ValueError(f"arch file: {what} must be {count} lists, one per stage, got {lists!r}")
    found = []
    for i, (values, stage) in enumerate(zip(lists, template.stages, strict=True), 1):
        if len(values) not in stage.depths:
            raise ValueError(
                f"arch file: {what} of stage {i} has {len(values)} entries, choose a depth from {list(stage.depths)}"
            )
        found.append([_chosen(what, f"stage {i}", value, template.choices(i, f"{what}s")) for value in values])
        if template.alike and len(set(found[-1])) > 1:
            raise ValueError(f"arch file: {what} of stage {i} is {values}, must be the same in all blocks of a stage")
    return found


def _chosen(what: str, where: str, value: Any, choices: tuple) -> Any:
    """The choice equal to a value (3 for a file's 3.0), else ValueError."""
    if isinstance(value, bool) or value not in choices:
        raise ValueError(f"arch file: {what} {value!r} in {where}, choose from {list(choices)}")
    return choices[choices.index(value)]


def read_exits(content: Any, exits: int) -> tuple[Any, list[list], list[list]]:
    """(resolution, kernels, ratios) of an arch file of a net of so many exits: of each exit lists of numbers, one per stage.

    Which stages there are, and what they have to choose, is not looked at.

    Raises:
      ValueError: for a key missing or unknown, a file of more or fewer exits, or what are no lists of numbers.
    """
    if not isinstance(content, dict) or set(content) != {"resolution", "kernel", "ratio"}:
        raise ValueError(
            'an arch file of a net of several exits is an object with the keys "resolution", "kernel" and "ratio"'
        )
    for what in ("kernel", "ratio"):
        lists = content[what]
        if not isinstance(lists, (list, tuple)) or len(lists) != exits:
            there = f"of {len(lists)} exits" if isinstance(lists, (list, tuple)) else repr(lists)
            raise ValueError(f"{what} is {there}, must be of {exits}: a list for each stage of each exit")
        for exit, stages in enumerate(lists, 1):
            if not _numbers_by_stage(stages):
                raise ValueError(f"exit {exit}: {what} is {stages!r}, must be lists of numbers, one per stage")
    return content["resolution"], content["kernel"], content["ratio"]


def _numbers_by_stage(stages: Any) -> bool:
    sequences = isinstance(stages, (list, tuple)) and all(isinstance(values, (list, tuple)) for values in stages)
    return sequences and all(type(value) in (int, float) for values in stages for value in values)


# Families of fixed networks.

_OF_IMAGES = {"channels": int, "mean": tuple[float, ...], "std": tuple[float, ...]}  # that every arch has


def keyword_arguments(
    function: Callable, content: dict, passed_on: Mapping[str, inspect.Parameter] | None = None
) -> dict[str, Any]:
    """An arch file's content as what `function` takes: lists become tuples, what is left out has its default.

    Args:
      passed_on: what it takes beside its own parameters.

    Raises:
      ValueError: for a key that is no keyword argument of the function, or a value of another type than it names.
    """
    parameters = (*inspect.signature(function, eval_str=True).parameters.values(), *(passed_on or {}).values())
    kinds = {
        parameter.name: parameter.annotation for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
    }
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        kinds = _OF_IMAGES | kinds
    if not isinstance(content, dict):
        raise ValueError(f"arch file: must be an object with keys of {list(kinds)}")
    for name in content:
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.0)
            raise ValueError(f"arch file: unknown key {name!r}, did you mean {near[0]!r}? Known: {', '.join(kinds)}")
    return {name: _typed(name, value, kinds[name]) for name, value in content.items()}


def _typed(name: str, value: Any, annotation: Any) -> Any:
    """A value of JSON as one of the annotation's types; else ValueError."""
    union = isinstance(annotation, types.UnionType)
    kinds = typing.get_args(annotation) if union else (annotation,)
    for kind in kinds:
        if typing.get_origin(kind) is tuple and isinstance(value, list):
            with contextlib.suppress(ValueError):
                return tuple(_typed(name, item, typing.get_args(kind)[0]) for item in value)
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
    raise ValueError(f"arch file: {name} is {value!r}, must be {' or '.join(_in_words(kind) for kind in kinds)}")


def _in_words(kind: Any, several: bool = False) -> str:
    if typing.get_origin(kind) is tuple:
        return f"{'lists' if several else 'a list'} of {_in_words(typing.get_args(kind)[0], several=True)}"
    if several:
        return {int: "integers", float: "numbers"}.get(kind, "values")
    return {int: "an integer", float: "a number", str: "a string", bool: "true or false"}.get(kind, "null")
