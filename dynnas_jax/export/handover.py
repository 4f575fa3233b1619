"""Whether the nets of an export fit each other, and how one goes on from what another left.

A copy of this module lies in every export folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

if __package__:
    from dynnas_jax.export import engines, metadata
else:  # lying alone in an export folder
    import engines
    import metadata


def check_net(model: engines.Model, told: dict) -> None:
    """Raises ValueError if a net does not read and give what the metadata of its export say."""
    wanted = {"image": model.inputs, "logits": model.outputs}
    shapes = {"image": (1, *told["image_shape"]), "logits": (1, len(told["labels"]))}
    for tensor, tensors in wanted.items():
        if tensor in tensors and tensors[tensor].shape != shapes[tensor]:
            raise ValueError(f"{model.label} has {tensor} of {tensors[tensor].shape}, not {shapes[tensor]}")
    leads = model.name == told.get("router") or model.name in metadata.routes(told)
    needed, use = ("score", "route") if leads else ("logits", "answer")
    if needed not in model.outputs:
        raise ValueError(f"{model.label} has no output `{needed}`: it cannot {use}")


def check_router(model: engines.Model) -> None:
    """Raises ValueError if a net that is to run first reads anything but the image."""
    if set(model.inputs) != {"image"}:
        raise ValueError(f"{model.label} takes {', '.join(model.inputs) or 'nothing'}, not the image alone")


class Gates:
    """Nets of which each but the last ones scores what may follow it; the best is run, until one answers."""

    def __init__(self, first: engines.Model, nets: Sequence[engines.Model], routes: dict[str, list[str]]) -> None:
        """Raises ValueError where a net does not read what those before it give, or does not score all that follow it."""
        known = {net.name: net for net in (first, *nets)}
        self._first = first
        self._following = {
            name: [(known[other], sources(known[other], [known[name]])) for other in names]
            for name, names in routes.items()
        }
        for name, names in routes.items():
            if (found := math.prod(known[name].outputs["score"].shape)) != len(names):
                raise ValueError(f"{known[name].label} gives {found} scores for the {len(names)} nets that follow it")

    def run(self, image: np.ndarray) -> tuple[np.ndarray, list[float], tuple[str, ...]]:
        """(logits[C], the score of each net that was picked, their names) of an image."""
        model, inputs = self._first, {"image": self._first.store("image", image)}
        scores: list[float] = []
        names: list[str] = []
        while True:
            outputs = model.invoke(inputs)
            if model.name not in self._following:
                return model.real("logits", outputs["logits"])[0], scores, tuple(names)
            told = model.real("score", outputs["score"]).reshape(-1)
            best = int(told.argmax())
            scores.append(float(told[best]))
            model, plan = self._following[model.name][best]
            names.append(model.name)
            inputs = {
                name: model.store("image", image) if pass_on is None else pass_on(outputs[name])
                for name, pass_on in plan.items()
            }


def check_scores(steps: Sequence[engines.Model]) -> None:
    """Raises ValueError for a step that does not score itself where the policy asks for that."""
    for model in steps:
        if "score" not in model.outputs:
            raise ValueError(f"{model.label} has no output `score`, which the policy asks for")


def sources(model: engines.Model, before: Sequence[engines.Model]) -> dict[str, Callable | None]:
    """How each input of a net is made of the outputs of those before it; None for the image itself.

    Raises: ValueError for an input that none of them gives.
    """
    found = {}
    for name, taken in model.inputs.items():
        giver = next((step for step in reversed(before) if name in step.outputs), None)
        if name == "image":
            found[name] = None
        elif giver is None or giver.outputs[name].shape != taken.shape:
            raise ValueError(f"{model.label} takes {name} of {taken.shape}, which no step before it gives")
        else:
            found[name] = engines.passing(giver.outputs[name], taken)
    return found
