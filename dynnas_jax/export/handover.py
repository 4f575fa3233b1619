"""Whether the nets of an export fit each other, and how one goes on from what another left.

A copy of this module lies in every export folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

if __package__:
    from dynnas_jax.export import engines
else:  # lying alone in an export folder
    import engines


def check_net(model: engines.Model, told: dict) -> None:
    """Raises ValueError if a net does not read and give what the metadata of its export say."""
    wanted = {"image": model.inputs, "logits": model.outputs}
    shapes = {"image": (1, *told["image_shape"]), "logits": (1, len(told["labels"]))}
    for tensor, tensors in wanted.items():
        if tensor in tensors and tensors[tensor].shape != shapes[tensor]:
            raise ValueError(f"{model.label} has {tensor} of {tensors[tensor].shape}, not {shapes[tensor]}")
    needed, use = ("score", "route") if model.name == told.get("router") else ("logits", "answer")
    if needed not in model.outputs:
        raise ValueError(f"{model.label} has no output `{needed}`: it cannot {use}")


def chosen(scores: Sequence[float], thresholds: Sequence[float], forced: int | None = None) -> int:
    """The step that a router picks: of the highest of its scores, or the first of two where the one is above its threshold."""
    if forced is not None:
        return forced
    if not thresholds:
        return max(range(len(scores)), key=lambda step: scores[step])
    return 0 if scores[0] > thresholds[0] else 1


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
