"""What the report of a dynamic slimmable network says of how it was trained, in the words of its config."""

from __future__ import annotations

import inspect
from collections.abc import Callable


def supernet(config: dict) -> str:
    """Of stage I: what each path learns from."""
    from dynnas_jax.train import bootstrapping

    asked = _filled(bootstrapping.rule, config["train"].get("bootstrapping"))
    weights = "averaged weights" if asked["target"] == "ema" else "the same weights"
    narrowest = "the mean of all these" if asked["ensemble"] else "the same"
    if count := asked["random_paths"]:
        others = f"{count} random one{'s' if count > 1 else ''} what {weights} of the widest say, and the narrowest {narrowest}"
    else:
        others = f"and the narrowest what {weights} of the widest say"
    return f"At each step the widest path learns the labels, {others}. Held-out accuracies are of the ends."


def gates(config: dict) -> str:
    """Of stage II: what the gates learn from."""
    from dynnas_jax.train import sparsification

    frozen = "The supernet is frozen."
    if not config["gate"]["steps"]:
        return f"{frozen} The gates were not trained: they are as they started."
    asked = _filled(sparsification.check, config["gate"].get("sparsification"))
    hard = "" if asked["hard"] == "try_best" else "; what the widest gets wrong belongs to the narrowest"
    dynamic = config.get("dynamic") or {}
    target = any(dynamic.get(name) is not None for name in ("target_macs", "target_macs_fraction"))
    cost = "how far what images cost is from the average that was asked for" if target else "what an image costs"
    known = {
        "classification": "from the labels",
        "complexity": f"from {cost}",
        "sandwich": f"from where the ends of the supernet say that it belongs{hard}",
    }
    *before, last = [words for name, words in known.items() if asked[name]]
    return f"{frozen} The gates learn {', '.join(before)}{', and ' if before else ''}{last}."


def _filled(function: Callable, given: dict | None) -> dict:
    """The options given, and the defaults of the others."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()} | (
        given or {}
    )
